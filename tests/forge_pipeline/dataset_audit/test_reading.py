"""Shards and blocks: every row once, every string as it stands there, and nothing that ends or hangs an audit."""

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.data.reading import ReadRow, read_rows
from forge_pipeline.dataset_audit import reading
from forge_pipeline.dataset_audit.json_lines import Shape, read_lines
from forge_pipeline.dataset_audit.reading import Block, find_splits, plan, read_blocks
from forge_pipeline.dataset_audit.texts import strings_of
from forge_pipeline.errors import DataError

Found = list[tuple[int, str, str]]


def blocks_of(path: Path) -> list[Block]:
    return [block for shard in plan(find_splits(path)) for block in read_blocks(shard)]


def strings_in(path: Path) -> Found:
    """Row, path and text of every string, by row."""
    found, first = [], 0
    for block in blocks_of(path):
        for item in strings_of(block):
            found += [
                (first + int(item.rows[index]), item.path(index), text)
                for index, text in enumerate(item.texts.to_pylist())
            ]
        first += block.row_count
    return sorted(found)


def totals(path: Path) -> tuple[int, int, int, int]:
    """Rows, and the lines that could not be read, were no UTF-8, were no objects."""
    blocks = blocks_of(path)
    return (
        sum(block.row_count for block in blocks),
        sum(block.parse_errors for block in blocks),
        sum(block.decode_errors for block in blocks),
        sum(block.non_object_rows for block in blocks),
    )


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SHARD_BYTES", 64)


