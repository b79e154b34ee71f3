"""A bundle that was touched anywhere does not verify; the reason names what was touched."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import (
    POINT_IDS,
    AnnexIvBundle,
    BundleInputs,
    build_document,
    build_example_bundle,
    verify_annex_iv_artifact,
    verify_bundle,
    write_archive,
)
from forge_pipeline.annex_iv.bundle import derived_manifest
from forge_pipeline.annex_iv.manifest import manifest_hash
from forge_pipeline.annex_iv.verify import is_safe_path, manifest_problems
from forge_pipeline.annex_iv.verify_bundle import check_hash, extends, merkle_root
from forge_pipeline.annex_iv.verify_bundle import verify as verify_without_package
from forge_pipeline.audit_log import AuditLogger, AuditSettings, merkle
from forge_pipeline.integrity import Digest, Manifest, canonical_json, loads_strict

MEMBERS = (
    "schema", "generator", "document_version", "generated_at", "synthetic", "regime", "line", "system", "subjects",
    "released", "label", "gates", "gates_verdict", "points", "missing_fields", "complete",
    "audit_log", "parent_manifest_hash", "parent_audit_log", "consistency_proof", "files", "pdf",
    "placeholders", "one_third_rule", "annex_xi", "annex_xii", "gpai_missing", "training_content_summary",
)  # fmt: skip


def read(bundle: Path) -> dict[str, Any]:
    manifest = loads_strict((bundle / "annex_iv.json").read_bytes())
    assert isinstance(manifest, dict)
    return manifest


def write(bundle: Path, manifest: dict[str, Any], *, rehash: bool) -> None:
    if rehash:
        manifest = {**manifest, "manifest_hash": manifest_hash(manifest)}
    (bundle / "annex_iv.json").write_bytes(canonical_json(manifest))


def verify(bundle: Path, **options: Any) -> Any:
    return verify_annex_iv_artifact(str(bundle / "annex_iv.json"), **options)


def stdlib(bundle: Path) -> subprocess.CompletedProcess[str]:
    """The verifier in the bundle, run by a bare interpreter."""
    command = [sys.executable, "-I", "-S", str(bundle / "verify_bundle.py")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def other(value: Any) -> Any:
    """A value of the same type that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return value[:-1] if value else ["x"]
    if isinstance(value, dict):
        return dict(list(value.items())[:-1]) if value else {"x": 1}
    return "x"


def test_the_example_verifies_and_says_what_it_does_not_show(finished: Path) -> None:
    result = verify(finished)
    assert result.valid, result.reason
    assert result.reason is None
    assert result.manifest_hash_actual == result.manifest_hash_expected == read(finished)["manifest_hash"]
    assert result.missing_fields == read(finished)["missing_fields"]
    assert not result.complete
    assert result.assurance == "logged"
    assert any("made anew" in words for words in result.not_checked)


def test_the_bundles_own_verifier_agrees(finished: Path) -> None:
    done = stdlib(finished)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(finished)["manifest_hash"] in done.stdout


def test_the_manifests_members_are_those_tested_here(finished: Path) -> None:
    assert set(read(finished)) == {*MEMBERS, "manifest_hash"}


@pytest.mark.parametrize("member", MEMBERS)
def test_a_changed_member_is_rejected_even_with_a_new_hash(copied: Path, member: str) -> None:
    manifest = read(copied)
    write(copied, {**manifest, member: other(manifest[member])}, rehash=True)
    result = verify(copied)
    assert not result.valid
    assert not result.complete


def test_an_edit_without_a_new_hash_is_rejected_for_the_hash(copied: Path) -> None:
    write(copied, {**read(copied), "line": "another"}, rehash=False)
    assert "manifest_hash is" in verify(copied).reason


@pytest.mark.parametrize("member", [*MEMBERS, "manifest_hash"])
def test_a_deleted_member_is_rejected(copied: Path, member: str) -> None:
    manifest = read(copied)
    del manifest[member]
    write(copied, manifest, rehash=member != "manifest_hash")
    result = verify(copied)
    assert not result.valid
    assert result.reason


@pytest.mark.parametrize("point", POINT_IDS)
def test_an_edited_point_is_rejected_and_named_even_with_a_new_hash(copied: Path, point: str) -> None:
    manifest = read(copied)
    entry = next(entry for entry in manifest["points"] if entry["point"] == point)
    entry["status"] = "declared"
    entry["value"] = {"statement": "An honest-looking sentence that nobody stated."}
    manifest["missing_fields"] = [name for name in manifest["missing_fields"] if name != point]
    manifest["complete"] = not manifest["missing_fields"]
    write(copied, manifest, rehash=True)
    result = verify(copied)
    assert not result.valid
    assert f"point {point} does not follow from the evidence" in result.reason


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, part in enumerate(value) for leaf in leaves(part, (*path, index))]
    return [path]


