"""Whether a tokenizer's special tokens fit the chat template, the recipe and the model.

Doubled tokens: a template that writes the beginning-of-sequence token in front of a tokenizer
that adds it too, or rows that end with the end-of-turn token that the template writes as
well, teach the model a sequence it never meets. Such repeats are made one, and counted.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forge_pipeline.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = np.ndarray[tuple[int], np.dtype[np.int32]]


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer and its model say about special tokens.

    Attributes:
        bos, eos, pad, unk: As text; None where there is none.
        vocabulary: Tokens that the tokenizer knows, added ones included.
        embedding_rows: Tokens that the model knows, where its configuration lies beside the tokenizer; else None.
        end_of_turn: What the learnt turns end with, most frequent first; empty for plain text.
    """

    bos: str | None
    eos: str | None
    pad: str | None
    unk: str | None
    vocabulary: int
    embedding_rows: int | None
    end_of_turn: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What a person should know, one sentence each."""
        notes = []
        if self.pad is not None and self.pad == self.eos:
            notes.append(
                f"{self.pad} is the padding token and the end-of-sequence token; that is harmless here, because "
                "labels are made before rows are padded, but whoever masks padding by its id unlearns to stop"
            )
        if self.pad is not None and self.pad == self.unk:
            notes.append(f"{self.pad} is the padding token and the unknown token")
        if self.end_of_turn and self.eos not in self.end_of_turn:
            notes.append(
                f"turns end with {', '.join(self.end_of_turn)}, but the tokenizer's end-of-sequence token is "
                f"{self.eos}; generation must stop at the former too (generation_config.json: eos_token_id)"
            )
        return notes


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> SpecialTokens:
    """Look at a tokenizer, and at the configuration of the model that it lies with.

    Raises:
        DataError: The tokenizer has added tokens that the model's embedding has no row for.
    """
    rows = _embedding_rows(str(tokenizer.name_or_path))
    if rows is not None and len(tokenizer) > rows:
        beyond = [str(token) for i, token in sorted(tokenizer.added_tokens_decoder.items()) if i >= rows]
        raise DataError(
            f"{tokenizer.name_or_path}: the tokenizer has {len(tokenizer)} tokens, but the model's embedding has "
            f"{rows} rows: {', '.join(beyond[:5]) or 'its last tokens'} would be beyond its end. Use the tokenizer "
            "that the model was trained with, or resize the model's embedding first"
        )
    names = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    bos, eos, pad, unk = (None if name is None else str(name) for name in names)
    return SpecialTokens(bos, eos, pad, unk, len(tokenizer), rows)


def check_ids(ids: Ids, rows: int) -> None:
    """Refuse ids that have no row in the embedding or the vocabulary.

    Raises:
        DataError: There is one.
    """
    if len(ids) and int(ids.max()) >= rows:
        raise DataError(f"token id {int(ids.max())} is beyond the {rows} tokens that the model knows")


def without_repeats(ids: Ids, labels: Ids, once: Collection[int]) -> tuple[Ids, Ids, int]:
    """`ids` and `labels` with each run of one and the same token of `once` made one, and how many went.

    A token that is learnt anywhere in its run stays learnt.
    """
    again = np.array([at for at in (np.flatnonzero(ids[1:] == ids[:-1]) + 1).tolist() if ids[at] in once], dtype=int)
    if not len(again):
        return ids, labels, 0
    labels = labels.copy()
    for at in again:  # few, and rare
        labels[at] = max(labels[at], labels[at - 1])
    keep = np.ones(len(ids), dtype=bool)
    keep[again - 1] = False
    return ids[keep], labels[keep], len(again)


def _embedding_rows(name_or_path: str) -> int | None:
    """Rows of the embedding, as the model's own configuration says; None where no such file is on this machine."""
    file = Path(name_or_path, "config.json") if name_or_path else None
    if file is None or not file.is_file():
        return None
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not a model's configuration: the model's loader says more about it
        return None
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return size if isinstance(size, int) and size > 0 else None
