"""Packed rows hold every token once and keep rows apart."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.data.packing import IGNORED, best_fit_bins, pack_best_fit, pack_wrapped


def rows(lengths: list[int]) -> pa.Table:
    """Rows of ids 100 * row + position, all learnt."""
    ids = [[100 * row + t for t in range(length)] for row, length in enumerate(lengths)]
    return pa.table(
        {
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "labels": pa.array(ids, pa.list_(pa.int32())),
            "length": pa.array(lengths, pa.int32()),
        }
    )


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_every_row_is_in_exactly_one_bin_and_no_bin_is_too_full(lengths: list[int]) -> None:
    bins = best_fit_bins(lengths, 20)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in members) <= 20 for members in bins)
    # best fit decreasing: at most one bin is half empty
    assert sum(2 * sum(lengths[row] for row in members) <= 20 for members in bins) <= 1


def test_packed_rows_keep_their_tokens_and_the_first_label_of_each_is_ignored() -> None:
    packed = pack_best_fit(rows([3, 5, 2, 4]), 8).to_pylist()
    assert [row["seq_lengths"] for row in packed] == [[5, 3], [4, 2]]
    assert packed[0]["input_ids"] == [100, 101, 102, 103, 104, 0, 1, 2]
    assert packed[0]["labels"] == [IGNORED, 101, 102, 103, 104, IGNORED, 1, 2]
    assert [row["length"] for row in packed] == [8, 6]


def test_wrapped_rows_are_cut_anywhere_and_lose_nothing() -> None:
    packed = pack_wrapped(rows([3, 5, 2]), 4).to_pylist()
    assert [row["seq_lengths"] for row in packed] == [[3, 1], [4], [2]]
    assert [token for row in packed for token in row["input_ids"]] == [0, 1, 2, 100, 101, 102, 103, 104, 200, 201]
    assert packed[1]["labels"] == [IGNORED, 102, 103, 104]


def test_nothing_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        pack_best_fit(rows([]), 8)


def test_trls_collator_begins_positions_anew_with_each_row_inside() -> None:
    collator_type = pytest.importorskip("trl.trainer.sft_trainer").DataCollatorForLanguageModeling
    examples: list[dict[str, Any]] = pack_best_fit(rows([3, 5, 2, 4]), 8).to_pylist()
    batch = collator_type(pad_token_id=0, padding_free=True)(examples)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 0, 1]]
    assert batch["labels"].tolist() == [[label for row in examples for label in row["labels"]]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 8, 12, 14]
