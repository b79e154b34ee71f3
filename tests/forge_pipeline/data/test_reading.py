"""Files of every kind, and every way in which they are broken."""

import datetime
import decimal
import gzip
import io
import json
import os
import socket
import tracemalloc
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from forge_pipeline.data.readers import row as limits
from forge_pipeline.data.readers import text
from forge_pipeline.data.reading import BrokenRow, ReadRow, is_data_file, known_suffixes, read_rows
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import loads_strict

ROW = {"question": "a  b\n\tc\u2028d", "answer": "é"}


def _yaml(path: Path) -> None:
    path.write_text("categories:\n- T\nconversations:\n- - Yes\n  - 'It''s 4'\n- - No\n  - 1963\n", encoding="utf-8")


def _stream(path: Path) -> None:
    table = pa.Table.from_pylist([ROW, ROW])
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def _ipc_file(path: Path) -> None:
    table = pa.Table.from_pylist([ROW, ROW])
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda p: p.write_text("\n".join(json.dumps(ROW) for _ in range(2)) + "\n\n"),
    "windows.jsonl": lambda p: p.write_bytes(
        b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(ROW).encode() for _ in range(2))
    ),
    "unescaped.jsonl": lambda p: p.write_text(f"{json.dumps(ROW, ensure_ascii=False)}\n" * 2, encoding="utf-8"),
    "array.json": lambda p: p.write_text(json.dumps([ROW, ROW], indent=2)),
    "array.jsonl": lambda p: p.write_text(json.dumps([ROW, ROW], indent=2)),
    "objects.json": lambda p: p.write_text(json.dumps(ROW, indent=2) + "\n" + json.dumps(ROW, indent=2)),
    "lines.json": lambda p: p.write_text(f"{json.dumps(ROW)}\n" * 2),
    "rows.jsonl.gz": lambda p: p.write_bytes(gzip.compress(f"{json.dumps(ROW)}\n".encode() * 2)),
    "rows.parquet": lambda p: pq.write_table(pa.Table.from_pylist([ROW, ROW]), p),
    "stream.arrow": _stream,
    "file.arrow": _ipc_file,
    "rows.feather": lambda p: feather.write_feather(pa.Table.from_pylist([ROW, ROW]), p),
    "concatenated.json": lambda p: p.write_text(json.dumps(ROW) + json.dumps(ROW)),
    "excel.csv": lambda p: p.write_text("sep=;\r\nquestion;answer\r\n" + '"a  b\n\tc\u2028d";é\r\n' * 2, newline=""),
    "semicolons.csv": lambda p: p.write_text("question;answer\n" + '"a  b\n\tc\u2028d";é\n' * 2, newline=""),
    "mark.csv": lambda p: p.write_text("\ufeffquestion,answer\n" + '"a  b\n\tc\u2028d",é\n' * 2, newline=""),
    "rows.csv": lambda p: p.write_text(
        'question,answer\n"a  b\n\tc\u2028d",é\n' + '"a  b\n\tc\u2028d",é\n', newline=""
    ),
    "rows.tsv": lambda p: p.write_text(
        'question\tanswer\n"a  b\n\tc\u2028d"\té\n' * 1 + '"a  b\n\tc\u2028d"\té\n', newline=""
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    rows = list(read_rows(tmp_path / name))
    assert [row.values for row in rows if isinstance(row, ReadRow)] == [ROW, ROW]


def test_lines_are_counted_where_rows_begin(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"two\nlines",x\ny,z\n')
    (tmp_path / "a.json").write_text('[\n{"text": "a"},\n\n{"text":\n "b"}]')
    (tmp_path / "a.jsonl").write_text('\n{"text": "a"}\n\n{"text": "b"}\n')
    assert [row.line for row in read_rows(tmp_path / "a.csv")] == [2, 4]
    assert [row.line for row in read_rows(tmp_path / "a.json")] == [2, 4]
    assert [row.line for row in read_rows(tmp_path / "a.jsonl")] == [2, 4]


def test_csv_values_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n007,NA\n")
    assert [row.values for row in read_rows(tmp_path / "a.csv") if isinstance(row, ReadRow)] == [
        {"question": "007", "answer": "NA"}
    ]


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000 + "\n")
    assert len(next(read_rows(tmp_path / "a.csv")).values["text"]) == 200_000  # type: ignore[union-attr]


def test_turns_of_a_chatterbot_corpus_alternate_and_stay_text(tmp_path: Path) -> None:
    _yaml(tmp_path / "a.yml")
    rows = list(read_rows(tmp_path / "a.yml"))
    assert rows[0] == ReadRow(
        4,
        {
            "messages": [{"role": "user", "content": "Yes"}, {"role": "assistant", "content": "It's 4"}],
            "categories": ["T"],
        },
    )
    assert rows[1].values["messages"][1]["content"] == "1963"  # type: ignore[union-attr]


GOOD = b'{"text": "fine"}\n'
BROKEN_ROWS = {
    "broken JSON": (b'{"text": "a}\n', "not JSON"),
    "NUL bytes": (b'{"text": "a\0b"}\n', "NUL bytes"),
    "only NUL bytes": (b"\0" * 64 + b"\n", "NUL bytes"),
    "array row": (b"[1, 2]\n", "list instead of an object"),
    "text row": (b'"just text"\n', "str instead of an object"),
    "null row": (b"null\n", "NoneType instead of an object"),
    "nested 1,000 levels": (b'{"text": ' + b"[" * 1000 + b"]" * 1000 + b"}\n", "nested"),
    "nested 100,000 levels": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "nested"),
    "nested 40 levels": (b'{"text": ' + b"[" * 40 + b"]" * 40 + b"}\n", "nested"),
    "duplicate key": (b'{"text": "a", "text": "b"}\n', "duplicate key 'text'"),
    "half a surrogate pair": (b'{"text": "\\ud83d"}\n', "surrogate"),
    "not a number": (b'{"text": "a", "score": NaN}\n', "NaN is not JSON"),
    "number of 5,000 digits": (b'{"text": ' + b"9" * 5000 + b"}\n", "4300 digits"),
    "nested 10,000 levels": (b'{"text": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}\n", "nested"),
    "a number beyond a double": (b'{"text": "a", "score": 1e999}\n', "beyond the range of a double"),
    "half a surrogate pair in a key": (b'{"\\uDC00": "a"}\n', "surrogate"),
    "two objects": (b'{"text": "a"} {"text": "b"}\n', "Extra data"),
    "cut off": (b'{"text": "a', "not JSON"),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_a_broken_row_is_named_and_the_next_one_is_read(name: str, tmp_path: Path) -> None:
    line, reason = BROKEN_ROWS[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line + (GOOD if line.endswith(b"\n") else b""))
    rows = list(read_rows(path))
    assert isinstance(rows[1], BrokenRow)
    assert rows[1].line == 2
    assert reason in rows[1].reason
    assert all(isinstance(row, ReadRow) for row in (rows[0], *rows[2:]))


BROKEN_FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("a.jsonl", None, "there is no such file"),
    "empty": ("a.jsonl", b"", "holds no rows"),
    "blank": ("a.jsonl", b"\n \n", "holds no rows"),
    "empty array": ("a.json", b"[]", "holds no rows"),
    "header only": ("a.csv", b"text\n", "holds no rows"),
    "Latin-1": ("a.jsonl", GOOD + b'{"text": "caf\xe9"}\n', "line 2: byte 0xe9 is not UTF-8"),
    "Latin-1 CSV": ("a.csv", b"text\nok\ncaf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
    "UTF-16": ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "UTF-16"),
    "unknown kind": ("a.doc", b"PK", "cannot read files of this kind; expected .jsonl"),
    "Parquet in gzip": ("a.parquet.gz", gzip.compress(b"PAR1"), "cannot read files of this kind"),
    "gzip cut off": ("a.jsonl.gz", gzip.compress(GOOD * 1000)[:-12], "not a whole gzip file"),
    "not gzip": ("a.jsonl.gz", GOOD, "not a whole gzip file"),
    "not Parquet": ("a.parquet", b"PAR1 but not really PAR1", "not readable as Parquet"),
    "array with a broken row": ("a.json", b'[{"text": "a"},\n{"text": b}]', "line 2: the row that begins here"),
    "array cut off": ("a.json", b'[{"text": "a"},\n{"text": "b"}', "cut off"),
    "array never closed": ("a.json", b'[{"text": "a"},', "never closed"),
    "array and more": ("a.json", b'[{"text": "a"}] {}', "more text after the array"),
    "open quote": ("a.csv", b'text\nfine\n"open\nrow\nrow\n', "line 3: a quote that opens in this row is never closed"),
    "two columns of one name": ("a.csv", b"a,a\n1,2\n", "line 1: expected a header"),
    "only a byte order mark": ("a.jsonl", b"\xef\xbb\xbf", "holds no rows"),
    "only a byte order mark, JSON": ("a.json", b"\xef\xbb\xbf", "holds no rows"),
    "only a byte order mark, CSV": ("a.csv", b"\xef\xbb\xbf", "line 1: expected a header"),
    "blank lines only, CSV": ("a.csv", b"\n\n", "line 1: expected a header"),
    "UTF-16 JSON": ("a.json", '[{"text": "a"}]'.encode("utf-16"), "UTF-16"),
    "UTF-16 CSV": ("a.csv", "text\na\n".encode("utf-16"), "UTF-16"),
    "Latin-1 in an array": ("a.json", b'[{"text": "ok"},\n{"text": "caf\xe9"}]', "line 2: byte 0xe9 is not UTF-8"),
    "a character cut off": ("a.json", b'[{"text": "caf\xc3', "is not UTF-8"),
    "a bracket too many": ("a.json", b'{\n"text": "a"}\n]\n', "line 3: ']' stands where a row should begin"),
    "array in JSONL, cut off": ("a.jsonl", b'[{"text": "a"},\n{"text": "b"}', "cut off"),
    "delimiters that disagree": ("a.csv", b"a;b\n1;2;3\n", "2 names between semicolons and the first row 3 fields"),
    "header of blanks": ("a.csv", b"a, \n1,2\n", "line 1: expected a header"),
    "Arrow of nothing": ("a.arrow", b"ARROW1\0\0", "not readable as Arrow"),
    "not Arrow": ("a.arrow", b"never was one", "not readable as Arrow"),
    "Feather 1": ("a.feather", b"FEA1" + b"\0" * 64, "Feather version 1"),
    "deep YAML": ("a.yml", b"conversations: " + b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "unknown alias": ("a.yml", b"conversations:\n- - *a\n", "not YAML"),
    "YAML of NUL": ("a.yml", b"conversations:\n- - a\0\n", "not YAML"),
    "not YAML": ("a.yml", b"conversations:\n- - a\n  - 'b\n", "not YAML"),
    "other YAML": ("a.yml", b"- 1\n", "expected a key 'conversations'"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_broken_as_a_whole_is_refused_by_name(name: str, tmp_path: Path) -> None:
    file, content, reason = BROKEN_FILES[name]
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        list(read_rows(path))
    assert str(path) in str(refused.value)
    assert reason in str(refused.value)


def test_csv_rows_of_another_width_and_a_yaml_item_that_is_no_conversation_are_broken_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\na,b\nonly one\na,b,c\n")
    (tmp_path / "a.yml").write_text("conversations:\n- - a\n  - b\n- lonely\n  - c\n- - d\n  - [e]\n")
    assert [(r.line, type(r)) for r in read_rows(tmp_path / "a.csv")] == [(2, ReadRow), (3, BrokenRow), (4, BrokenRow)]
    assert [(r.line, type(r)) for r in read_rows(tmp_path / "a.yml")] == [(2, ReadRow), (4, BrokenRow), (6, BrokenRow)]


@pytest.mark.parametrize("name", [name for name in BROKEN_ROWS if name not in ("cut off", "two objects")])
def test_what_breaks_a_row_of_json_lines_is_told_of_an_array_too(name: str, tmp_path: Path) -> None:
    line, reason = BROKEN_ROWS[name]
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + GOOD + b"," + line + b"," + GOOD + b"]")
    if ("not JSON" in reason and "NaN" not in reason) or "NUL" in reason:  # nothing says where the next element begins
        with pytest.raises(DataError, match="line 2: the row that begins here is not JSON"):
            list(read_rows(path))
        return
    rows = list(read_rows(path))
    assert [type(row) for row in rows] == [ReadRow, BrokenRow, ReadRow]
    assert reason in rows[1].reason  # type: ignore[union-attr]


def test_integers_of_any_size_and_numbers_stay_what_they_are(tmp_path: Path) -> None:
    values = {"id": 2**63 + 1, "tweet": 1234567890123456789, "big": 10**100, "negative": -(2**70), "float": 0.1}
    (tmp_path / "a.jsonl").write_text(json.dumps(values))
    (tmp_path / "a.json").write_text(json.dumps([values]))
    assert next(read_rows(tmp_path / "a.jsonl")) == ReadRow(1, values)
    assert next(read_rows(tmp_path / "a.json")) == ReadRow(1, values)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), _JSON, min_size=1, max_size=4), min_size=1, max_size=4),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 64),
)
def test_rows_are_what_the_strict_parser_reads_wherever_the_file_is_cut_into_chunks(
    rows: list[dict[str, Any]],
    indent: int | None,
    ascii_only: bool,
    chunk: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    texts = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    (folder / "a.jsonl").write_text("\r\n".join(texts), newline="", encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(rows, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    (folder / "b.json").write_text("".join(json.dumps(row, indent=indent) for row in rows), encoding="utf-8")
    expected = [_without_nulls(loads_strict(text)) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "CHUNK", chunk)
        for name in ("a.jsonl", "a.json", "b.json"):
            found = [row.values for row in read_rows(folder / name) if isinstance(row, ReadRow)]
            assert found == expected, name


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


# Size and memory


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "b.json", "a.csv"])
def test_a_row_longer_than_the_limit_is_stepped_over_and_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LONGEST_ROW", 2000)
    monkeypatch.setattr(text, "CHUNK", 512)
    path, long = tmp_path / name, {"text": 'say \\"[{\\\\" ' * 500, "more": [1, {"a": "}]"}]}
    if name == "a.jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ({"text": "a"}, long, {"text": "b"})))
    elif name == "a.json":
        path.write_text(json.dumps([{"text": "a"}, long, {"text": "b"}]).replace("}, {", "},\n{"))
    elif name == "b.json":
        path.write_text("\n".join(json.dumps(row, indent=1) for row in ({"text": "a"}, long, {"text": "b"})))
    else:
        path.write_text('text\na\n"' + "x" * 5000 + '"\nb\n')
    rows = list(read_rows(path))
    assert [row.values["text"] for row in rows if isinstance(row, ReadRow)] == ["a", "b"]
    (broken,) = [row for row in rows if isinstance(row, BrokenRow)]
    assert "is longer than" in broken.reason
    assert broken.line == {"a.jsonl": 2, "a.json": 2, "b.json": 4, "a.csv": 3}[name]


def test_a_quote_that_swallows_the_file_is_refused_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LONGEST_ROW", 2000)
    (tmp_path / "a.csv").write_text('text\na\n"open' + "\nrow" * 2000)
    with pytest.raises(DataError, match=r"line 3: the row that begins here is longer .*never closed"):
        list(read_rows(tmp_path / "a.csv"))


def test_a_line_of_20_megabytes_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 20_000_000}) + "\n" + json.dumps({"text": "b"}))
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 20_000_000}, {"text": "b"}]))
    for name in ("a.jsonl", "a.json"):
        assert [len(row.values["text"]) for row in read_rows(tmp_path / name) if isinstance(row, ReadRow)] == [
            20_000_000,
            1,
        ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow"])
def test_the_first_rows_of_a_large_file_are_there_at_once(name: str, tmp_path: Path) -> None:
    path, count = tmp_path / name, 200
    value = "x" * 200_000  # 40 MB in all
    if name == "a.jsonl":
        path.write_text((json.dumps({"text": value}) + "\n") * count)
    elif name == "a.json":
        path.write_text("[" + ",".join([json.dumps({"text": value})] * count) + "]")
    elif name == "a.csv":
        path.write_text("text\n" + (value + "\n") * count)
    else:
        table = pa.table({"text": [value[:-3] + f"{i:03}" for i in range(count)]})
        if name == "a.parquet":
            pq.write_table(table, path, compression="none", write_batch_size=10)  # pages of 2 MB
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=10)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        rows = read_rows(path)
        assert len(list(islice(rows, 3))) == 3
        held = tracemalloc.get_traced_memory()[1] + pool.bytes_allocated() - before
    finally:
        tracemalloc.stop()
    rows.close()  # type: ignore[attr-defined]
    assert held < 24 * 2**20


