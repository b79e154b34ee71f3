"""Files record by record: what stays is what it was, and nothing is skipped."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.data.compression import opened
from forge_pipeline.erasure.rows import records, write_without
from forge_pipeline.errors import DataError

CASES: dict[str, tuple[str, bytes, set[int], bytes]] = {
    "a line": ("a.jsonl", b'{"a":1}\n{"b":  2}\n', {0}, b'{"b":  2}\n'),
    "a line that is no JSON": ("a.jsonl", b'{"a":1}\nbroken\n\n{"b":2}', {1}, b'{"a":1}\n\n{"b":2}'),
    "a line with a BOM before it": ("a.jsonl", b'\xef\xbb\xbf{"a":1}\n{"b":2}\n', {1}, b'\xef\xbb\xbf{"a":1}\n'),
    "a line that is not UTF-8": ("a.jsonl", b'{"a":1}\n{"b":"\xff"}\n', {0}, b'{"b":"\xff"}\n'),
    "an element": ("a.json", b'[{"a":1},\n {"b":2} , {"c":3}]\n', {1}, b'[{"a":1} , {"c":3}]\n'),
    "the first element": ("a.json", b'[ {"a":1},{"b":2}]', {0}, b'[ {"b":2}]'),
    "every element": ("a.json", b'[{"a":1},{"b":2}]', {0, 1}, b"[]"),
    "one value of several": ("a.json", b'{"a":\n1}\n{"b":2}', {0}, b'{"b":2}'),
    "an array in a JSONL file": ("a.jsonl", b'[\n{"a":1},\n{"b":2}\n]', {0}, b'[\n{"b":2}\n]'),
    "a record of CSV over two lines": ("a.csv", b'x,y\r\n1,"a\nb"\r\n2,c\r\n', {1}, b"x,y\r\n2,c\r\n"),
    "a record between semicolons": ("a.csv", b"x;y\n1;a\n2;b\n", {2}, b"x;y\n1;a\n"),
    "a record of TSV": ("a.tsv", b"x\ty\n1\ta\n2\tb\n", {1}, b"x\ty\n2\tb\n"),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
BROKEN = {
    "JSON that is cut off": ("a.json", b'[{"a":1},\n{"b":'),
    "Parquet that is none": ("a.parquet", b"PAR1 and then nothing"),
    "Arrow that is none": ("a.arrow", b"ARROW1 and then nothing"),
    "a kind that is not known": ("a.exe", b"MZ"),
}


@pytest.mark.parametrize("case", CASES)
def test_dropping_a_record_leaves_the_other_bytes(case: str, tmp_path: Path) -> None:
    name, data, dropped, expected = CASES[case]
    path = tmp_path / name
    path.write_bytes(data)
    write_without(path, dropped, tmp_path / f"out-{name}")
    assert (tmp_path / f"out-{name}").read_bytes() == expected


@pytest.mark.parametrize("case", CASES)
def test_dropping_nothing_changes_nothing(case: str, tmp_path: Path) -> None:
    name, data, _, _ = CASES[case]
    path = tmp_path / name
    path.write_bytes(data)
    write_without(path, set(), tmp_path / f"out-{name}")
    assert (tmp_path / f"out-{name}").read_bytes() == data


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_compressed_file_stays_compressed_and_reads_the_same(suffix: str, tmp_path: Path) -> None:
    path, out = tmp_path / f"a.jsonl{suffix}", tmp_path / f"out.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](b'{"a":1}\n{"b":2}\n'))
    write_without(path, {0}, out)
    with opened(out) as file:
        assert file.read() == b'{"b":2}\n'
    again = tmp_path / f"again.jsonl{suffix}"
    write_without(path, {0}, again)
    assert again.read_bytes() == out.read_bytes()


def test_zstandard_goes_both_ways(tmp_path: Path) -> None:
    path, out = tmp_path / "a.csv.zst", tmp_path / "b.csv.zst"
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(b"x,y\n1,a\n2,b\n")
    write_without(path, {1}, out)
    assert [record.values for record in records(out)] == [["x", "y"], {"x": "2", "y": "b"}]


@given(kept=st.lists(st.booleans(), min_size=1, max_size=20), group=st.integers(1, 7))
def test_parquet_keeps_schema_and_the_other_rows(
    kept: list[bool], group: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    schema = pa.schema([pa.field("text", pa.string(), metadata={"a": "b"}), pa.field("ids", pa.list_(pa.int32()))])
    table = pa.table(
        {"text": [str(n) for n in range(len(kept))], "ids": [[n] for n in range(len(kept))]}, schema=schema
    )
    pq.write_table(table, folder / "a.parquet", row_group_size=group, compression="zstd")
    write_without(folder / "a.parquet", {n for n, stays in enumerate(kept) if not stays}, folder / "b.parquet")
    found = pq.read_table(folder / "b.parquet")
    assert found.schema.equals(pq.read_schema(folder / "a.parquet"), check_metadata=True)
    assert found.column("text").to_pylist() == [str(n) for n, stays in enumerate(kept) if stays]


@pytest.mark.parametrize("is_file", [True, False])
def test_arrow_stays_the_kind_that_it_was(is_file: bool, tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c"]})
    path, out = tmp_path / "a.arrow", tmp_path / "b.arrow"
    with path.open("wb") as file, (pa.ipc.new_file if is_file else pa.ipc.new_stream)(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    write_without(path, {1}, out)
    assert out.read_bytes()[:6] == (b"ARROW1" if is_file else path.read_bytes()[:6])
    assert [record.values["text"] for record in records(out)] == ["a", "c"]


def test_token_ids_are_not_looked_through(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "input_ids": [[1, 2, 3]]}), tmp_path / "a.parquet")
    assert [record.values for record in records(tmp_path / "a.parquet")] == [{"text": "a"}]


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_broken_as_a_whole_is_named(case: str, tmp_path: Path) -> None:
    name, data = BROKEN[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        list(records(tmp_path / name))
    with pytest.raises(DataError, match=name):
        write_without(tmp_path / name, {0}, tmp_path / f"out-{name}")


@given(data=st.binary(max_size=200), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"]))
def test_any_bytes_are_read_or_refused(data: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_bytes(data)
    try:
        found = list(records(path))
        write_without(path, set(), path.with_name(f"b{suffix}"))
    except DataError:
        return
    assert [record.index for record in found] == sorted({record.index for record in found})
    if suffix in (".jsonl", ".json", ".csv", ".tsv"):
        assert path.with_name(f"b{suffix}").read_bytes() == data