ROWS = [{"id": str(i), "messages": [{"role": "user", "content": f"say {i} é 🙂"}]} for i in range(40)]
STRINGS = sorted(
    found
    for i in range(40)
    for found in (
        (i, "id", str(i)),
        (i, "messages[0].content", f"say {i} é 🙂"),
        (i, "messages[0].role", "user"),
    )
)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def arrow_file(path: Path, rows: list[dict[str, Any]], *, stream: bool) -> None:
    table = pa.Table.from_pylist(rows)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(LINES),
    "rows.ndjson": lambda path: path.write_bytes(LINES.rstrip()),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "members.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES[:500]) + gzip.compress(LINES[500:])),
    "rows.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES)),
    "rows.jsonl.xz": lambda path: path.write_bytes(lzma.compress(LINES)),
    "rows.jsonl.zst": lambda path: path.write_bytes(bytes(pa.compress(LINES, "zstd"))),
    "ROWS.JSONL": lambda path: path.write_bytes(LINES),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3),
    "one_group.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "file.arrow": lambda path: arrow_file(path, ROWS, stream=False),
    "stream.arrow": lambda path: arrow_file(path, ROWS, stream=True),
    "rows.feather": lambda path: pa.feather.write_feather(pa.Table.from_pylist(ROWS), str(path), chunksize=7),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_every_string_once(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert strings_in(tmp_path / name) == STRINGS


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("small_shards")
def test_so_it_does_when_cut_into_small_shards(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert strings_in(tmp_path / name) == STRINGS
    if name not in ("rows.json",) and not name.endswith((".gz", ".bz2", ".xz", ".zst")):
        assert len(plan(find_splits(tmp_path / name))) > 5 or name == "one_group.parquet"


def test_an_arrow_stream_with_dictionaries_stays_whole(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"] * 5).dictionary_encode()})
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    assert [text for _, _, text in strings_in(tmp_path / "rows.arrow")] == ["a", "b", "a"] * 5


@pytest.mark.parametrize("suffix", ["arrow", "feather", "parquet"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    for content in (b"nonsense that is long enough to look like something" * 9, b"ARROW1\0\0" + b"x" * 90, b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"rows\.{suffix}"):
            blocks_of(path)


# -- lines that are hard to read ---------------------------------------------------------------------------------------

GOOD = b'{"text": "a good row"}\n'


def nested(levels: int, kind: str) -> bytes:
    if kind == "lists":
        return b'{"text": ' + b"[" * levels + b'"x"' + b"]" * levels + b"}\n"
    return b'{"a":' * levels + b'"x"' + b"}" * levels + b"\n"


@pytest.mark.parametrize("kind", ["lists", "objects"])
@pytest.mark.parametrize("levels", [10_000, 200_000])
def test_nesting_without_end_is_a_parse_error(levels: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + nested(levels, kind) + GOOD)
    assert totals(path) == (2, 1, 0, 0)
    assert [text for _, _, text in strings_in(path)] == ["a good row", "a good row"]


@pytest.mark.parametrize("kind", ["lists", "objects"])
@pytest.mark.parametrize("levels", [100, 260, 400])
def test_deep_nesting_is_read_to_the_bottom(levels: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + nested(levels, kind))
    assert [text for _, _, text in strings_in(path)] == ["a good row", "x"]


def test_many_brackets_side_by_side_are_not_deep(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": f"turn {i} [[["} for i in range(2_000)]}
    path.write_text((json.dumps(row) + "\n") * 3)
    assert all(block.table is not None for block in blocks_of(path))
    assert len(strings_in(path)) == 12_000


HARD: dict[str, tuple[bytes, tuple[int, int, int, int], list[str]]] = {
    "a NUL inside a string": (b'{"text": "a\\u0000b"}\n{"text": "c\x00d"}\n', (1, 1, 0, 0), ["a\0b"]),
    "a file of NUL bytes at its end": (GOOD + b"\0" * 100, (1, 1, 0, 0), ["a good row"]),
    "bytes that are not UTF-8": (b'{"text": "caf\xe9"}\n', (1, 0, 1, 0), ["caf\ufffd"]),
    "half a surrogate pair": (b'{"text": "half \\ud800"}\n', (1, 0, 0, 0), ["half ?"]),
    "a key twice": (b'{"text": "x", "text": "y"}\n', (1, 0, 0, 0), ["x", "y"]),
    "a key twice further in": (b'{"m": {"k": "x", "k": "y", "k": ["z"]}}\n', (1, 0, 0, 0), ["x", "y", "z"]),
    "time stamps": (b'{"at": "2024-01-01T00:00:00Z"}\n{"at": "2024-01-02"}\n', (2, 0, 0, 0), ["2024-01-01T00:00:00Z", "2024-01-02"]),
    "no objects": (b'"text"\n["a", 1]\n7\nnull\n', (4, 0, 0, 4), ["a", "text"]),
    "another type in each row": (b'{"a": "x"}\n{"a": ["y"]}\n{"a": 1e999}\n{"a": 99999999999999999999}\n', (4, 0, 0, 0), ["x", "y"]),
    "white space between rows": (b'\n \n\t\n{"text": "x"}\r\n\r\n   {"text": "y"}  \n\n', (2, 0, 0, 0), ["x", "y"]),
    "a line separator inside a string": ('{"text": "a\u2028b\x85c"}\n'.encode(), (1, 0, 0, 0), ["a\u2028b\x85c"]),
    "a row that was cut off": (GOOD + b'{"text": "cut o', (1, 1, 0, 0), ["a good row"]),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, (1, 0, 0, 0), ["a good row"]),
    "an empty key": (b'{"": "x"}\n', (1, 0, 0, 0), ["x"]),
    "nothing but white space": (b"\n\n  \n", (0, 0, 0, 0), []),
}  # fmt: skip


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_hard_lines(case: str, name: str, tmp_path: Path) -> None:
    content, expected, texts = HARD[case]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert totals(path) == expected
    assert sorted(text for _, _, text in strings_in(path)) == sorted(texts)


def test_a_column_of_time_stamps_is_text_in_every_shard(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"at": f"2024-01-01T00:{i % 60:02}:00Z", "n": i}) + "\n" for i in range(5_000)))
    (block,) = blocks_of(path)
    assert block.table is not None
    assert block.table["at"][61].as_py() == "2024-01-01T00:01:00Z"


def test_columns_come_in_the_order_of_their_first_appearance(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"n": 1, "at": "2024-01-01", "z": None, "text": "a", "score": 1}] * 500
    later = [{"late": "x", "n": 1.5, "z": "now text", "text": "b", "at": "no time stamp", "score": 0.5, "a": [1]}] * 500
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + later))
    (block,) = blocks_of(path)
    assert block.table is not None
    assert block.columns == ("n", "at", "z", "text", "score", "late", "a")
    assert block.table.slice(499, 2).to_pylist() == [
        {"n": 1.0, "at": "2024-01-01", "z": None, "text": "a", "score": 1.0, "late": None, "a": None},
        {"n": 1.5, "at": "no time stamp", "z": "now text", "text": "b", "score": 0.5, "late": "x", "a": [1]},
    ]


# -- the compiled reader -----------------------------------------------------------------------------------------------

CHAT = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(max_size=12),
            "messages": st.lists(
                st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=30)}
                ),
                max_size=3,
            ),
            "tags": st.lists(st.text(st.sampled_from('ab"\\/\n\t\x00\x1f\x7f é🙂\u2028'), max_size=20), max_size=3),
        }
    ),
    min_size=1,
    max_size=8,
)
FULL_ROW = {"id": "first", "messages": [{"role": "user", "content": "hello"}], "tags": ["a"]}
needs_numba = pytest.mark.skipif(reading.json_kernels() is None, reason="numba is not installed")