# Names that are no plain files


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_what_is_no_plain_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.chdir(tmp_path)  # the address of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    with pytest.raises(DataError, match=f"is a {kind}; expected a plain file"):
        list(read_rows(path))


def test_data_files_are_known_by_their_names() -> None:
    names = [f"A{suffix.upper()}" for suffix in known_suffixes()] + [
        "a.jsonl.zst",
        "a.csv.bz2",
        "a.json.xz",
        "a.tsv.gz",
    ]
    assert all(is_data_file(Path(name)) for name in names)
    assert not any(is_data_file(Path(name)) for name in ("a", "a.parquet.gz", "a.pdf", "a.gz", "jsonl", "a.jsonl.zip"))


# CSV


DELIMITERS: dict[str, tuple[str, str, list[dict[str, str]]]] = {
    "decimal commas": ("a.csv", "a;b\n1,5;2,5\n", [{"a": "1,5", "b": "2,5"}]),
    "tabs in a .csv": ("a.csv", "a\tb\n1\t2\n", [{"a": "1", "b": "2"}]),
    "vertical bars": ("a.csv", "a|b\n1|2\n", [{"a": "1", "b": "2"}]),
    "commas in a .tsv": ("a.tsv", "a,b\n1,2\n", [{"a": "1", "b": "2"}]),
    "a name with a semicolon": ("a.csv", "what; where\nhere\n", [{"what; where": "here"}]),
    "a name with a semicolon among commas": ("a.csv", "a;b,c\n1,2\n", [{"a;b": "1", "c": "2"}]),
    "one column": ("a.csv", "text\na;b\n", [{"text": "a;b"}]),
}


