#!/usr/bin/env python3
"""Check this bundle with nothing but Python 3.10 or later: python verify_bundle.py [directory]

What is checked:
  (1) annex_iv.json carries the digest of its own other members;
  (2) the files in the directory are exactly those it lists, byte for byte;
  (3) the reports under evidence/ are the files that the artefacts' manifests list;
  (4) each line of audit_log.jsonl names the hash of the line before, and all lines
      together have the Merkle root (RFC 9162) that annex_iv.json and the checkpoint name;
  (5) the points marked missing are exactly those listed as missing.

What is not: signatures (Python alone has no Ed25519), whether the documents follow from
the evidence (`forge verify annex-iv` derives them again), and whether the whole bundle was
made anew. For the last, compare the manifest hash printed here with one kept elsewhere.

Exit status: 0 all checks held, 6 one did not, 1 this is not a bundle.
"""

import base64
import hashlib
import json
import os
import sys
from typing import Any

COPIES = {
    "raw_dataset": {"provenance.json": "dataset_provenance.json"},
    "tokenized_dataset": {"summary.json": "tokenization_summary.json"},
    "fine_tuned_model": {"forge_model.json": "model_record.json", "training_report.json": "training_report.json"},
    "gguf_model": {"export_report.json": "export_report.json"},
}


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def read(*parts: str) -> bytes:
    with open(os.path.join(*parts), "rb") as file:
        return file.read()


def file_digest(path: str) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest()


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a JSON object names a key twice")
    return result


def check_hash(raw: bytes, manifest: dict[str, Any]) -> list[str]:
    """(1) The manifest's bytes without the one member `manifest_hash`."""
    stored = manifest.get("manifest_hash")
    member = b'"manifest_hash":"' + str(stored).encode() + b'",'
    if raw.count(member) != 1:
        return ["manifest_hash is missing, or stands there more than once"]
    actual = sha256(raw.replace(member, b""))
    return [] if actual == stored else [f"manifest_hash is {stored}, but the manifest has {actual}"]


def files_in(directory: str) -> dict[str, str | None]:
    """Every file but the manifest: path -> full path; a link or special file is None."""
    found: dict[str, str | None] = {}
    for parent, folders, names in os.walk(directory):
        for name in folders + names:
            full = os.path.join(parent, name)
            path = os.path.relpath(full, directory).replace(os.sep, "/")
            if os.path.islink(full) or not (os.path.isfile(full) or os.path.isdir(full)):
                found[path] = None
            elif os.path.isfile(full):
                found[path] = full
    found.pop("annex_iv.json", None)
    return found


def check_files(directory: str, manifest: dict[str, Any]) -> list[str]:
    """(2)"""
    found, problems = files_in(directory), []
    listed = {entry["path"]: entry for entry in manifest["files"]}
    if len(listed) != len(manifest["files"]):
        problems.append("a file is listed twice")
    problems += [f"{path} is missing" for path in sorted(set(listed) - set(found))]
    problems += [f"{path} is not listed" for path in sorted(set(found) - set(listed))]
    for path in sorted(set(found) & set(listed)):
        full, entry = found[path], listed[path]
        if full is None:
            problems.append(f"{path} is a link or a special file")
        elif os.path.getsize(full) != entry["size"] or file_digest(full) != entry["digest"]:
            problems.append(f"{path} was changed")
    return problems


