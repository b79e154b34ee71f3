"""Rows that a model was not trained on, as text; and whether the data changed since last time."""

import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.artifacts import RawDataset
from forge_pipeline.data.examples import conversation_of
from forge_pipeline.data.sources import resolve_source
from forge_pipeline.integrity import Digest, json_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig

_PREFERENCE = ("test", "validation", "train")


def held_out_rows(dataset: RawDataset, limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows of the test split; of validation, or at last of train, where there is none."""
    split = next(split for split in _PREFERENCE if split in dataset.splits)
    return list(islice(dataset.rows(split), limit))


def rendered_text(row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> str:
    """A row as the model sees it: through the chat template where it is a conversation."""
    messages = conversation_of(row)
    if messages and tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    return "\n".join(message["content"] for message in messages or []) or str(row.get("text", ""))


def source_digest(config: "ForgeConfig") -> Digest:
    """One digest over the recipe's sources as they are now: files by content, Hub datasets by commit.

    Raises:
        DataError: A source is missing or cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="forge-sources-") as folder:
        sources = [
            resolve_source(
                entry.name_or_path,
                revision=entry.revision,
                offline=config.model.offline,
                scratch=Path(folder, str(number)),
            )
            for number, entry in enumerate(config.data.datasets)
        ]
        return json_digest([[source.uri, source.revision, source.digest] for source in sources])