def compiled_and_not(lines: bytes, first: bytes) -> tuple[pa.Table | None, pa.Table | None]:
    """What the compiled reader makes of lines with the shape of the first ones, and what Arrow does."""
    known = reading._arrow_table(first, ())
    assert known is not None
    parse_lines = reading.json_kernels()
    assert parse_lines is not None
    shape = Shape.of(known.schema)
    return (read_lines(lines, shape, parse_lines) if shape else None), reading._arrow_table(lines, tuple(known.schema))


@needs_numba
@settings(max_examples=300, deadline=None)
@given(rows=CHAT, ascii_only=st.booleans(), compact=st.booleans(), crlf=st.booleans(), last=st.booleans())
def test_compiled_or_not_lines_of_one_shape_are_the_same_table(
    rows: list[dict[str, Any]], ascii_only: bool, compact: bool, crlf: bool, last: bool
) -> None:
    rows = [FULL_ROW, *({key: row[key] for key in FULL_ROW} for row in rows)]
    for row in rows:
        row["messages"] = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
    separators = (",", ":") if compact else (", ", ": ")
    end = "\r\n" if crlf else "\n"
    lines = end.join(json.dumps(row, ensure_ascii=ascii_only, separators=separators) for row in rows) + end * last
    found, expected = compiled_and_not(lines.encode(), json.dumps(FULL_ROW).encode())
    assert found is not None
    found.validate(full=True)
    assert found.equals(expected)
    assert found.to_pylist() == rows


OTHER_SHAPES = {
    "another order of keys": b'{"tags": ["a"], "id": "x", "messages": []}',
    "a key more": b'{"id": "x", "messages": [], "tags": [], "more": "y"}',
    "a key less": b'{"id": "x", "messages": []}',
    "a key twice": b'{"id": "x", "id": "y", "messages": [], "tags": []}',
    "another key": b'{"idx": "x", "messages": [], "tags": []}',
    "an escaped key": b'{"\\u0069d": "x", "messages": [], "tags": []}',
    "null": b'{"id": null, "messages": [], "tags": []}',
    "a number": b'{"id": 7, "messages": [], "tags": []}',
    "a null message": b'{"id": "x", "messages": [null], "tags": []}',
    "a message with a key less": b'{"id": "x", "messages": [{"role": "user"}], "tags": []}',
    "a comma too many": b'{"id": "x", "messages": [], "tags": ["a",]}',
    "a comma too few": b'{"id": "x" "messages": [], "tags": []}',
    "text behind the object": b'{"id": "x", "messages": [], "tags": []} y',
    "two objects": b'{"id": "x", "messages": [], "tags": []}{"id": "x", "messages": [], "tags": []}',
    "a line feed in a string": b'{"id": "x\ny", "messages": [], "tags": []}',
    "a control character in a string": b'{"id": "x\x01y", "messages": [], "tags": []}',
    "an unknown escape": b'{"id": "\\q", "messages": [], "tags": []}',
    "an escape that is cut off": b'{"id": "\\u12", "messages": [], "tags": []}',
    "half a character": b'{"id": "\\ud83d", "messages": [], "tags": []}',
    "the wrong half first": b'{"id": "\\ude42\\ud83d", "messages": [], "tags": []}',
    "a blank line": b"  ",
    "nothing": b"",
    "an opening bracket": b"{",
    "no end of a string": b'{"id": "x',
    "no end of a list": b'{"id": "x", "messages": [{"role": "user", "content": "y"}',
    "a bare string": b'"text"',
    "null alone": b"null",
}


