"""verify_integrity: what was changed, added, removed or linked in a directory, and who says what belongs there."""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.gguf_fuzz import sound_parts
from forge_pipeline.annex_iv import bundle
from forge_pipeline.annex_iv.example import example_inputs
from forge_pipeline.annex_iv.manifest import manifest_hash
from forge_pipeline.attestation import envelope, model_signature, model_statement, statement, subjects_of
from forge_pipeline.audit_log import LOG_FILE, AuditLogger
from forge_pipeline.export import ExportReport, GgufFile, GgufModel
from forge_pipeline.integrity import Digest, Manifest, canonical_json, write_report
from forge_pipeline.verification import VerifyIntegrityResult, verify_integrity


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, its GGUF export, and the bundle about both, that nobody changes."""
    folder = tmp_path_factory.mktemp("verification")
    inputs = example_inputs(folder / "inputs")
    export = write_export(folder / "export", inputs.model.digest)
    finished = bundle(replace(inputs, gguf=GgufModel.open(export)), folder / "bundle")
    return inputs.model.path, export, finished.path


def write_export(folder: Path, model: Digest) -> Path:
    folder.mkdir()
    file = folder / "example.f16.gguf"
    file.write_bytes(sound_parts().join())
    facts = GgufFile(file.name, "f16", file.stat().st_size, Digest.of_file(file), {"F32": 1}, 32.0, None)
    write_report(folder / "export_report.json", ExportReport(model, "llama", (facts,), None, None))
    (folder / "Modelfile").write_text("FROM ./example.f16.gguf\n")
    return folder


@pytest.fixture
def model(example: tuple[Path, Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(example[0], tmp_path / "model"))


@pytest.fixture
def listing(example: tuple[Path, Path, Path], tmp_path: Path) -> Path:
    """The model's manifest as the artefact store keeps it."""
    path = tmp_path / "manifest.json"
    path.write_bytes(canonical_json([asdict(entry) for entry in Manifest.of_directory(example[0]).entries]))
    return path


def pem(key: Any, path: Path) -> Path:
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(public)
    return path


def torch_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return file.getvalue()


def test_a_directory_alone_cannot_vouch_for_itself(model: Path) -> None:
    result = verify_integrity(model)
    assert not result.valid
    assert result.compared_with == ()
    assert "nothing to compare it with" in str(result.reason)


def test_an_unchanged_model_agrees_with_its_listing(model: Path, listing: Path) -> None:
    result = verify_integrity(model, listing=listing)
    assert result.valid, result.reason
    assert (result.kind, result.assurance) == ("model", "listed")
    assert result.digest == Manifest.of_directory(model).digest
    assert any("who wrote manifest.json" in words for words in result.not_checked)
    assert json.loads(json.dumps(asdict(result)))["valid"] is True


def test_moving_the_directory_changes_nothing(model: Path, listing: Path, tmp_path: Path) -> None:
    assert verify_integrity(shutil.move(model, tmp_path / "elsewhere"), listing=listing).valid


CHANGES: dict[str, tuple[Callable[[Path], Any], str, tuple[str, ...]]] = {
    "a changed file": (lambda d: (d / "forge_model.json").write_text("{}"), "changed", ("forge_model.json",)),
    "a removed file": (lambda d: (d / "training_report.json").unlink(), "removed", ("training_report.json",)),
    "an added file": (lambda d: (d / "notes.txt").write_text("x"), "added", ("notes.txt",)),
    "an added hidden file": (lambda d: (d / ".env").write_text("x"), "added", (".env",)),
    "a file in a new folder": (
        lambda d: ((d / "a/b").mkdir(parents=True), (d / "a/b/c").write_text("x")),
        "added",
        ("a/b/c",),
    ),
    "a link to a file": (lambda d: (d / "link").symlink_to("forge_model.json"), "links", ("link",)),
    "a link to a directory": (lambda d: (d / "link").symlink_to("/"), "links", ("link",)),
    "a dangling link": (lambda d: (d / "link").symlink_to("nowhere"), "links", ("link",)),
    "a link in place of a file": (
        lambda d: (shutil.move(d / "training_report.json", d.parent / "x"), (d / "training_report.json").symlink_to("../x")),
        "links",
        ("training_report.json",),
    ),
    "a pipe": (lambda d: os.mkfifo(d / "pipe"), "links", ("pipe",)),
    "a name that is no UTF-8": (
        lambda d: Path(os.fsdecode(os.fsencode(d) + b"/\xff")).write_text("x"),
        "links",
        ("\\xff",),
    ),
    "a pickle": (lambda d: (d / "a.bin").write_bytes(pickle.dumps({"x": 1})), "pickles", ("a.bin",)),
    "a pickle as torch writes it": (lambda d: (d / "m.bin").write_bytes(torch_archive()), "pickles", ("m.bin",)),
    "an old pickle by its name": (lambda d: (d / "a.pkl").write_bytes(b"(dp0\n."), "pickles", ("a.pkl",)),
}  # fmt: skip


