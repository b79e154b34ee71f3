#!/bin/sh
# Run one line in CI and leave its evidence in a directory that the CI system keeps.
#
#   deploy/ci/run_line.sh LINE [DIRECTORY]         from the root of the checkout
#
# Exit codes are those of `dagster asset materialize`: 0 if every stage and blocking check passed, 1 if a stage failed or
# a gate stopped the line (the last line on stderr says which), 2 for wrong arguments. Whatever the code, DIRECTORY
# (default: artefacts) then holds audit_log/ and, if this run wrote one, bundle/: a run that a gate stopped leaves the
# record of why.
#
# PYTHON names the interpreter, FORGE_HOME and DAGSTER_HOME where things are kept (default: .forge in the checkout).
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 LINE [DIRECTORY]" >&2
  exit 2
fi
line=$1
out=${2:-artefacts}
python=${PYTHON:-python3}
here=$(dirname "$0")

# A name that is unset would make Dagster use a temporary instance, and the history would end with the job.
FORGE_HOME=${FORGE_HOME:-$PWD/.forge}
DAGSTER_HOME=${DAGSTER_HOME:-$FORGE_HOME/dagster}
export FORGE_HOME DAGSTER_HOME

mkdir -p "$DAGSTER_HOME" "$out"
if [ -n "$(ls -A "$out")" ]; then
  echo "$out is not empty; evidence of two runs would be mixed. Name another directory" >&2
  exit 2
fi
[ -f "$DAGSTER_HOME/dagster.yaml" ] || cp "$here/../dagster.yaml" "$DAGSTER_HOME/dagster.yaml"

bundle=$FORGE_HOME/latest/$line/annex_iv_bundle
before=$(readlink "$bundle" 2>/dev/null || true)

# Parallel first use of a new SQLite home would corrupt it; this makes the databases once.
"$python" -m dagster instance migrate >/dev/null

code=0
"$python" -m dagster asset materialize -m assets.definitions --select "group:$line" || code=$?

if [ -d "$FORGE_HOME/audit_log/$line" ]; then
  cp -R "$FORGE_HOME/audit_log/$line" "$out/audit_log"
  rm -f "$out"/audit_log/vault.sqlite* # personal fields stay where they are
fi
after=$(readlink "$bundle" 2>/dev/null || true)
if [ -n "$after" ] && [ "$after" != "$before" ]; then
  cp -RL "$bundle" "$out/bundle"
  chmod -R u+w "$out/bundle"
fi
exit "$code"
