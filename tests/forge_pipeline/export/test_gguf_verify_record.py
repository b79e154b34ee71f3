"""verify_gguf beyond form: the checksum beside the file, the audit log that names it, files that are none."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.audit_log import LOG_FILE, AuditLogger
from forge_pipeline.export import VerifyGgufResult, verify_gguf
from forge_pipeline.integrity import Digest, Manifest, canonical_json

CHECKOUT = Path(__file__).parents[3]


def log_with(folder: Path, event: str = "artifact.materialized", **fields: Any) -> Path:
    """A log whose one event names what `fields` say."""
    stored = {"asset_key": "line/gguf_model", "files": 2, "inputs": {}, "code_version": "1", "kind": "GgufModel"}
    AuditLogger(str(folder), run_id="r").log_event(
        event, **(stored if event == "artifact.materialized" else {}), **fields
    )
    return folder / LOG_FILE


@pytest.fixture
def exported(llama_gguf: Path, tmp_path: Path) -> Path:
    """The tiny file as an export directory has it: beside a report."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "export_report.json").write_text("{}")
    return Path(shutil.copy(llama_gguf, tmp_path / "export" / "tiny.f16.gguf"))


def changed(path: Path) -> Path:
    """One weight is another: as well-formed as before."""
    data = bytearray(path.read_bytes())
    data[-64] ^= 1
    path.write_bytes(data)
    return path


def recorded(result: VerifyGgufResult) -> dict[str, Any]:
    assert result.valid, result.reason
    found: dict[str, Any] = result.checks["recorded"]
    return found


def test_without_a_log_a_changed_weight_is_not_found_and_the_result_says_so(exported: Path) -> None:
    result = verify_gguf(changed(exported))
    assert result.valid
    assert result.checks["record"].startswith("not checked: no audit log was given")
    assert result.checks["checksum"].startswith("not checked")


def test_a_log_may_name_the_file_itself(exported: Path, tmp_path: Path) -> None:
    log = log_with(tmp_path / "log", digest=Digest.of_file(exported))
    found = recorded(verify_gguf(exported, audit_log=log))
    assert (found["by"], found["seq"]) == ("the digest of the file", 1)
    result = verify_gguf(changed(exported), audit_log=log)
    assert not result.valid
    assert "stands in none of the 1 artefacts of the log" in str(result.reason)


def test_a_log_that_names_the_directory_names_the_file_in_it(exported: Path, tmp_path: Path) -> None:
    log = log_with(tmp_path / "log", digest=Manifest.of_directory(exported.parent).digest)
    assert recorded(verify_gguf(exported, audit_log=log))["by"] == "the manifest of the directory that it lies in"
    assert not verify_gguf(changed(exported), audit_log=log).valid


@pytest.mark.parametrize("form", ["one manifest", "several by name"])
def test_a_file_on_its_own_is_found_by_a_listing_that_the_log_names(form: str, exported: Path, tmp_path: Path) -> None:
    manifest = Manifest.of_directory(exported.parent)
    log = log_with(tmp_path / "log", digest=manifest.digest)
    alone = Path(shutil.copy(exported, tmp_path / "alone.gguf"))
    assert not verify_gguf(alone, audit_log=log).valid
    rows = [asdict(entry) for entry in manifest.entries]
    listing = tmp_path / "listing.json"
    listing.write_bytes(canonical_json(rows if form == "one manifest" else {"gguf_model": {"entries": rows}}))
    assert recorded(verify_gguf(alone, audit_log=log, listing=listing))["digest"] == manifest.digest
    forged = [{**row, "digest": str(Digest.of_file(changed(alone)))} for row in rows]
    listing.write_bytes(canonical_json(forged))  # a listing that names the changed file, and that no log names
    assert not verify_gguf(alone, audit_log=log, listing=listing).valid


@pytest.mark.parametrize("event", ["release.refused", "human_approval.required"])
def test_an_event_that_only_mentions_a_digest_vouches_for_nothing(event: str, exported: Path, tmp_path: Path) -> None:
    log = log_with(tmp_path / "log", event, subject=Digest.of_file(exported), reason="x")
    assert not verify_gguf(exported, audit_log=log).valid