@pytest.mark.parametrize(("change", "what", "names"), CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_found_and_named(
    change: Callable[[Path], Any], what: str, names: tuple[str, ...], model: Path, listing: Path
) -> None:
    change(model)
    result = verify_integrity(model, listing=listing)
    assert not result.valid
    assert getattr(result, what) == names
    assert names[0] in str(result.reason)


def test_every_byte_of_every_file_counts(model: Path, listing: Path) -> None:
    for path in sorted(each for each in model.rglob("*") if each.is_file()):
        original = path.read_bytes()
        for at in {0, len(original) // 2, len(original) - 1}:
            path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
            assert verify_integrity(model, listing=listing).changed == (path.relative_to(model).as_posix(),)
        path.write_bytes(original)
    assert verify_integrity(model, listing=listing).valid


def test_weights_and_text_are_no_pickles(model: Path, listing: Path) -> None:
    result = verify_integrity(model, listing=listing)
    assert result.pickles == ()


def test_a_digest_that_was_kept_is_enough_to_see_that_something_changed(model: Path) -> None:
    kept = Manifest.of_directory(model).digest
    assert verify_integrity(model, expected_digest=kept).assurance == "kept"
    (model / "notes.txt").write_text("x")
    result = verify_integrity(model, expected_digest=kept)
    assert f"expected {kept}" in str(result.reason)


def log_naming(digest: Digest, folder: Path) -> Path:
    logger = AuditLogger(str(folder), run_id="r")
    logger.log_event(
        "artifact.materialized", asset_key="x/y", digest=digest, files=1, inputs={}, code_version="1", kind="Model"
    )
    return folder / LOG_FILE


def test_a_log_that_names_the_directory_vouches_for_it(model: Path, tmp_path: Path) -> None:
    log = log_naming(Manifest.of_directory(model).digest, tmp_path / "log")
    assert verify_integrity(model, audit_log=log).assurance == "logged"
    (model / "notes.txt").write_text("x")
    assert "none of the 1 artefacts" in str(verify_integrity(model, audit_log=log).reason)
    log.write_bytes(log.read_bytes()[:-10])
    assert "does not verify" in str(verify_integrity(model, audit_log=log).reason)


def test_a_signed_model_is_checked_against_its_signature(model: Path, tmp_path: Path) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    signed = tmp_path / "model.sig"
    signed.write_bytes(canonical_json(model_signature("model", Manifest.of_directory(model), key)))
    result = verify_integrity(model, listing=signed, public_key=pem(key, tmp_path / "key.pem"))
    assert (result.valid, result.assurance) == (True, "signed"), result.reason
    assert verify_integrity(model, listing=signed).assurance == "listed"
    refused = verify_integrity(model, listing=signed, public_key=pem(other, tmp_path / "other.pem"))
    assert "no signature is by the key" in str(refused.reason) or "does not match" in str(refused.reason)
    (model / "notes.txt").write_text("x")
    assert verify_integrity(model, listing=signed, public_key=tmp_path / "key.pem").added == ("notes.txt",)


def test_a_signed_statement_lists_files_too(model: Path, tmp_path: Path) -> None:
    key, manifest = Ed25519PrivateKey.generate(), Manifest.of_directory(model)
    made = {
        "envelope.json": envelope(statement(subjects_of("m", manifest), "https://x/y", {}), key),
        "files.json": envelope(model_statement("m", manifest), key),
        "bare.json": statement(subjects_of("m", manifest), "https://x/y", {}),
        "digest.json": statement(subjects_of("m", manifest.digest), "https://x/y", {}),
    }
    for name, value in made.items():
        (tmp_path / name).write_bytes(canonical_json(value))
    pem(key, tmp_path / "key.pem")
    for name in made:
        assert verify_integrity(model, listing=tmp_path / name).assurance == "listed", name
        signed = verify_integrity(model, listing=tmp_path / name, public_key=tmp_path / "key.pem")
        assert signed.valid is (name in ("envelope.json", "files.json")), name
    (model / "forge_model.json").write_text("{}")
    for name in made:
        assert not verify_integrity(model, listing=tmp_path / name).valid, name


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"3", b"[1]", b'[{"path": "x"}]', b'{"payload": "!"}', b"\xff", b"null"]
)
def test_a_listing_that_is_none_is_a_finding_and_no_crash(content: bytes, model: Path, tmp_path: Path) -> None:
    (tmp_path / "listing").write_bytes(content)
    result = verify_integrity(model, listing=tmp_path / "listing")
    assert not result.valid
    assert result.reason


