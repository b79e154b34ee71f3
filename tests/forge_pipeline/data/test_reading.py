"""Files of every kind, and every way in which they are broken."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forge_pipeline.data.reading import BrokenRow, ReadRow, read_rows
from forge_pipeline.errors import DataError

ROW = {"question": "a  b\n\tc\u2028d", "answer": "é"}


def _yaml(path: Path) -> None:
    path.write_text("categories:\n- T\nconversations:\n- - Yes\n  - 'It''s 4'\n- - No\n  - 1963\n", encoding="utf-8")


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
    "unknown kind": ("a.docx", b"PK", "cannot read files of this kind; expected .jsonl"),
    "gzip cut off": ("a.jsonl.gz", gzip.compress(GOOD * 1000)[:-12], "not a whole gzip file"),
    "not gzip": ("a.jsonl.gz", GOOD, "not a whole gzip file"),
    "not Parquet": ("a.parquet", b"PAR1 but not really PAR1", "not readable as Parquet"),
    "array with a broken row": ("a.json", b'[{"text": "a"},\n{"text": b}]', "line 2: the row that begins here"),
    "array cut off": ("a.json", b'[{"text": "a"},\n{"text": "b"}', "cut off"),
    "array never closed": ("a.json", b'[{"text": "a"},', "never closed"),
    "array and more": ("a.json", b'[{"text": "a"}] {}', "more text after the array"),
    "open quote": ("a.csv", b'text\nfine\n"open\nrow\nrow\n', "line 3: a quote that opens in this row is never closed"),
    "two columns of one name": ("a.csv", b"a,a\n1,2\n", "line 1: expected a header"),
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