def name_of(manifest: dict[str, Any], path: tuple[Any, ...]) -> str:
    """How the reason must name the value at `path`: its point, or its member."""
    if path[0] in ("points", "annex_xi", "annex_xii"):
        return f"point {manifest[path[0]][path[1]]['point']} "
    return repr(path[0])


def quick_json(manifest: dict[str, Any]) -> bytes:
    """Not quite canonical (2e-05 is 0.00002 there), and an order of magnitude faster to write."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_every_single_value_of_the_manifest_changed_once_is_rejected_and_named(finished: Path) -> None:
    """Both verifiers reject it for the hash; with a new hash, ours names the point or member that was changed."""
    manifest, evidence = read(finished), AnnexIvBundle.open(finished).evidence
    derived = derived_manifest(evidence, build_document(evidence), Manifest.of_directory(finished))
    derived = loads_strict(canonical_json(derived))
    manifest["manifest_hash"] = Digest.of(
        quick_json({key: value for key, value in manifest.items() if key != "manifest_hash"})
    )
    assert check_hash(quick_json(manifest), manifest) == manifest_problems(manifest, derived) == []
    paths = [path for path in leaves(manifest) if path != ("manifest_hash",)]
    assert len(paths) > 1000
    for path in paths:
        inner: Any = manifest
        for key in path[:-1]:
            inner = inner[key]
        name, before = name_of(manifest, path), inner[path[-1]]
        inner[path[-1]] = other(before)
        assert check_hash(quick_json(manifest), manifest), path
        problems = manifest_problems(manifest, derived)
        inner[path[-1]] = before
        assert any(name in words for words in problems), path


@pytest.mark.parametrize("member", MEMBERS)
def test_the_bundles_own_verifier_rejects_a_changed_member(copied: Path, member: str) -> None:
    manifest = read(copied)
    write(copied, {**manifest, member: other(manifest[member])}, rehash=False)
    assert verify_without_package(str(copied))[1]


@pytest.mark.parametrize(
    "member",
    [
        "subjects", "released", "label", "gates", "missing_fields", "complete", "gpai_missing", "audit_log", "files",
        "parent_manifest_hash", "parent_audit_log", "consistency_proof", "generated_at", "generator", "pdf", "synthetic",
        "document_version",
    ],
)  # fmt: skip
def test_the_bundles_own_verifier_rejects_it_even_with_a_new_hash(copied: Path, member: str) -> None:
    manifest = read(copied)
    write(copied, {**manifest, member: other(manifest[member])}, rehash=True)
    assert verify_without_package(str(copied))[1]


def test_who_declared_what_is_checked_against_the_log_by_both(copied: Path) -> None:
    manifest = read(copied)
    for entry in manifest["points"]:
        if entry["point"] == "1(b)":
            entry["declared_by"]["operator"] = "somebody else"
    write(copied, manifest, rehash=True)
    assert "point 1(b) does not follow" in verify(copied).reason
    assert "point 1(b) was not declared by whom, or when, it says" in verify_without_package(str(copied))[1]


def files_of(bundle: Path) -> list[str]:
    return [entry.path for entry in Manifest.of_directory(bundle).entries if entry.path != "annex_iv.json"]


def test_each_file_changed_once_is_rejected_by_both_verifiers(finished: Path, tmp_path: Path) -> None:
    assert {"annex_iv.pdf", "index.html", "training_content_summary.json"} <= set(files_of(finished))
    for number, path in enumerate(files_of(finished)):
        bundle = Path(shutil.copytree(finished, tmp_path / str(number)))
        data = bytearray((bundle / path).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / path).write_bytes(data)
        result = verify(bundle)
        assert not result.valid, path
        assert path in result.reason, path
        assert any(path in problem for problem in verify_without_package(str(bundle))[1]), path


def test_each_file_changed_and_listed_anew_is_rejected(finished: Path, tmp_path: Path) -> None:
    """The forger fixes the list of files and the hash as well."""
    for number, path in enumerate(path for path in files_of(finished) if path != "verify_bundle.py"):
        bundle = Path(shutil.copytree(finished, tmp_path / str(number)))
        data = (bundle / path).read_bytes()
        (bundle / path).write_bytes(data.replace(b"0", b"1", 1) if b"0" in data else data + b"\n")
        list_anew(bundle)
        assert not verify(bundle).valid, path


def list_anew(bundle: Path) -> None:
    """The forger's part: list of files and hash agree again with what lies there."""
    listed = [entry for entry in Manifest.of_directory(bundle).entries if entry.path != "annex_iv.json"]
    entries = [{"path": e.path, "size": e.size, "digest": e.digest} for e in listed]
    write(bundle, {**read(bundle), "files": entries}, rehash=True)


