"""Statements about directories: any change to any file is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.attestation import Statement, statement, subjects_of
from forge_pipeline.integrity import Digest, Manifest


def about(manifest: Manifest | Digest) -> Statement:
    return Statement.from_json(statement(subjects_of("line/model", manifest), "urn:claim", {}))


def test_an_untouched_directory_has_no_differences(model: Path, manifest: Manifest) -> None:
    assert about(manifest).differences(model) == []
    assert about(manifest.digest).differences(model) == []


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file changed": (lambda path: (path / "a.txt").write_text("TWO"), "a.txt changed: the statement says sha256:"),
    "a file is gone": (lambda path: (path / "a" / "b.txt").unlink(), "a/b.txt is missing"),
    "a file was added": (lambda path: (path / "extra.bin").write_text(""), "extra.bin is not in the statement"),
    "a file was renamed": (lambda path: (path / "a.txt").rename(path / "c.txt"), "a.txt is missing"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_was_changed_is_named(case: str, model: Path, manifest: Manifest) -> None:
    change, words = CHANGES[case]
    whole, bare = about(manifest), about(manifest.digest)
    change(model)
    assert any(words in line for line in whole.differences(model)), whole.differences(model)
    assert bare.differences(model) == [
        f"line/model is {Manifest.of_directory(model).digest} now; the statement is about {manifest.digest}"
    ]


def test_a_statement_that_leaves_a_file_out_does_not_cover_the_directory(model: Path, manifest: Manifest) -> None:
    subjects = subjects_of("line/model", manifest)[:-1]
    left_out = Statement.from_json(statement(subjects, "urn:claim", {}))
    assert left_out.differences(model) == ["model.safetensors is not in the statement"]


def test_moving_a_directory_changes_nothing(model: Path, manifest: Manifest) -> None:
    moved = model.rename(model.with_name("moved"))
    assert about(manifest).differences(moved) == []


def test_a_statement_is_about_something() -> None:
    with pytest.raises(ValueError, match="at least one subject"):
        statement([], "urn:claim", {})


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="canonical JSON"):
        statement(subjects_of("a", Digest.of(b"")), "urn:claim", {"score": float("nan")})
