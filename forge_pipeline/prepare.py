"""`prepare_dataset`: read, detect, split and tokenize in one call, for scripts and notebooks."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.data import ingest, tokenize
from forge_pipeline.dataset_audit import row_grouping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig


def prepare_dataset(
    config: "ForgeConfig", tokenizer: "PreTrainedTokenizerBase", *, cache_dir: Path | None = None
) -> dict[str, Any]:
    """The recipe's dataset as tokenized `datasets.Dataset`s by split (``train``, ``validation``, ``test``).

    Columns are those of `TokenizedDataset`. Nothing stays on disk but what `cache_dir` keeps; to keep the rows and
    their provenance, call `ingest` and `tokenize`.

    Args:
        cache_dir: Where tokens are kept by what they follow from, so that equal rows are not tokenized twice.

    Raises:
        DataError: The dataset cannot be used as the recipe asks.
    """
    from datasets import Dataset
    from datasets.table import InMemoryTable

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    with tempfile.TemporaryDirectory(prefix="forge-data-") as folder:
        raw = ingest(config, Path(folder, "raw"), group_rows=row_grouping(config), count_tokens=count_tokens)
        tokenized = tokenize(config, raw, tokenizer, Path(folder, "tokenized"), cache_dir=cache_dir)
        return {split: Dataset(InMemoryTable(tokenized.table(split))) for split in tokenized.splits}
