"""Rows survive Arrow and Parquet unchanged, whatever is in them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.data.columns import json_columns, rows_of, table_of, without_nulls, write_parquet

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), max_size=4))
def test_any_json_rows_come_back_without_their_nulls(rows: list[dict[str, Any]]) -> None:
    rows = [{"id": i, **row} for i, row in enumerate(rows)]
    assert list(rows_of(table_of(rows))) == [without_nulls(row) for row in rows]


AWKWARD = {
    "text and list": [{"x": "a"}, {"x": ["a"]}],
    "beyond 64 bits": [{"x": 2**70}, {"x": 1}],
    "empty object": [{"x": {}}, {"x": {"a": 1}}],
    "number and text in objects": [{"x": {"a": 1}}, {"x": {"a": "1"}}],
    "map with many keys": [{"x": {f"key {i}": i for i in range(100)}}],
    "kinds that change after thousands of rows": [*({"x": i} for i in range(5000)), {"x": "text"}],
    "integers that a float would round": [*({"x": 2**60 + 1} for _ in range(5000)), {"x": 0.5}],
    "column that comes late": [*({"a": i} for i in range(5000)), {"b": "late"}],
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_columns_come_back_from_parquet(name: str, tmp_path: Path) -> None:
    rows = AWKWARD[name]
    write_parquet(table_of(rows), tmp_path / "t.parquet")
    assert list(rows_of(pq.read_table(tmp_path / "t.parquet"))) == rows


def test_ordinary_columns_are_stored_in_their_own_type() -> None:
    table = table_of([{"messages": [{"role": "user", "content": "a"}], "score": 1.5, "note": None, "kind": 1}])
    assert json_columns(table.schema) == []
    assert str(table.schema.field("messages").type) == "list<item: struct<role: string, content: string>>"


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(table_of([{"x": i, "y": {"z": [str(i)]}} for i in range(5000)]), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
