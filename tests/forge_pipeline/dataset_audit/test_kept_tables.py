"""Tables that are kept: the arrays that were made, read back as they were; no file trusted blindly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forge_pipeline.dataset_audit import kept_tables as kept
from forge_pipeline.dataset_audit.kept_files import read_kept, write_kept

ARRAYS = {
    "numbers": np.arange(7, dtype=np.int64),
    "bits": np.array([True, False, True]),
    "square": np.arange(6, dtype=np.float64).reshape(2, 3),
    "nothing": np.zeros((0, 4), dtype=np.uint16),
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    return []


def tables(made: list[str], data: bytes = b"") -> kept.Arrays:
    def make() -> kept.Arrays:
        made.append("made")
        return ARRAYS

    return kept.kept_tables("some", ("tokens",), make, data=data)


def test_what_is_read_back_is_what_was_made(made: list[str]) -> None:
    tables(made)
    read = tables(made)
    assert made == ["made"]
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.c_contiguous
        assert read[name].flags.aligned


def test_of_other_data_other_tables_are_made(made: list[str]) -> None:
    tables(made)
    tables(made, data=b"another model")
    assert made == ["made", "made"]


def test_of_other_sources_other_tables_are_made(
    made: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tables(made)
    for name in ("kept_tables", "tokens"):
        (tmp_path / f"{name}.py").write_bytes((kept._HERE / f"{name}.py").read_bytes() + b"\n")
    monkeypatch.setattr(kept, "_HERE", tmp_path)
    tables(made)
    assert made == ["made", "made"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "a byte changed": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "empty": lambda content: b"",
    "of another version": lambda content: content.replace(b"kept file 1", b"kept file 0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(damage: str, made: list[str], tmp_path: Path) -> None:
    tables(made)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert read_kept(file.name) is None
    np.testing.assert_array_equal(tables(made)["numbers"], ARRAYS["numbers"])
    assert made == ["made", "made"]
    assert read_kept(file.name) is not None


def test_where_nothing_can_be_written_tables_are_made_each_time(
    made: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    tables(made)
    tables(made)
    assert made == ["made", "made"]


def test_an_error_while_making_keeps_nothing(made: list[str], tmp_path: Path) -> None:
    def fails() -> kept.Arrays:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kept.kept_tables("some", (), fails)
    assert not (tmp_path / "kept").exists()


def test_a_file_is_replaced_as_a_whole_and_others_may_read_it(made: list[str], tmp_path: Path) -> None:
    write_kept("x", b"one")
    write_kept("x", b"two")
    content = read_kept("x")
    assert content is not None
    assert content.tobytes() == b"two"
    (file,) = (tmp_path / "kept").iterdir()
    assert file.stat().st_mode & 0o777 == 0o644
