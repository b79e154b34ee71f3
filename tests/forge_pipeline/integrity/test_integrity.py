"""Canonical bytes, digests, manifests and atomic publishing: the laws that evidence rests on."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest, canonical_json, loads_strict, read_report, write_report
from forge_pipeline.integrity.atomic import publishing, write_file

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
)


@given(JSON_VALUES)
def test_the_bytes_are_those_of_the_reference_implementation(value):
    import rfc8785

    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(ValueError, match="canonical JSON"):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


@given(JSON)
def test_canonical_bytes_are_a_fixed_point(value):
    once = canonical_json(value)
    assert canonical_json(loads_strict(once)) == once


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**60, {1: "a"}, object(), {"a": b"x"}, "\ud800"],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_exact_is_refused(value):
    with pytest.raises(ValueError, match="RFC 8785"):
        canonical_json(value)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "NaN", "[Infinity]", "{", "[" * 100_000], ids=lambda t: t[:20])
def test_loose_json_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the json module words its own
        loads_strict(text)


def test_the_vectors_of_rfc_8785_3_2_2():
    value = {"numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001]}
    assert canonical_json(value) == b'{"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}'


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 32, "0" * 64, "sha256:" + "0" * 63]
)
def test_only_digests_are_digests(text):
    with pytest.raises(ValueError, match="not a digest"):
        Digest(text)


def make_tree(root: Path) -> Path:
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.txt").write_text("x")
    (root / "y.bin").write_bytes(b"\x00")
    return root


def test_moving_a_directory_leaves_its_digest_unchanged(tmp_path):
    tree = make_tree(tmp_path / "one")
    before = Manifest.of_directory(tree).digest
    shutil.move(tree, tmp_path / "two")
    os.utime(tmp_path / "two" / "y.bin", (0, 0))
    assert Manifest.of_directory(tmp_path / "two").digest == before


CHANGES = {
    "one byte": lambda tree: (tree / "y.bin").write_bytes(b"\x01"),
    "a file more": lambda tree: (tree / "z").write_text(""),
    "a file less": lambda tree: (tree / "y.bin").unlink(),
    "a new name": lambda tree: (tree / "y.bin").rename(tree / "w.bin"),
    "moved into a folder": lambda tree: (tree / "y.bin").rename(tree / "a" / "y.bin"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_a_file_changes_the_digest_and_is_named(tmp_path, change):
    tree = make_tree(tmp_path / "tree")
    before = Manifest.of_directory(tree)
    change(tree)
    after = Manifest.of_directory(tree)
    assert after.digest != before.digest
    assert before.differences(after)


def test_links_are_refused(tmp_path):
    tree = make_tree(tmp_path / "tree")
    (tree / "link").symlink_to(tree / "y.bin")
    with pytest.raises(IntegrityError, match="link"):
        Manifest.of_directory(tree)


def test_a_failed_publication_leaves_nothing_visible(tmp_path):
    with pytest.raises(RuntimeError), publishing(tmp_path / "result") as staging:
        (staging / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_published_results_are_never_overwritten(tmp_path):
    with publishing(tmp_path / "result") as staging:
        (staging / "file").write_text("first")
    with pytest.raises(FileExistsError, match="never overwritten"), publishing(tmp_path / "result"):
        pass
    assert (tmp_path / "result" / "file").read_text() == "first"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_error_leaves_the_old_file(tmp_path, monkeypatch, call):
    file = tmp_path / "file"
    write_file(file, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@dataclass(frozen=True)
class Sample:
    name: str
    digest: Digest
    pair: tuple[float, float] | None = None


def test_a_report_is_read_back_as_it_was_written(tmp_path):
    sample = Sample("a", Digest.of(b""), (0.1, 0.2))
    write_report(tmp_path / "report.json", sample)
    assert read_report(tmp_path / "report.json", Sample) == sample


@pytest.mark.parametrize(
    "text", [b"{}", b"not json", b'{"name": 1}', b"\xff", b'{"name":"a","digest":"x","pair":null}']
)
def test_a_damaged_report_is_an_integrity_error(tmp_path, text):
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(IntegrityError, match=r"report\.json"):
        read_report(tmp_path / "report.json", Sample)