@pytest.mark.parametrize("name", DELIMITERS)
def test_the_delimiter_is_the_one_that_header_and_first_row_agree_on(name: str, tmp_path: Path) -> None:
    file, content, expected = DELIMITERS[name]
    (tmp_path / file).write_text(content)
    assert [row.values for row in read_rows(tmp_path / file) if isinstance(row, ReadRow)] == expected


def test_broken_csv_rows_are_named_and_lines_counted_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b\n"x"y,1\nn\0ul,2\n"two\nlines",3\n\nlast,4\n')
    assert [(row.line, type(row)) for row in read_rows(tmp_path / "a.csv")] == [
        (2, BrokenRow),
        (3, BrokenRow),
        (4, ReadRow),
        (7, ReadRow),
    ]


def test_two_csv_files_may_be_read_by_turns(tmp_path: Path) -> None:
    """The csv module's limit of a field is process-wide: the end of one reading may not lower it for the other."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text\n" + ("x" * 200_000 + "\n") * 2)
    first, second = read_rows(tmp_path / "a.csv"), read_rows(tmp_path / "b.csv")
    next(first), next(second)
    list(first)
    assert all(isinstance(row, ReadRow) for row in second)


# Parquet and Arrow


MOMENT = datetime.datetime(2024, 1, 31, 12, 30, 0, 1)
ZONE = datetime.timezone(datetime.timedelta(hours=2))
COLUMNS: dict[str, tuple[pa.Array, Any]] = {
    "dates": (pa.array([datetime.date(2024, 1, 31), None]), "2024-01-31"),
    "64-bit dates": (pa.array([datetime.date(2024, 1, 31), None], pa.date64()), "2024-01-31"),
    "time stamps": (pa.array([MOMENT, None]), "2024-01-31T12:30:00.000001"),
    "nanoseconds": (pa.array([1, None], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
    "time stamps with a zone": (
        pa.array([MOMENT.replace(tzinfo=ZONE), None], pa.timestamp("us", "Europe/Berlin")),
        "2024-01-31T10:30:00.000001Z",
    ),
    "years beyond 9999": (pa.array([2**38, None], pa.timestamp("s")), "10680-07-14T06:09:04"),
    "times": (pa.array([datetime.time(1, 2, 3, 4), None]), "01:02:03.000004"),
    "durations": (pa.array([datetime.timedelta(seconds=-90, microseconds=1), None]), "-PT89.999999S"),
    "decimals": (pa.array([decimal.Decimal("1.50"), None]), "1.50"),
    "wide decimals": (pa.array([decimal.Decimal("1.50"), None], pa.decimal256(60, 2)), "1.50"),
    "binary": (pa.array([b"\x00\xff", None]), "00ff"),
    "fixed binary": (pa.array([b"\x00\xff", None], pa.binary(2)), "00ff"),
    "UUIDs": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=5).bytes, None], pa.binary(16))),
        str(uuid.UUID(int=5)),
    ),
    "dictionaries": (pa.array(["a", None]).dictionary_encode(), "a"),
    "dictionaries of dates": (pa.array([datetime.date(2024, 1, 31), None]).dictionary_encode(), "2024-01-31"),
    "lists of structs": (
        pa.array([[{"role": "user", "at": MOMENT}, {"role": None, "at": None}, None], None]),
        [{"role": "user", "at": "2024-01-31T12:30:00.000001"}, {}, None],
    ),
    "empty lists": (pa.array([[], None], pa.list_(pa.date32())), []),
    "fixed lists": (pa.array([[MOMENT, None], None], pa.list_(pa.timestamp("s"), 2)), ["2024-01-31T12:30:00", None]),
    "maps": (pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int64())), {"a": 1}),
    "maps with a repeated key": (
        pa.array([[("a", 1), ("a", 2)], None], pa.map_(pa.string(), pa.int64())),
        [{"key": "a", "value": 1}, {"key": "a", "value": 2}],
    ),
    "maps of numbers": (pa.array([[(1, "x")], None], pa.map_(pa.int64(), pa.string())), [{"key": 1, "value": "x"}]),
    "structs in structs": (pa.array([{"a": {"b": None, "c": 1}, "d": None}, None]), {"a": {"c": 1}}),
    "unsigned integers": (pa.array([2**64 - 1, None], pa.uint64()), 2**64 - 1),
    "half floats": (pa.array([1.5, None], pa.float16()), 1.5),
    "large text": (pa.array(["é", None], pa.large_string()), "é"),
    "text views": (pa.array(["é", None], pa.string_view()), "é"),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_column_of_any_type_becomes_values_that_json_has(name: str, kind: str, tmp_path: Path) -> None:
    array, expected = COLUMNS[name]
    path, table = tmp_path / f"a.{kind}", pa.table({"n": [1, 2], "value": array})
    if kind == "parquet":
        try:
            pq.write_table(table, path)
        except pa.ArrowNotImplementedError:
            pytest.skip("Parquet has no such type")
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    rows = [row.values for row in read_rows(path) if isinstance(row, ReadRow)]
    found = rows[0]["value"]
    if name in ("fixed lists", "64-bit dates", "years beyond 9999") and kind == "parquet":
        found = json.loads(json.dumps(found).replace(".000", ""))  # stored in another unit
    assert rows == [{"n": 1, "value": rows[0]["value"]}, {"n": 2}]
    assert found == expected
    assert json.loads(json.dumps(found)) == expected


def test_slices_of_nested_columns_keep_to_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge_pipeline.data.readers.arrow_values._ROWS_AT_ONCE", 3)
    day = datetime.date(2024, 1, 1)
    values = [
        {"days": [day + datetime.timedelta(i)] * (i % 3), "map": [(str(i), i)], "fixed": [i, i], "one": {"at": day}}
        for i in range(10)
    ]
    schema = pa.schema(
        {
            "days": pa.list_(pa.date32()),
            "map": pa.map_(pa.string(), pa.int64()),
            "fixed": pa.list_(pa.int64(), 2),
            "one": pa.struct({"at": pa.date32()}),
        }
    )
    with pa.ipc.new_file(tmp_path / "a.arrow", schema) as writer:
        writer.write_table(pa.Table.from_pylist(values, schema))
    rows = list(read_rows(tmp_path / "a.arrow"))
    assert rows == [
        ReadRow(
            i + 1,
            {
                "days": [(day + datetime.timedelta(i)).isoformat()] * (i % 3),
                "map": {str(i): i},
                "fixed": [i, i],
                "one": {"at": "2024-01-01"},
            },
        )
        for i in range(10)
    ]


def test_text_in_parquet_that_is_not_utf8_breaks_its_row_only(tmp_path: Path) -> None:
    values = pa.array([b"fine", b"caf\xe9", b"also fine"]).view(pa.string())
    pq.write_table(pa.table({"id": [1, 2, 3], "text": values}), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == [
        ReadRow(1, {"id": 1, "text": "fine"}),
        BrokenRow(2, "column 'text' holds text that is not UTF-8"),
        ReadRow(3, {"id": 3, "text": "also fine"}),
    ]


def test_what_save_to_disk_of_the_datasets_library_writes_is_read(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([ROW, ROW]).save_to_disk(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    assert [row.values for row in read_rows(file) if isinstance(row, ReadRow)] == [ROW, ROW]


def _tables() -> dict[str, bytes]:
    table = pa.table({"text": [f"row {i} " * 20 for i in range(5000)], "n": list(range(5000))})
    parquet, stream, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=1000)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=500)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=500)
    return {"a.parquet": parquet.getvalue(), "stream.arrow": stream.getvalue(), "file.arrow": file.getvalue()}


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize("cut", [0.02, 0.5, 0.9, 0.999])
def test_a_table_that_is_cut_off_is_refused(name: str, cut: float, tmp_path: Path) -> None:
    content = _tables()[name]
    (tmp_path / name).write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(DataError, match="not readable as"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_table_with_flipped_bytes_is_read_or_refused_but_never_crashes(name: str, tmp_path: Path) -> None:
    content = _tables()[name]
    path = tmp_path / name
    for at in range(8, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with suppress(DataError):
            assert all(isinstance(row, ReadRow | BrokenRow) for row in read_rows(path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns are named 'text'"):
        list(read_rows(tmp_path / "a.parquet"))


def test_columns_that_are_marked_as_json_are_decoded_strictly(tmp_path: Path) -> None:
    field = pa.field("extra", pa.string(), metadata={"forge.encoding": "json"})
    values = ['{"a":null,"b":12345678901234567890}', '{"a":1,"a":2}', None]
    pq.write_table(pa.table({"extra": pa.array(values)}).cast(pa.schema([field])), tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet"))
    assert rows[0] == ReadRow(1, {"extra": {"b": 12345678901234567890}})
    assert isinstance(rows[1], BrokenRow)
    assert "duplicate key 'a'" in rows[1].reason
    assert rows[2] == ReadRow(3, {})


def test_aliases_in_a_corpus_stand_for_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("conversations:\n- &c\n  - &hi Hello\n  - *hi\n- *c\n")
    rows = list(read_rows(tmp_path / "a.yml"))
    assert [[turn["content"] for turn in row.values["messages"]] for row in rows if isinstance(row, ReadRow)] == [
        ["Hello", "Hello"],
        ["Hello", "Hello"],
    ]
