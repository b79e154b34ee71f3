"""Compressed files: whole ones are read, of several members too; damaged ones are refused, never half read in silence."""

import bz2
import gzip
import io
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from forge_pipeline.data.compression import opened, without_compression
from forge_pipeline.data.reading import ReadRow, read_rows
from forge_pipeline.errors import DataError


class _KeptOpen(io.BytesIO):
    """Arrow closes what it writes to."""

    def close(self) -> None:
        pass


def _zstandard(data: bytes) -> bytes:
    sink = _KeptOpen()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": _zstandard,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
LINES = b"".join(b'{"text": "row %d, with some words in it %d"}\n' % (i, i * 7919 % 1000) for i in range(20_000))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_one_member_or_several_give_the_same_rows(suffix: str, tmp_path: Path) -> None:
    compress, path = COMPRESS[suffix], tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(LINES))
    one = list(read_rows(path))
    assert len(one) == 20_000
    assert one[-1] == ReadRow(20_000, {"text": f"row 19999, with some words in it {19999 * 7919 % 1000}"})
    half = LINES.index(b"\n", len(LINES) // 2) - 10  # in the middle of a row
    path.write_bytes(compress(LINES[:half]) + compress(LINES[half:]))
    assert list(read_rows(path)) == one


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off at the end": lambda packed: packed[:-5],
    "cut off in the middle": lambda packed: packed[: len(packed) // 2],
    "cut off in its head": lambda packed: packed[:3],
    "another format": lambda packed: LINES,
    "a flipped byte": lambda packed: packed[: len(packed) // 2] + bytes([packed[len(packed) // 2] ^ 0xFF]) + packed[len(packed) // 2 + 1 :],
    "a second member cut off": lambda packed: packed + packed[: len(packed) // 2],
}  # fmt: skip


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_with_the_file_and_what_to_do(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(DAMAGE[name](COMPRESS[suffix](LINES)))
    with pytest.raises(DataError) as refused:
        list(read_rows(path))
    assert str(path) in str(refused.value)
    assert "not a whole" in str(refused.value)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_of_nothing_holds_no_rows(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESS[suffix](b""))
    with pytest.raises(DataError, match="holds no rows"):
        list(read_rows(tmp_path / f"a.jsonl{suffix}"))


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("file", ["a.json", "a.csv", "a.yml", "a.txt"])
def test_every_kind_of_text_file_may_be_compressed(file: str, suffix: str, tmp_path: Path) -> None:
    contents = {
        "a.json": b'[{"text": "a"}]',
        "a.csv": b"text\na\n",
        "a.yml": b"conversations:\n- - a\n  - b\n",
        "a.txt": b"a\n",
    }
    path = tmp_path / f"{file}{suffix}"
    path.write_bytes(COMPRESS[suffix](contents[file]))
    assert len([row for row in read_rows(path) if isinstance(row, ReadRow)]) == 1


def test_a_bomb_of_lines_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    line = b'{"text": "' + b"x" * 500_000 + b'"}\n'
    path.write_bytes(gzip.compress(line * 400, 1))  # 200 MB unpacked
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 400
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_names_lose_their_compression_only() -> None:
    assert without_compression("A.JSONL.GZ") == ("a.jsonl", ".gz")
    assert without_compression("a.jsonl") == ("a.jsonl", "")


def test_a_missing_file_is_missing_whatever_its_compression(tmp_path: Path) -> None:
    for suffix in COMPRESS:
        with pytest.raises(DataError, match="there is no such file"):
            list(read_rows(tmp_path / f"a.jsonl{suffix}"))
        with pytest.raises(FileNotFoundError), opened(tmp_path / f"a{suffix}") as file:
            file.read()
