#!/bin/sh
# Verify what run_line.sh left, on a machine that has nothing but the bundle, a public key and the installed package.
#
#   verify_bundle.sh BUNDLE [PUBLIC_KEY.pem]
#
# Needs `pip install forge-pipeline` alone: no torch, no Dagster, no network. Exit codes are those of `forge verify`:
# 0 if every check held, 6 if one did not, 1 if there is nothing to verify. The bundle's own verify_bundle.py is not
# used: a verifier that comes with the evidence proves nothing about it.
#
# With a key, the bundle's audit log must carry signatures of it. Without, the log is checked for consistency only.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 BUNDLE [PUBLIC_KEY.pem]" >&2
  exit 1
fi
python=${PYTHON:-python3}

"$python" -m forge_pipeline.cli.main verify bundle "$1"
if [ $# -eq 2 ]; then
  "$python" -m forge_pipeline.cli.main verify log "$1/audit_log.jsonl" --public-key "$2"
else
  "$python" -m forge_pipeline.cli.main verify log "$1/audit_log.jsonl"
fi
