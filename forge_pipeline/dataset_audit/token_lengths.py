"""How long the rows are in tokens of the recipe's tokenizer, before any chat template."""

from typing import TYPE_CHECKING, Any

import numpy as np

from forge_pipeline.dataset_audit.rows import row_texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.data.artifacts import RawDataset

_BATCH = 2048  # rows


def token_lengths(
    dataset: "RawDataset", tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> dict[str, dict[str, Any]]:
    """Lengths of the rows' texts by split: ``total``, ``min``, ``max``, ``mean``, ``p50``, ``p95``, ``over_max_length``

    Tokens of the text alone: no special tokens, no template, so a row trained on is a little longer. Percentiles are
    the nearest rank above.
    """
    return {split: _of_split(dataset, split, tokenizer, max_length) for split in dataset.splits}


def _of_split(
    dataset: "RawDataset", split: str, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> dict[str, Any]:
    counts: list[int] = []
    for block in row_texts_of(dataset.path / f"{split}.parquet"):
        texts = block.to_pylist()
        for first in range(0, len(texts), _BATCH):
            encoded = tokenizer(
                texts[first : first + _BATCH], add_special_tokens=False, return_attention_mask=False, verbose=False
            )
            counts += [len(ids) for ids in encoded["input_ids"]]
    if not counts:
        return {}
    lengths = np.array(counts)
    p50, p95 = np.percentile(lengths, [50, 95], method="higher")
    return {
        "total": int(lengths.sum()),
        "min": int(lengths.min()),
        "max": int(lengths.max()),
        "mean": round(float(lengths.mean()), 1),
        "p50": int(p50),
        "p95": int(p95),
        "over_max_length": int((lengths > max_length).sum()),
    }