def check_evidence(directory: str, manifest: dict[str, Any]) -> list[str]:
    """(3)"""
    manifests = json.loads(read(directory, "evidence", "manifests.json"), object_pairs_hook=no_duplicates)
    problems = []
    for asset, listing in manifests.items():
        text = json.dumps(listing["entries"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if sha256(text.encode()) != manifest["subjects"].get(asset):
            problems.append(f"evidence/manifests.json does not list the files of {asset}")
        digests = {entry["path"]: entry["digest"] for entry in listing["entries"]}
        for source, copy in COPIES.get(asset, {}).items():
            if digests.get(source) != file_digest(os.path.join(directory, "evidence", copy)):
                problems.append(f"evidence/{copy} is not the {source} of {asset}")
    record = json.loads(read(directory, "evidence", "model_record.json"))
    for member, asset in (("dataset_digest", "raw_dataset"), ("tokenized_digest", "tokenized_dataset")):
        if record.get(member) != manifest["subjects"].get(asset):
            problems.append(f"the model was trained on another {asset}")
    return problems


def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 9162 2.1.1 over leaf hashes."""
    stack: list[tuple[int, bytes]] = []  # (size of the perfect subtree, its root)
    for leaf in leaves:
        size, node = 1, leaf
        while stack and stack[-1][0] == size:
            node = hashlib.sha256(b"\x01" + stack.pop()[1] + node).digest()
            size *= 2
        stack.append((size, node))
    root = stack.pop()[1] if stack else hashlib.sha256(b"").digest()
    while stack:
        root = hashlib.sha256(b"\x01" + stack.pop()[1] + root).digest()
    return root


def check_log(directory: str, manifest: dict[str, Any]) -> list[str]:
    """(4)"""
    anchor, path = manifest["audit_log"], os.path.join(directory, "audit_log.jsonl")
    if anchor is None:
        return ["audit_log.jsonl is there, but the manifest names no log"] if os.path.exists(path) else []
    lines = read(path).split(b"\n")
    if lines.pop() != b"":
        return ["audit_log.jsonl does not end with a line feed"]
    leaves: list[bytes] = []
    previous: str | None = None
    for number, line in enumerate(lines, start=1):
        entry = json.loads(line, object_pairs_hook=no_duplicates)
        if entry["log_id"] != anchor["log_id"]:
            return [f"audit_log.jsonl: line {number} is of another log"]
        if entry["seq"] != number - 1 or entry["prev_hash"] != previous:
            return [f"audit_log.jsonl: line {number} does not follow the line before"]
        leaves.append(hashlib.sha256(b"\x00" + line).digest())
        previous = "sha256:" + leaves[-1].hex()
    root = merkle_root(leaves)
    problems = []
    if len(leaves) != anchor["size"] or "sha256:" + root.hex() != anchor["root"]:
        problems.append("audit_log.jsonl is not the log that the manifest names")
    checkpoint = read(directory, "audit_log.jsonl.checkpoint").decode().split("\n")
    if checkpoint[1:3] != [str(len(leaves)), base64.b64encode(root).decode()]:
        problems.append("audit_log.jsonl.checkpoint is about another log, size or root")
    return problems


def check_points(manifest: dict[str, Any]) -> list[str]:
    """(5)"""
    missing = [entry["point"] for entry in manifest["points"] if entry["status"] == "missing"]
    agrees = manifest["missing_fields"] == missing and manifest["complete"] is (not missing)
    return [] if agrees else ["missing_fields or complete does not agree with the points"]


def verify(directory: str) -> tuple[dict[str, Any], list[str]]:
    """The manifest and everything that is wrong; an empty list means that all checks held."""
    raw = read(directory, "annex_iv.json")
    manifest = json.loads(raw, object_pairs_hook=no_duplicates)
    problems = check_hash(raw, manifest)
    for check in (check_files, check_evidence, check_log):
        try:
            problems += check(directory, manifest)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            problems.append(f"{check.__name__}: {type(error).__name__}: {error}")
    try:
        problems += check_points(manifest)
    except (LookupError, TypeError) as error:
        problems.append(f"check_points: {error!r}")
    return manifest, problems


def main() -> int:
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    try:
        manifest, problems = verify(directory)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        print(f"not a bundle: {error}")
        return 1
    for problem in problems:
        print(f"PROBLEM  {problem}")
    print(f"manifest hash  {manifest.get('manifest_hash')}")
    print(f"label          {manifest.get('label')}")
    print(f"missing points {', '.join(map(str, manifest.get('missing_fields', []))) or 'none'}")
    print("every check held" if not problems else f"{len(problems)} checks failed")
    return 6 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
