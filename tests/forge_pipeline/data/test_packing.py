"""Packed rows hold every token once, waste little, and keep rows apart where the trainer's collator says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.data.packing import IGNORED, Piece, best_fit, best_fit_bins, wrapped
from forge_pipeline.data.token_spool import TokenSpool


def packed_rows(lengths: list[int], packing: Iterator[list[Piece]], place: Path) -> list[dict[str, Any]]:
    """Rows of ids 100 * row + position, all learnt, packed."""
    with TokenSpool(place) as spool:
        for row, length in enumerate(lengths):
            ids = np.arange(100 * row, 100 * row + length, dtype=np.int32)
            spool.append(ids, ids, [length])
        return [row for table in spool.tables(packing, packed=True) for row in table.to_pylist()]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_every_row_is_in_exactly_one_bin_and_no_bin_is_too_full(lengths: list[int]) -> None:
    bins = best_fit_bins(lengths, 20)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in members) <= 20 for members in bins)
    # best fit decreasing: at most one bin is half empty
    assert sum(2 * sum(lengths[row] for row in members) <= 20 for members in bins) <= 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_best_fit_needs_less_than_twice_the_bins_that_the_tokens_would_fill(lengths: list[int]) -> None:
    # Only one bin may be half empty, so all the others together hold more than half of what they could.
    assert 20 * (len(best_fit_bins(lengths, 20)) - 1) <= 2 * sum(lengths)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 20))
def test_wrapping_keeps_every_token_in_order_and_fills_every_row_but_the_last(lengths: list[int], room: int) -> None:
    rows = list(wrapped(lengths, room))
    tokens = [(piece.row, t) for row in rows for piece in row for t in range(piece.start, piece.stop)]
    assert tokens == [(row, t) for row, length in enumerate(lengths) for t in range(length)]
    filled = [sum(piece.stop - piece.start for piece in row) for row in rows]
    assert all(total == room for total in filled[:-1])
    assert all(0 < total <= room for total in filled)


def test_packed_rows_keep_their_tokens_and_the_first_label_of_each_is_ignored(tmp_path: Path) -> None:
    lengths = [3, 5, 2, 4]
    packed = packed_rows(lengths, best_fit(lengths, 8), tmp_path / "spool")
    assert [row["seq_lengths"] for row in packed] == [[5, 3], [4, 2]]
    assert packed[0]["input_ids"] == [100, 101, 102, 103, 104, 0, 1, 2]
    assert packed[0]["labels"] == [IGNORED, 101, 102, 103, 104, IGNORED, 1, 2]
    assert [row["length"] for row in packed] == [8, 6]


def test_wrapped_rows_are_cut_anywhere_and_lose_nothing(tmp_path: Path) -> None:
    lengths = [3, 5, 2]
    packed = packed_rows(lengths, wrapped(lengths, 4), tmp_path / "spool")
    assert [row["seq_lengths"] for row in packed] == [[3, 1], [4], [2]]
    assert [token for row in packed for token in row["input_ids"]] == [0, 1, 2, 100, 101, 102, 103, 104, 200, 201]
    assert packed[1]["labels"] == [IGNORED, 102, 103, 104]


def test_the_spool_leaves_no_file_behind(tmp_path: Path) -> None:
    packed_rows([1], best_fit([1], 8), tmp_path / "spool")
    assert not list((tmp_path / "spool").iterdir())


def test_nothing_packs_to_nothing() -> None:
    assert list(best_fit([], 8)) == list(wrapped([], 8)) == []


def test_trls_collator_begins_positions_anew_with_each_row_inside(tmp_path: Path) -> None:
    collator_type = pytest.importorskip("trl.trainer.sft_trainer").DataCollatorForLanguageModeling
    lengths = [3, 5, 2, 4]
    examples = packed_rows(lengths, best_fit(lengths, 8), tmp_path / "spool")
    batch = collator_type(pad_token_id=0, padding_free=True)(examples)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 0, 1]]
    assert batch["labels"].tolist() == [[label for row in examples for label in row["labels"]]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 8, 12, 14]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("strategy", "padding_free"), [("bfd", True), ("wrapped", False), ("wrapped", True)])
def test_rows_see_each_other_exactly_where_the_collator_makes_no_positions(
    strategy: str, padding_free: bool, attention: str, tiny_llama: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    collator_type = pytest.importorskip("trl.trainer.sft_trainer").DataCollatorForLanguageModeling
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation=attention).eval()
    lengths = [5, 3]
    pack = best_fit if strategy == "bfd" else wrapped
    (row,) = packed_rows(lengths, pack(lengths, 8), tmp_path / "spool")
    row["input_ids"] = [token % 97 for token in row["input_ids"]]
    batch = collator_type(pad_token_id=0, padding_free=padding_free)([row])
    inputs = {name: value for name, value in batch.items() if name in ("input_ids", "position_ids", "attention_mask")}
    with torch.no_grad():
        # as TRL's compute_loss calls it
        together = model(**inputs, use_cache=False).logits[0, 5:]
        alone = model(torch.tensor([row["input_ids"][5:]]), use_cache=False).logits[0]
    isolated = bool(torch.allclose(together, alone, atol=1e-4))
    assert isolated == padding_free