def exchange(bundle: Path, path: str, data: bytes) -> None:
    """Another file in place of one, the page's list of digests, the manifest's and the hash brought in line with it."""
    page = bundle / "index.html"
    old, old_size = Digest.of_file(bundle / path), (bundle / path).stat().st_size
    (bundle / path).write_bytes(data)
    text = page.read_text("utf-8").replace(old, Digest.of(data)).replace(f"{old_size:,}", f"{len(data):,}")
    page.write_text(text, "utf-8")
    list_anew(bundle)


def test_another_verifier_in_the_bundle_is_pointed_out(copied: Path) -> None:
    exchange(copied, "verify_bundle.py", b"print('every check held')\n")
    result = verify(copied)
    assert result.valid, result.reason
    assert any("verify_bundle.py, which is not the one" in words for words in result.not_checked)


def test_a_pdf_that_was_exchanged_does_not_follow_from_the_evidence(copied: Path) -> None:
    data = (copied / "annex_iv.pdf").read_bytes()
    exchange(copied, "annex_iv.pdf", data.replace(b"(opensource)", b"(0pensource)", 1))
    assert verify(copied).reason == "annex_iv.pdf does not follow from the evidence"


def remove_a_file(bundle: Path) -> None:
    (bundle / "model_card.md").unlink()


def add_a_file(bundle: Path) -> None:
    (bundle / "note.txt").write_text("hello")


def add_evidence(bundle: Path) -> None:
    (bundle / "evidence" / "more.json").write_text("{}")


def link_a_file(bundle: Path) -> None:
    (bundle / "model_card.md").unlink()
    (bundle / "model_card.md").symlink_to("/etc/hostname")


def cut_the_log(bundle: Path) -> None:
    log = bundle / "audit_log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))


def indent_the_manifest(bundle: Path) -> None:
    (bundle / "annex_iv.json").write_text(json.dumps(read(bundle), indent=1))


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file is gone": (remove_a_file, "model_card.md is missing"),
    "a file was added": (add_a_file, "note.txt was added"),
    "a file was added among the evidence": (add_evidence, "evidence/more.json was added"),
    "a file became a link": (link_a_file, "is a link"),
    "the log lost its last entry": (cut_the_log, "its end was cut off"),
    "white space in the manifest": (indent_the_manifest, "not canonical"),
}


@pytest.mark.parametrize("name", CASES)
def test_named_tampering_is_rejected(copied: Path, name: str) -> None:
    tamper, words = CASES[name]
    tamper(copied)
    result = verify(copied)
    assert not result.valid
    assert words in result.reason


def test_a_member_written_twice_is_no_json(copied: Path) -> None:
    path = copied / "annex_iv.json"
    path.write_bytes(path.read_bytes().replace(b"{", b'{"complete":true,', 1))
    with pytest.raises(ValueError, match="duplicate key"):
        verify(copied)


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "a/../../b", "C:/x", "a\\b", "", ".", "a//b", "./a", "a/", "a\nb"]
)
def test_paths_that_lead_out_are_refused(copied: Path, path: str) -> None:
    assert not is_safe_path(path)
    manifest = read(copied)
    manifest["files"][0]["path"] = path
    write(copied, manifest, rehash=True)
    assert not verify(copied).valid


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "{}", '{"schema": "forge-pipeline/annex-iv/1"}', "null"])
def test_json_that_is_no_manifest_is_invalid_and_no_crash(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annex_iv.json"
    path.write_text(text)
    result = verify_annex_iv_artifact(str(path))
    assert not result.valid
    assert result.reason


@pytest.mark.parametrize("text", ["", "x", "{", "\x00", '{"a": NaN}', "[" * 100_000])
def test_what_is_not_json_is_a_value_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annex_iv.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r".+"):
        verify_annex_iv_artifact(str(path))


def test_a_missing_manifest_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"annex_iv\.json"):
        verify_annex_iv_artifact(str(tmp_path / "annex_iv.json"))


