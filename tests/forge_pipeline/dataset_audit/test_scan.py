"""`scan_shard`: one result, however the shard is read, cut, signed, or shared among threads."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forge_pipeline.dataset_audit import language, reading, scan
from forge_pipeline.dataset_audit.reading import Shard, find_splits, plan
from forge_pipeline.dataset_audit.scan import (
    FINDINGS,
    RowSignatures,
    ScanOptions,
    ShardScan,
    scan_shard,
    worth_compiling,
)

WriteRows = Callable[..., Path]
KEY = "ghp_Zq3vT9LmP0aXbR7cYd2eWf4gHi5jKl6mNo7p"
OPTIONS = ScanOptions(num_perm=128, quality=True, pii_ml_language=None, compiled=False)


def shards_of(path: Path) -> list[Shard]:
    return plan(find_splits(path))


def rows_like(texts: list[str]) -> list[dict[str, Any]]:
    """Chats; every fifth user gives an address, every seventh answer a key."""
    return [
        {
            "id": f"row-{i}",
            "messages": [
                {"role": "user", "content": text + (f" Write to a{i}@example.org." if i % 5 == 0 else "")},
                {"role": "assistant", "content": f"Très bien: {text[:40]}" + (f" {KEY}" if i % 7 == 0 else "")},
            ],
        }
        for i, text in enumerate(texts)
    ]


def assert_same(one: ShardScan, other: ShardScan) -> None:
    for name in ("row_count", "columns", "blank", "quality", "parse_errors", "decode_errors", "finding_counts"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("lengths", "languages"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.findings.equals(other.findings)
    left, right = one.signatures, other.signatures
    assert left is not None
    assert right is not None
    for name in ("text", "tokens", "keys", "offsets", "values"):
        assert np.array_equal(getattr(left, name), getattr(right, name)), name


def test_what_a_scan_holds(write_rows: WriteRows) -> None:
    rows = [*rows_like(["One two three four five six."] * 2), {"messages": [], "extra": " "}, {"number": 5}]
    (shard,) = shards_of(write_rows(rows))
    found = scan_shard(shard, OPTIONS)
    assert found.row_count == 4
    assert found.columns == ("id", "messages", "extra", "number")
    assert found.blank == 2
    assert found.lengths.dtype == np.int32
    assert found.lengths[1] == len("One two three four five six.\nTrès bien: One two three four five six.")
    assert found.languages.dtype == np.uint8
    assert all(code < len(language.CODES) for code in found.languages)
    assert found.findings.schema == FINDINGS
    assert found.findings.select(["row", "column", "category", "start", "source", "placeholder"]).to_pylist() == [
        {"row": 0, "column": "messages[0].content", "category": "email", "start": 38, "source": "pii", "placeholder": False},
        {"row": 0, "column": "messages[1].content", "category": "github_token", "start": 40, "source": "secret", "placeholder": False},
    ]  # fmt: skip
    assert found.finding_counts == {("email", False): 1, ("github_token", False): 1}
    assert found.signatures is not None
    assert found.signatures.keys.shape == (4, 16)
    assert found.signatures.tokens.tolist()[2:] == [0, 0]


@pytest.mark.parametrize("num_perm", [128, None])
def test_compiled_or_not_whole_or_in_blocks_from_jsonl_or_parquet(
    num_perm: int | None, sentences: Callable[[int], list[str]], write_rows: WriteRows, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = rows_like(sentences(300))
    (shard,) = shards_of(write_rows(rows))
    options = ScanOptions(num_perm, quality=True, pii_ml_language=None, compiled=False)
    expected = scan_shard(shard, options)
    compiled = ScanOptions(num_perm, quality=True, pii_ml_language=None, compiled=True)
    assert_same(expected, scan_shard(shard, compiled))
    parquet = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet, row_group_size=70)
    assert_same(expected, scan_shard(shards_of(parquet)[0], compiled))
    whole = tmp_path / "rows.json"
    whole.write_text(json.dumps(rows))
    monkeypatch.setattr(reading, "BLOCK_ROWS", 64)
    assert_same(expected, scan_shard(shards_of(whole)[0], compiled))


def test_threads_give_what_one_thread_gives(
    sentences: Callable[[int], list[str]], write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SHARD_BYTES", 4_000)
    shards = shards_of(write_rows(rows_like(sentences(200))))
    assert len(shards) > 10
    options = ScanOptions(128, quality=False, pii_ml_language=None, compiled=True)
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(shards, pool.map(lambda shard: scan_shard(shard, options), shards), strict=True):
            assert_same(scan_shard(one, OPTIONS_WITHOUT_QUALITY), other)


OPTIONS_WITHOUT_QUALITY = ScanOptions(128, quality=False, pii_ml_language=None, compiled=False)


def test_signatures_go_to_a_file_of_each_shard(
    sentences: Callable[[int], list[str]], write_rows: WriteRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SHARD_BYTES", 4_000)
    shards = shards_of(write_rows(rows_like(sentences(60))))
    side = tmp_path / "side"
    side.mkdir()
    for shard in shards:
        kept, written = scan_shard(shard, OPTIONS), scan_shard(shard, OPTIONS, side)
        assert written.signatures is None
        assert written.signatures_path is not None
        assert kept.signatures is not None
        read = RowSignatures.read(written.signatures_path)
        assert np.array_equal(read.keys, kept.signatures.keys)
        assert np.array_equal(read.values, kept.signatures.values)
    assert len(list(side.iterdir())) == len(shards)


def test_a_key_in_a_column_of_few_values_is_found_in_each_row(write_rows: WriteRows) -> None:
    rows = [{"kind": "1.2.3.44" if i % 3 == 0 else "plain", "text": f"row {i}"} for i in range(90)]
    (shard,) = shards_of(write_rows(rows))
    found = scan_shard(shard, OPTIONS).findings
    assert found["row"].to_pylist() == list(range(0, 90, 3))
    assert set(found["column"].to_pylist()) == {"kind"}
    assert set(found["preview"].to_pylist()) == {"9.9.9.99"}


def test_a_shard_without_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("\n\n")
    for name in ("rows.jsonl", "rows.parquet"):
        for shard in [*shards_of(tmp_path / name), Shard(tmp_path / "rows.jsonl", "train", 0, 2)]:
            found = scan_shard(shard, OPTIONS)
            assert (found.row_count, found.blank, len(found.findings)) == (0, 0, 0)
            assert found.signatures is not None
            assert found.signatures.keys.shape == (0, 16)


def test_compiling_is_worth_it_for_many_rows_only(write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = shards_of(write_rows([{"text": "some words here"}] * 100))
    assert not worth_compiling(shards)
    monkeypatch.setattr(scan, "_COMPILED_FROM", 1000)
    assert worth_compiling(shards)
