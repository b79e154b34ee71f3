"""Rows survive Arrow and Parquet unchanged, whatever is in them."""

import datetime as dt
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.data import columns
from forge_pipeline.data.columns import json_columns, read_parquet_rows, rows_of, table_of, without_nulls, write_parquet
from forge_pipeline.data.spill import RowSpill, TextSpill

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


def spilled(rows: list[dict[str, Any]], folder: Path, taken: list[int] | None = None) -> Path:
    """The rows (or those numbered) written through a spill to a Parquet file."""
    spill = RowSpill(folder / "spill")
    for row in rows:
        spill.append(row, 100)
    spill.finish()
    spill.write({folder / "t.parquet": np.array(range(len(rows)) if taken is None else taken)})
    return folder / "t.parquet"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), max_size=7), st.integers(1, 4))
def test_the_law_holds_however_the_rows_are_cut_into_chunks(rows: list[dict[str, Any]], chunk: int) -> None:
    rows = [{"id": i, **row} for i, row in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("forge_pipeline.data.spill.CHUNK_ROWS", chunk)
        patch.setattr(columns, "CHUNK_ROWS", chunk)
        wanted = [without_nulls(row) for row in rows]
        assert list(read_parquet_rows(spilled(rows, Path(folder)))) == wanted
        assert list(rows_of(table_of(rows))) == wanted


AWKWARD: dict[str, list[dict[str, Any]]] = {
    "text and list": [{"x": "a"}, {"x": ["a"]}],
    "beyond 64 bits": [{"x": 2**70}, {"x": 1}],
    "empty object": [{"x": {}}, {"x": {"a": 1}}],
    "number and text in objects": [{"x": {"a": 1}}, {"x": {"a": "1"}}],
    "map with many keys": [{"x": {f"key {i}": i for i in range(100)}}],
    "kinds that change after thousands of rows": [*({"x": i} for i in range(5000)), {"x": "text"}],
    "integers that a float would round": [*({"x": 2**60 + 1} for _ in range(5000)), {"x": 0.5}],
    "objects with other keys after thousands of rows": [*({"x": {"a": i}} for i in range(5000)), {"x": {"b": "c"}}],
    "a list of nothing, then of objects": [*({"x": []} for _ in range(5000)), {"x": [{"a": 1}]}],
    "text, then bytes": [*({"x": "a"} for _ in range(5000)), {"x": b"a"}],
    "moments": [{"x": dt.datetime(2026, 1, 2, 3, 4, 5)}, {"x": dt.datetime(2026, 1, 2)}],
    "numbers with decimals, then whole ones": [*({"x": Decimal("0.10")} for _ in range(5000)), {"x": Decimal(7)}],
    "column that comes late": [*({"a": i} for i in range(5000)), {"b": "late"}],
}


AS_JSON = {"text, then bytes": lambda value: value.hex() if isinstance(value, bytes) else value}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_columns_come_back_from_parquet(name: str, tmp_path: Path) -> None:
    rows = AWKWARD[name]
    write_parquet(table_of(rows), tmp_path / "t.parquet")
    wanted = [{key: AS_JSON.get(name, lambda value: value)(value) for key, value in row.items()} for row in rows]
    assert list(rows_of(pq.read_table(tmp_path / "t.parquet"))) == wanted
    assert list(read_parquet_rows(spilled(rows, tmp_path))) == wanted


def test_text_beside_bytes_and_days_beside_moments_stay_what_they_are() -> None:
    assert list(rows_of(table_of([{"x": "a"}, {"x": b"a"}]))) == [{"x": "a"}, {"x": "61"}]
    days: list[dict[str, Any]] = [{"x": dt.date(2026, 1, 2)}, {"x": dt.datetime(2026, 1, 2, 3, 4)}]
    assert list(rows_of(table_of(days))) == [{"x": "2026-01-02"}, {"x": "2026-01-02 03:04:00"}]


def test_rows_without_columns_are_counted_as_rows() -> None:
    rows: list[dict[str, Any]] = [*({} for _ in range(5000)), {"x": 1}, {}]
    assert list(rows_of(table_of(rows))) == rows


def test_a_spill_gives_any_rows_in_order_and_repeats_those_asked_for_twice(tmp_path: Path) -> None:
    rows = [{"x": i} for i in range(10_000)]
    found = [row["x"] for row in read_parquet_rows(spilled(rows, tmp_path, [3, 3, 4095, 4096, 4096, 9999]))]
    assert found == [3, 3, 4095, 4096, 4096, 9999]


def test_pieces_written_one_after_another_become_full_row_groups(tmp_path: Path) -> None:
    file = pq.ParquetFile(spilled([{"x": i} for i in range(70_000)], tmp_path))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [65_536, 4_464]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.booleans()), max_size=20))
def test_texts_come_back_from_disk_whole(texts: list[tuple[str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spill = TextSpill(Path(folder, "texts"))
        for text, _ in texts:
            spill.append(text)
        spill.finish()
        kept = np.array([keep for _, keep in texts], bool)
        assert spill.texts(kept).to_pylist() == [text for text, keep in texts if keep]
        assert spill.texts(np.ones(len(texts), bool)).to_pylist() == [text for text, _ in texts]


def test_ordinary_columns_are_stored_in_their_own_type() -> None:
    table = table_of([{"messages": [{"role": "user", "content": "a"}], "score": 1.5, "note": None, "kind": 1}])
    assert json_columns(table.schema) == []
    assert str(table.schema.field("messages").type) == "list<item: struct<role: string, content: string>>"


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(table_of([{"x": i, "y": {"z": [str(i)]}} for i in range(5000)]), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