def check(result: VerifyIntegrityResult) -> VerifyIntegrityResult:
    assert result.valid, result.reason
    return result


def test_a_bundle_agrees_with_its_own_manifest_and_says_what_it_was_not_given(
    example: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, export, bundle_directory = example
    for path in (bundle_directory, bundle_directory / "annex_iv.json"):
        result = check(verify_integrity(path))
        assert (result.kind, result.assurance) == ("bundle", "listed")
        assert any("exported files that the bundle names and that were not given" in w for w in result.not_checked)
    result = check(verify_integrity(bundle_directory, exported=[export, model]))
    assert not any("were not given" in words for words in result.not_checked)
    manifest_hash = json.loads((bundle_directory / "annex_iv.json").read_bytes())["manifest_hash"]
    check(verify_integrity(bundle_directory, expected_digest=manifest_hash))
    check(verify_integrity(bundle_directory, audit_log=log_naming(Digest(manifest_hash), tmp_path)))


def test_a_bundle_is_held_against_a_signed_listing_too(example: tuple[Path, Path, Path], tmp_path: Path) -> None:
    copied, key = Path(shutil.copytree(example[2], tmp_path / "bundle")), Ed25519PrivateKey.generate()
    made = envelope(statement(subjects_of("b", Manifest.of_directory(copied)), "https://x/y", {}), key)
    (tmp_path / "made.json").write_bytes(canonical_json(made))
    question: dict[str, Any] = {"listing": tmp_path / "made.json", "public_key": pem(key, tmp_path / "key.pem")}
    assert check(verify_integrity(copied, **question)).assurance == "signed"
    manifest = json.loads((copied / "annex_iv.json").read_bytes())
    manifest["system"] = {"name": "another", "version": "1"}
    manifest["manifest_hash"] = manifest_hash(manifest)
    (copied / "annex_iv.json").write_bytes(canonical_json(manifest))
    assert verify_integrity(copied).valid  # it agrees with itself again
    assert verify_integrity(copied, **question).changed == ("annex_iv.json",)


def test_a_changed_bundle_is_found(example: tuple[Path, Path, Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(example[2], tmp_path / "bundle"))
    (copied / "model_card.md").write_text("better")
    assert verify_integrity(copied).changed == ("model_card.md",)
    (copied / "evidence" / "manifests.json").unlink()
    assert verify_integrity(copied).removed == ("evidence/manifests.json",)
    (copied / "annex_iv.json").write_text("{}")
    assert "is not a bundle's manifest" in str(verify_integrity(copied).reason)


def test_exported_files_are_checked_wherever_they_lie(example: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, export, bundle_directory = example
    source = next(export.glob("*.gguf"))
    moved = Path(shutil.copy(source, tmp_path / "renamed.gguf"))
    check(verify_integrity(bundle_directory, exported=[moved]))
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    same_name = tmp_path / source.name
    same_name.write_bytes(data)
    result = verify_integrity(bundle_directory, exported=[same_name])
    assert result.changed == (f"gguf_model/{source.name}",)
    stranger = tmp_path / "stranger.gguf"
    stranger.write_bytes(b"GGUF")
    assert verify_integrity(bundle_directory, exported=[stranger]).added == ("stranger.gguf",)
    copied = Path(shutil.copytree(export, tmp_path / "export"))
    (copied / "notes.txt").write_text("x")
    assert verify_integrity(bundle_directory, exported=[copied]).added == ("gguf_model/notes.txt",)


def test_an_export_agrees_with_its_own_report(example: tuple[Path, Path, Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(example[1], tmp_path / "export"))
    assert check(verify_integrity(copied)).kind == "export"
    name = next(copied.glob("*.gguf")).name
    (copied / name).rename(copied / "other.gguf")
    result = verify_integrity(copied)
    assert (result.removed, result.added) == ((name,), ("other.gguf",))


def test_a_model_is_found_among_the_manifests_of_a_bundle(example: tuple[Path, Path, Path], model: Path) -> None:
    result = check(verify_integrity(model, listing=example[2]))
    assert result.compared_with == ("fine_tuned_model in bundle",)
    (model / "forge_model.json").write_text("{}")
    assert verify_integrity(model, listing=example[2]).changed == ("forge_model.json",)


def test_what_is_no_directory_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(NotADirectoryError):
            verify_integrity(path)