def test_a_bundle_made_anew_is_caught_by_a_hash_kept_elsewhere(finished: Path, tmp_path: Path) -> None:
    forged = build_example_bundle(tmp_path / "forged")
    assert verify_annex_iv_artifact(str(forged)).valid
    kept = read(finished)["manifest_hash"]
    result = verify_annex_iv_artifact(str(forged), expected_manifest_hash=kept)
    assert not result.valid
    assert "kept elsewhere" in (result.reason or "")
    assert verify(finished, expected_manifest_hash=kept).assurance == "anchored"


def test_the_lines_own_log_must_name_the_bundle(example: BundleInputs, finished: Path, tmp_path: Path) -> None:
    assert example.audit_log_path is not None
    log = Path(shutil.copytree(example.audit_log_path.parent, tmp_path / "log")) / "audit_log.jsonl"
    result = verify(finished, audit_log=str(log))
    assert not result.valid
    assert "does not name this bundle" in result.reason
    logger = AuditLogger.with_settings(log.parent, AuditSettings("somebody"))
    logger.log_event("compliance.bundle_written", digest=Manifest.of_directory(finished).digest)
    assert verify(finished, audit_log=str(log)).assurance == "anchored"
    build_example_bundle(tmp_path / "forged")
    assert not verify(tmp_path / "forged", audit_log=str(log)).valid


def test_the_stdlib_verifiers_merkle_root_is_the_logs() -> None:
    hashes = [merkle.leaf_hash(bytes([n])) for n in range(40)]
    for size in range(40):
        assert merkle_root(hashes[:size]) == merkle.tree_head(hashes[:size])


def test_the_stdlib_verifiers_consistency_proofs_are_the_logs() -> None:
    leaves = [merkle.leaf_hash(bytes([n])) for n in range(24)]
    roots = [f"sha256:{merkle.tree_head(leaves[:n]).hex()}" for n in range(25)]
    for new in range(1, 25):
        for old in range(1, new + 1):
            proof = [f"sha256:{node.hex()}" for node in merkle.consistency_proof(leaves[:new], old)]
            anchors = {"size": old, "root": roots[old]}, {"size": new, "root": roots[new]}
            assert extends(*anchors, proof)
            assert not extends({**anchors[0], "root": roots[0]}, anchors[1], proof)
            assert not extends(anchors[0], {**anchors[1], "root": roots[0]}, proof)
            assert not extends(*anchors, [*proof, roots[1]])
            assert not proof or not extends(*anchors, proof[:-1])


def test_the_bundles_own_verifier_is_short_and_plain() -> None:
    import ast

    source = (Path(verify_bundle.__file__)).read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= set(sys.stdlib_module_names)
    assert len([line for line in source.splitlines() if line.strip()]) <= 260


@pytest.mark.parametrize("arguments", [["--help"], ["a", "b"], ["--parent"]])
def test_the_bundles_own_verifier_explains_itself(finished: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-I", "-S", str(finished / "verify_bundle.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "What is checked" in done.stdout


def test_the_stdlib_verifier_reports_each_kind_of_damage(copied: Path) -> None:
    log = copied / "audit_log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"synthetic", b"synthetiC"))
    (copied / "evidence" / "training_report.json").write_bytes(b"{}")
    done = stdlib(copied)
    assert done.returncode == 6
    assert "evidence/training_report.json is not the training_report.json of fine_tuned_model" in done.stdout
    assert "audit_log.jsonl: line 2 does not follow" in done.stdout
    (copied / "annex_iv.json").unlink()
    assert stdlib(copied).returncode == 1


def test_the_archive_is_the_same_bytes_every_time(finished: Path, tmp_path: Path) -> None:
    import zipfile

    first = write_archive(finished, tmp_path / "a.zip")
    shutil.copytree(finished, tmp_path / "moved")
    second = write_archive(tmp_path / "moved", tmp_path / "b.zip")
    assert first == second == Digest.of_file(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert verify(tmp_path / "unpacked" / "annex_iv").valid


def test_provider_text_cannot_become_markup(tmp_path: Path) -> None:
    from dataclasses import replace

    from forge_pipeline.annex_iv import bundle
    from forge_pipeline.annex_iv.example import example_config, example_inputs

    inputs = example_inputs(tmp_path / "example")
    hostile = "<script>alert(1)</script> | `code` **bold** [link](javascript:x)"
    config = example_config(tmp_path / "recipe", intended_purpose=hostile)
    made = bundle(replace(inputs, config=config), tmp_path / "bundle")
    assert "<script" not in (made.path / "index.html").read_text("utf-8")
    for name in ("technical_documentation.md", "model_card.md", "instructions_for_use.md"):
        text = (made.path / name).read_text("utf-8")
        assert "<script" not in text.replace("\\<script", "")
        assert "[link](" not in text