@needs_numba
@pytest.mark.parametrize("case", OTHER_SHAPES)
@pytest.mark.parametrize("end", [b"", b"\n"], ids=["at the end", "with a line feed"])
def test_the_compiled_reader_gives_up_where_the_shape_ends(case: str, end: bytes) -> None:
    first = json.dumps(FULL_ROW).encode()
    lines = first + b"\n" + OTHER_SHAPES[case] + end
    if (case, end) != ("nothing", b""):
        assert compiled_and_not(lines, first)[0] is None


@needs_numba
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_compiled_reader_withstands_damaged_lines(data: st.DataObject) -> None:
    first = json.dumps(FULL_ROW).encode()
    lines = bytearray(first + b"\n" + first)
    for _ in range(data.draw(st.integers(1, 3))):
        lines[data.draw(st.integers(0, len(lines) - 1))] = data.draw(st.sampled_from(b'{}[]",:\\u \n\x00\xffx'))
    cut = bytes(lines[: data.draw(st.integers(1, len(lines)))])
    if reading._is_utf8(cut):
        found, expected = compiled_and_not(cut, first)
        if found is not None:
            assert expected is not None
            assert found.equals(expected)


def test_a_line_of_twenty_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + json.dumps({"text": "word " * (4 << 20)}).encode() + b"\n" + GOOD)
    assert [len(text) for _, _, text in strings_in(path)] == [10, 20 << 20, 10]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_line_beyond_all_measure_is_counted_and_the_others_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SHARD_BYTES", 100)
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    content = GOOD * 9 + b'{"text": "' + b"x" * 5000 + b'"}\n' + GOOD * 9
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert totals(path) == (18, 1, 0, 0)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.", max_size=2), inner, max_size=3),
    max_leaves=8,
)


def all_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode(errors="replace").decode()
    elif isinstance(value, list):
        for item in value:
            yield from all_strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from all_strings(item)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(JSON_VALUES, max_size=6), ascii_only=st.booleans())
def test_no_string_of_any_json_is_lost(
    rows: list[Any], ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(
        "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode(errors="surrogatepass")
    )
    if rows and isinstance(rows[0], list):
        return  # perhaps one array: `data.reading` decides
    found: dict[int, list[str]] = {}
    for row, _, text in strings_in(path):
        found.setdefault(row, []).append(text)
    expected = {index: texts for index, row in enumerate(rows) if (texts := list(all_strings(row)))}
    if ascii_only or not any(
        "\ud800" <= char <= "\udfff" for texts in rows for text in all_strings(texts) for char in text
    ):
        assert {row: sorted(texts) for row, texts in found.items()} == {row: sorted(t) for row, t in expected.items()}


# -- Parquet and Arrow -------------------------------------------------------------------------------------------------


def test_text_that_is_not_utf8_in_parquet_is_read_and_counted(tmp_path: Path) -> None:
    data = pa.array([b"good", b"caf\xe9", None, b"ok"])
    text = pa.StringArray.from_buffers(4, data.buffers()[1], data.buffers()[2], data.buffers()[0])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4], pa.int32()), text)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": text, "more": lists, "n": [1, 2, 3, 4]}), path)
    assert totals(path) == (4, 0, 1, 0)
    assert [found for found in strings_in(path) if found[0] == 1] == [
        (1, "more[0]", "caf\ufffd"),
        (1, "text", "caf\ufffd"),
    ]


def test_text_that_a_writer_calls_bytes_is_read_and_pictures_are_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.array([b"caf\xc3\xa9", None]), "image": [b"\x89PNG\r\n", b"\xff\xd8"]}), path)
    assert strings_in(path) == [(0, "text", "café")]


# -- directories -------------------------------------------------------------------------------------------------------


def test_a_folder_that_links_to_itself_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes(GOOD)
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "test.jsonl").write_bytes(GOOD)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    os.mkfifo(tmp_path / "data" / "pipe.jsonl")
    splits = find_splits(tmp_path / "data")
    assert {split: [path.name for path in paths] for split, paths in splits.items()} == {
        "train": ["train.jsonl"],
        "test": ["test.jsonl"],
    }


