#!/usr/bin/env python3
"""Check this bundle with nothing but Python 3.9 or later: python verify_bundle.py [directory] [--parent DIRECTORY]

What is checked:
  (1) annex_iv.json carries the digest of its own other members;
  (2) the files in the directory are exactly those it lists, byte for byte;
  (3) the reports under evidence/ are the files that the artefacts' manifests list, and
      are about these artefacts; annex_iv.json names the subjects and gates that stand there;
  (4) each line of audit_log.jsonl names the hash of the line before, and all lines
      together have the Merkle root (RFC 9162) that annex_iv.json and the checkpoint name;
  (5) the points marked missing are exactly those listed as missing, and who declared
      what, and when, is what the log says;
  (6) the log extends that of the previous version (consistency proof, RFC 9162 2.1.4);
      with --parent, that bundle is checked too and is the one that this one names.

What is not: signatures (Python alone has no Ed25519), whether the documents follow from
the evidence (`forge verify annex-iv` derives them again), and whether the whole bundle was
made anew. For the last, compare the manifest hash printed here with one kept elsewhere.

Exit status: 0 all checks held, 6 one did not, 1 this is not a bundle.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from typing import Any

COPIES = {
    "raw_dataset": {"provenance.json": "dataset_provenance.json"},
    "clean_dataset": {"provenance.json": "dataset_provenance.json", "cleaning.json": "cleaning.json"},
    "dataset_audit_report": {"report.json": "dataset_audit_report.json"},
    "tokenized_dataset": {"summary.json": "tokenization_summary.json"},
    "fine_tuned_model": {"forge_model.json": "model_record.json", "training_report.json": "training_report.json"},
    "gguf_model": {"export_report.json": "export_report.json"},
}


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def read(*parts: str) -> bytes:
    with open(os.path.join(*parts), "rb") as file:
        return file.read()


def read_json(*parts: str) -> Any:
    return json.loads(read(*parts), object_pairs_hook=no_duplicates)


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
        for full in (os.path.join(parent, name) for name in folders + names):
            plain = not os.path.islink(full)
            if not (plain and os.path.isdir(full)):
                path = os.path.relpath(full, directory).replace(os.sep, "/")
                found[path] = full if plain and os.path.isfile(full) else None
    return {path: full for path, full in found.items() if path != "annex_iv.json"}


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
        elif os.path.getsize(full) != entry["size"] or sha256(read(full)) != entry["digest"]:
            problems.append(f"{path} was changed")
    return problems


def check_evidence(directory: str, manifest: dict[str, Any]) -> list[str]:
    """(3)"""
    manifests = read_json(directory, "evidence", "manifests.json")
    problems, subjects = [], manifest["subjects"]
    if sorted(manifests) != sorted(subjects):
        problems.append("subjects are not those of evidence/manifests.json")
    for asset, listing in manifests.items():
        text = json.dumps(listing["entries"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if sha256(text.encode()) != subjects.get(asset):
            problems.append(f"evidence/manifests.json does not list the files of {asset}")
        digests = {entry["path"]: entry["digest"] for entry in listing["entries"]}
        for source, copy in COPIES.get(asset, {}).items():
            if digests.get(source) != sha256(read(directory, "evidence", copy)):
                problems.append(f"evidence/{copy} is not the {source} of {asset}")
    trained_on = "clean_dataset" if "clean_dataset" in subjects else "raw_dataset"
    for name, member, asset in (
        ("model_record.json", "dataset_digest", trained_on),
        ("model_record.json", "tokenized_digest", "tokenized_dataset"),
        ("dataset_audit_report.json", "dataset_digest", trained_on),
        ("benchmark_report.json", "subject", "fine_tuned_model"),
        ("safety_report.json", "subject", "fine_tuned_model"),
        ("judge_report.json", "subject", "fine_tuned_model"),
    ):
        path = os.path.join(directory, "evidence", name)
        if os.path.exists(path) and read_json(path).get(member) != subjects.get(asset):
            problems.append(f"evidence/{name} is about another {asset}")
    run = read_json(directory, "evidence", "run.json")
    if read_json(directory, "evidence", "gates.json")["decisions"] != manifest["gates"]:
        problems.append("gates are not those of evidence/gates.json")
    released = (run["release"] or {}).get("subject") == subjects.get("fine_tuned_model")
    if manifest["released"] is not released or manifest["label"] != ("released" if released else "not released"):
        problems.append("released or label is not what evidence/run.json says")
    for key in ("generated_at", "generator", "document_version", "synthetic", "consistency_proof", "pdf"):
        if manifest[key] != run[key]:
            problems.append(f"{key} is not what evidence/run.json says")
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


def check_points(directory: str, manifest: dict[str, Any]) -> list[str]:
    """(5)"""
    gpai = manifest["annex_xi"] + manifest["annex_xii"]
    missing, other = ([e["point"] for e in es if e["status"] == "missing"] for es in (manifest["points"], gpai))
    problems = []
    if (manifest["missing_fields"], manifest["complete"], manifest["gpai_missing"]) != (missing, not missing, other):
        problems.append("missing_fields, complete or gpai_missing does not agree with the points")
    path = os.path.join(directory, "audit_log.jsonl")
    lines = read(path).split(b"\n") if os.path.exists(path) else []
    for entry in manifest["points"] + gpai:
        by = entry.get("declared_by") or {"recipe": None, "log_seq": None}
        if by["recipe"] and by["recipe"] != sha256(read(directory, "evidence", "recipe.json")):
            problems.append(f"point {entry['point']} was declared in another recipe than evidence/recipe.json")
        logged = json.loads(lines[by["log_seq"]]) if by["log_seq"] is not None else None
        if logged and (logged["event"], logged["actor"]["operator"], logged["ts"], logged["data"]["config_digest"]) != (
            "recipe.resolved", by["operator"], by["at"], by["recipe"],
        ):  # fmt: skip
            problems.append(f"point {entry['point']} was not declared by whom, or when, it says")
    return problems


def extends(old: dict[str, Any], new: dict[str, Any], proof: list[str]) -> bool:
    """RFC 9162 2.1.4.2: whether the tree `new` only appended to the tree `old`."""
    first, second = (bytes.fromhex(anchor["root"][len("sha256:") :]) for anchor in (old, new))
    path = [bytes.fromhex(digest[len("sha256:") :]) for digest in proof]
    if not 0 < old["size"] <= new["size"]:
        return False
    if old["size"] == new["size"]:
        return not path and first == second
    if old["size"] & (old["size"] - 1) == 0:
        path.insert(0, first)
    if not path:
        return False
    position, last = old["size"] - 1, new["size"] - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    one = two = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            one, two = (hashlib.sha256(b"\x01" + node + each).digest() for each in (one, two))
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            two = hashlib.sha256(b"\x01" + two + node).digest()
        position, last = position >> 1, last >> 1
    return last == 0 and one == first and two == second


def check_parent(directory: str, manifest: dict[str, Any]) -> list[str]:
    """(6)"""
    old, new, proof = (manifest[key] for key in ("parent_audit_log", "audit_log", "consistency_proof"))
    named = read_json(directory, "evidence", "run.json")["parent"] or {"manifest_hash": None, "audit_log": None}
    agrees = (manifest["parent_manifest_hash"], old) == (named["manifest_hash"], named["audit_log"])
    problems = [] if agrees else ["parent_manifest_hash or parent_audit_log is not what evidence/run.json says"]
    if old is None or new is None or old["log_id"] != new["log_id"]:
        return problems + (["consistency_proof is about nothing"] if proof is not None else [])
    lines = read(directory, "audit_log.jsonl").split(b"\n")[: old["size"]]
    root = merkle_root([hashlib.sha256(b"\x00" + line).digest() for line in lines])
    if proof is None or not extends(old, new, proof) or "sha256:" + root.hex() != old["root"]:
        problems.append("audit_log.jsonl does not extend the log of the previous version (consistency_proof)")
    return problems


def check_given_parent(manifest: dict[str, Any], parent: str) -> list[str]:
    """(6) with --parent"""
    before, problems = verify(parent)
    problems = [f"the previous version: {problem}" for problem in problems]
    named = [manifest["parent_manifest_hash"], manifest["parent_audit_log"]]
    agrees = [before.get("manifest_hash"), before.get("audit_log")] == named
    return problems + ([] if agrees else [f"the previous version is not the one named, {named[0]}"])


def verify(directory: str) -> tuple[dict[str, Any], list[str]]:
    """The manifest and everything that is wrong; an empty list means that all checks held."""
    raw = read(directory, "annex_iv.json")
    manifest = json.loads(raw, object_pairs_hook=no_duplicates)
    problems = check_hash(raw, manifest)
    for check in (check_files, check_evidence, check_log, check_points, check_parent):
        try:
            problems += check(directory, manifest)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            problems.append(f"{check.__name__}: {type(error).__name__}: {error}")
    return manifest, problems


def main() -> int:
    given, parent = sys.argv[1:], None
    if "--parent" in given[:-1]:
        parent = given.pop(given.index("--parent") + 1)
        given.remove("--parent")
    if len(given) > 1 or any(word.startswith("-") for word in given):
        print(__doc__)
        return 1
    try:
        manifest, problems = verify(given[0] if given else os.path.dirname(os.path.abspath(__file__)))
        problems += check_given_parent(manifest, parent) if parent else []
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        print(f"not a bundle: {error!r}")
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
