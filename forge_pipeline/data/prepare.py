"""`prepare_dataset`: read, detect, split and tokenize in one call, for scripts and notebooks."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.ingestion import ingest
from forge_pipeline.data.tokenization import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig


def prepare_dataset(config: "ForgeConfig", tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The recipe's dataset as tokenized `datasets.Dataset`s by split (``train``, ``validation``, ``test``).

    Columns are those of `TokenizedDataset`. Nothing stays on disk; to keep the rows and their provenance,
    call `ingest` and `tokenize`.

    Raises:
        DataError: The dataset cannot be used as the recipe asks.
    """
    from datasets import Dataset
    from datasets.table import InMemoryTable

    with tempfile.TemporaryDirectory(prefix="forge-data-") as folder:
        raw = ingest(config, Path(folder, "raw"))
        tokenized = tokenize(config, raw, tokenizer, Path(folder, "tokenized"))
        return {split: Dataset(InMemoryTable(tokenized.table(split))) for split in tokenized.splits}