def test_a_folder_that_datasets_saved_is_read_without_its_cache(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        arrow_file(folder / "data-00000-of-00001.arrow", ROWS[:5], stream=True)
        arrow_file(folder / "cache-0123456789abcdef.arrow", ROWS, stream=True)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    splits = find_splits(tmp_path)
    assert {split: len(paths) for split, paths in splits.items()} == {"train": 1, "test": 1}
    assert sum(block.row_count for block in blocks_of(tmp_path)) == 10


# -- CSV ---------------------------------------------------------------------------------------------------------------


def as_careful(path: Path) -> tuple[list[dict[str, str]], int] | str:
    """What the careful reader makes of it: rows and the number of broken ones, or that it refuses the file."""
    try:
        found = list(read_rows(path))
    except DataError:
        return "refused"
    rows = [item.values for item in found if isinstance(item, ReadRow)]
    return rows, len(found) - len(rows)


def as_audited(path: Path) -> tuple[list[dict[str, str]], int] | str:
    try:
        blocks = blocks_of(path)
    except DataError:
        return "refused"
    rows: list[dict[str, str]] = []
    for block in blocks:
        rows += block.table.to_pylist() if block.table is not None else block.rows
    return rows, sum(block.parse_errors for block in blocks)


CSV = {
    "plain": "a,b\n1,2\n3,4\n",
    "quotes, escapes and line breaks in them": 'a,b\n"1 ""x""","2\n3"\r\n"",""\n"a,b","""\n"""\n',
    "no last line feed": 'a,b\n1,2\n3,"4"',
    "empty lines": "a,b\n\n1,2\n\r\n\n3,4\n\n",
    "a record too short, one too long": "a,b\n1\n1,2\n1,2,3\n,\n",
    "a quote in the middle of a field": 'a,b\n5" pipe,x\n1,2\n',
    "text behind a closing quote": 'a,b\n"x"y,1\n1,2\n',
    "two quotes in an unquoted field": 'a,b\nx"",y\n',
    "a quote that is never closed": 'a,b\n1,"2\n3,4\n',
    "bare carriage returns": "a,b\r1,2\r3,4\r",
    "a carriage return in a field": 'a,b\n"x\ry",2\nx\ry,2\n',
    "NUL": "a,b\n1,\x002\n3,4\n",
    "values that look like null and numbers": "a,b\nNA,null\n007,1e5\nTrue,2024-01-01\n",
    "a byte order mark": "\ufeffa,b\n1,2\n",
    "quoted names": '"a","b,c"\n1,2\n',
    "a name twice": "a,a\n1,2\n",
    "a blank name": "a, \n1,2\n",
    "one column": 'a\n1\n\n""\n2\n',
    "semicolons": "a;b\n1;2\n",
    "a spreadsheet's first line": "sep=;\na;b\n1;2\n",
    "header only": "a,b\n",
    "spaces": 'a,b\n 1 , 2\n  \n "x" ,y\n',
    "other scripts": "a,b\né,日本\n🙂,\u2028\n",
}


@pytest.mark.parametrize("case", CSV)
@pytest.mark.parametrize("shard_bytes", [1 << 20, 4], ids=["one shard", "many shards"])
def test_csv_is_read_as_the_careful_reader_reads_it(
    case: str, shard_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SHARD_BYTES", shard_bytes)
    path = tmp_path / "rows.csv"
    path.write_bytes(CSV[case].encode())
    assert as_audited(path) == as_careful(path)


@settings(max_examples=400, deadline=None)
@given(text=st.text(st.sampled_from('ab,"\n\r é;'), max_size=40), size=st.integers(1, 30))
def test_so_is_whatever_looks_like_csv(text: str, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(f"x,y\n{text}".encode())
    before = reading.SHARD_BYTES
    reading.SHARD_BYTES = size
    try:
        assert as_audited(path) == as_careful(path)
    finally:
        reading.SHARD_BYTES = before


def test_csv_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n1,caf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        blocks_of(path)


def test_tabs_part_the_columns_of_tsv(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('a\tb\n1,5\t"x\ty"\n')
    assert strings_in(path) == [(0, "a", "1,5"), (0, "b", "x\ty")]