def test_a_log_that_does_not_verify_vouches_for_nothing(exported: Path, tmp_path: Path) -> None:
    log = log_with(tmp_path / "log", digest=Digest.of_file(exported))
    log.write_bytes(log.read_bytes().replace(b'"code_version":"1"', b'"code_version":"2"'))
    result = verify_gguf(exported, audit_log=log)
    assert not result.valid
    assert "does not verify" in str(result.reason)


def test_a_log_that_is_not_there_is_an_os_error(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        verify_gguf(exported, audit_log=tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("content", [b"{}", b"[1]", b'[{"path": "x"}]', b"not json", b'{"a": 1}', b"\xff"])
def test_a_listing_that_is_none_is_a_finding(content: bytes, exported: Path, tmp_path: Path) -> None:
    log = log_with(tmp_path / "log", digest=Digest.of(b"another"))
    (tmp_path / "listing.json").write_bytes(content)
    alone = Path(shutil.copy(exported, tmp_path / "alone.gguf"))
    assert not verify_gguf(alone, audit_log=log, listing=tmp_path / "listing.json").valid


CHECKSUMS = {
    "right": ("{hex}  tiny.f16.gguf\n", True),
    "right, in capitals": ("{HEX}", True),
    "right, as a digest": ("sha256:{hex}", True),
    "wrong": ("0" * 64, False),
    "empty": ("", False),
    "words": ("it is fine", False),
}


@pytest.mark.parametrize(("text", "valid"), CHECKSUMS.values(), ids=CHECKSUMS.keys())
def test_a_checksum_beside_the_file_must_be_right(text: str, valid: bool, exported: Path) -> None:
    digest = Digest.of_file(exported).hex
    exported.with_name("tiny.f16.gguf.sha256").write_text(text.format(hex=digest, HEX=digest.upper()))
    result = verify_gguf(exported)
    assert result.valid is valid
    assert result.checks["checksum"] == ("passed" if valid else "failed")
    assert result.checks["record"] == (
        "not checked: no audit log was given, so nothing says that these bytes were exported" if valid else "not run"
    )


def test_a_directory_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        verify_gguf(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        verify_gguf(tmp_path / "pipe")


def test_the_result_is_json(exported: Path, tmp_path: Path) -> None:
    log = log_with(tmp_path / "log", digest=Digest.of_file(exported))
    assert json.loads(json.dumps(asdict(verify_gguf(exported, audit_log=log))))["valid"] is True


def test_thousands_of_malformed_files_crash_hang_and_deceive_nothing() -> None:
    """In a process of its own: its memory is measured, and a crash would be its exit status."""
    command = [sys.executable, "-m", "benchmarks.gguf_fuzz", "--count", "2400", "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["files"] == 2400
    assert found["refused"] > 0.9 * found["files"]
    assert found["truncated_called_valid"] == found["accepted_with_log"] == 0
    assert found["slowest_cpu_s"] < 1.0
    assert found["memory_growth_mib"] <= 64


CLAIMS: dict[str, tuple[dict[str, str], str | None]] = {
    "the log as it was": ({}, None),
    "another root": ({"log_root": "sha256:" + "0" * 64}, "the file says that the log had 1 entries"),
    "another log": ({"log_id": "00000000-0000-4000-8000-000000000000"}, "the file says that the log had 1 entries"),
    "more entries than there are": ({"log_size": "99"}, "the file says that the log had 99 entries"),
    "no number": ({"log_size": "many"}, "by 'many' entries"),
}


@pytest.mark.parametrize(("changes", "words"), CLAIMS.values(), ids=list(CLAIMS))
def test_what_the_file_says_of_the_log_is_held_against_it(
    changes: dict[str, str], words: str | None, llama_directory: Path, tmp_path: Path
) -> None:
    from forge_pipeline.export import write_gguf

    logger = AuditLogger(str(tmp_path / "log"), run_id="r")
    anchor = logger.anchor()
    claim = {"log_id": anchor.log_id, "log_size": str(anchor.size), "log_root": str(anchor.root)} | changes
    path = tmp_path / "tiny.gguf"
    write_gguf(llama_directory, path, "f16", claim)
    result = verify_gguf(path, audit_log=log_with(tmp_path / "log", digest=Digest.of_file(path)))
    assert result.valid is (words is None), result.reason
    assert words is None or words in str(result.reason)
