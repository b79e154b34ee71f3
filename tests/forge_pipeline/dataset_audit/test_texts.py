"""Strings of rows: found wherever they are nested, in Arrow and in Python alike."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit.reading import Block, find_splits, plan, read_blocks
from forge_pipeline.dataset_audit.texts import row_texts, strings_of

Found = dict[tuple[int, str], str]


def found_in(block: Block) -> Found:
    return {
        (int(item.rows[index]), item.path(index)): text
        for item in strings_of(block)
        for index, text in enumerate(item.texts.to_pylist())
    }


def as_table(rows: list[dict[str, Any]]) -> Block:
    return Block(len(rows), (), pa.Table.from_pylist(rows))


ROW = {
    "id": "7",
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]},
    ],
    "chosen": "yes",
    "nested": {"deep": [["x", "y"], ["z"]]},
    "number": 5,
}


def test_every_string_is_found_under_its_path() -> None:
    expected = {
        (0, "id"): "7",
        (0, "messages[0].role"): "user",
        (0, "messages[0].content"): "Hello",
        (0, "messages[1].role"): "assistant",
        (0, "messages[1].tool_calls[0].function.name"): "f",
        (0, "messages[1].tool_calls[0].function.arguments"): '{"a": 1}',
        (0, "chosen"): "yes",
        (0, "nested.deep[0][0]"): "x",
        (0, "nested.deep[0][1]"): "y",
        (0, "nested.deep[1][0]"): "z",
    }
    assert found_in(as_table([ROW])) == expected
    assert found_in(Block(1, (), rows=(ROW,))) == expected


TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": TEXT,
            "tags": st.none() | st.lists(TEXT, max_size=3),
            "messages": st.none()
            | st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT, "parts": st.lists(TEXT, max_size=2)})),
        }
    ),
    max_size=5,
)
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("tags", pa.list_(pa.string())),
        (
            "messages",
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("parts", pa.list_(pa.string()))])),
        ),
    ]
)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_arrow_and_python_rows_give_the_same_strings_and_texts(rows: list[dict[str, Any]]) -> None:
    table = Block(len(rows), (), pa.Table.from_pylist(rows, schema=SCHEMA))
    plain = Block(len(rows), (), rows=tuple(rows))
    assert found_in(table) == found_in(plain)
    assert row_texts(strings_of(table), len(rows)).to_pylist() == row_texts(strings_of(plain), len(rows)).to_pylist()


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", None, "b"], pa.large_string()),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.array(["a", None, "b"], pa.string_view()),
        pa.array([["a"], None, ["b"]], pa.list_(pa.string(), 1)),
        pa.array([["a"], None, ["b"]], pa.large_list(pa.string())),
        pa.array([[("k", "a")], None, [("k", "b")]], pa.map_(pa.string(), pa.string())),
        pa.array([["a"], None, ["b"]], pa.list_view(pa.string())),
        pa.RunEndEncodedArray.from_arrays([1, 2, 3], ["a", None, "b"]),
        pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array(["a", "c", "b"]), pa.array([1, 2, 3])]),
        pa.ListArray.from_arrays(
            pa.array([0, 1, 1, 3], pa.int32()),
            pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array(["a", "c", "b"]), pa.array([1, 2, 3])]),
        ),
        pa.array([b"a", None, b"b"]),
        pa.array([b"a", None, b"b"], pa.binary_view()),
    ],
    ids=lambda array: str(array.type),
)
def test_every_arrow_type_that_holds_strings_is_walked(array: pa.Array) -> None:
    found = found_in(Block(3, (), pa.table({"c": array})))
    assert {(row, text) for (row, _), text in found.items()} - {(0, "k"), (2, "k")} == {(0, "a"), (2, "b")}


def test_a_sliced_column_keeps_its_rows() -> None:
    table = pa.table({"m": [["a", "b"], ["c"], [], ["d", "e"]]}).slice(1)
    assert found_in(Block(3, (), table)) == {(0, "m[0]"): "c", (2, "m[0]"): "d", (2, "m[1]"): "e"}


TEXT_OF_ROW = {
    "conversation": (
        {"id": "a", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        "Hi\nHo",
    ),
    "preference": ({"prompt": "Q", "chosen": "A", "rejected": "B", "id": "1"}, "A\nQ\nB"),
    "multi-part content": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, "Hi"),
    "unknown columns": ({"title": "T", "body": "B", "id": "1"}, "B\nT"),
    "blank": ({"text": " ", "id": "1"}, " "),
    "nothing": ({"number": 5}, ""),
}


@pytest.mark.parametrize("case", TEXT_OF_ROW)
def test_the_text_of_a_row(case: str) -> None:
    row, text = TEXT_OF_ROW[case]
    for block in (as_table([row]), Block(1, (), rows=(row,))):
        assert row_texts(strings_of(block), 1).to_pylist() == [text]


def test_dates_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "2024-01-01T00:00:00Z", "l": [{"d": "2024-01-02"}]}\n')
    (block,) = read_blocks(plan(find_splits(path))[0])
    assert block.table is not None
    assert found_in(block) == {(0, "text"): "2024-01-01T00:00:00Z", (0, "l[0].d"): "2024-01-02"}


def test_columns_that_are_stored_as_json_are_decoded() -> None:
    table = pa.table({"mixed": [json.dumps({"a": ["x"]}), None, json.dumps("y")]})
    block = Block(3, ("mixed",), table, json_columns=("mixed",))
    assert found_in(block) == {(0, "mixed.a[0]"): "x", (2, "mixed"): "y"}
