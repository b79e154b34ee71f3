"""Many texts -> token ids in one call, and which token a character falls in.

One call for a batch is two to three times cheaper than a call a text, and the tokenizers
library spreads it over all cores; the ids are the same whatever the batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.examples import common_prefix_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenizedText:
    """One text's token ids, `ids`, of length T."""

    def __init__(self, text: str, ids: Sequence[int], encoding: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.ids = ids
        self._text, self._encoding, self._tokenizer = text, encoding, tokenizer

    def token_at(self, char: int) -> int:
        """Number of the token that holds the character; of the next token where none does; T at the end.

        A token that reaches from before `char` into it (a line break of a template merged with one of the
        answer) counts: it belongs to what follows, as in TRL.
        """
        if char <= 0:
            return 0
        if char >= len(self._text):
            return len(self.ids)
        if self._encoding is None:  # a tokenizer in Python knows no characters
            begins = self._tokenizer(self._text[:char], add_special_tokens=False)["input_ids"]
            return common_prefix_length(begins, self.ids)
        for position in range(char, len(self._text)):  # white space may have been trimmed from the offsets
            token = self._encoding.char_to_token(position)
            if token is not None:
                return int(token)
        return len(self.ids)

    def token_after(self, char: int) -> int:
        """Number of the first token that begins at or after the character."""
        token = self.token_at(char)
        if self._encoding is None or token >= len(self.ids):
            return token
        return token + 1 if self._encoding.offsets_of(token)[0] < char else token


def tokenize_texts(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, add_special_tokens: bool
) -> list[TokenizedText]:
    """Token ids of each text, in order.

    Args:
        add_special_tokens: Whether the tokenizer begins (and ends) the text in its own way; a chat template has
            written those tokens itself.
    """
    if not texts:
        return []
    batch = tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    encodings = batch.encodings or [None] * len(texts)
    return [
        TokenizedText(text, ids, encoding and _Offsets(encoding), tokenizer)
        for text, ids, encoding in zip(texts, batch["input_ids"], encodings, strict=True)
    ]


class _Offsets:
    """The two questions that are asked of a `tokenizers.Encoding`."""

    def __init__(self, encoding: Any) -> None:
        self.char_to_token = encoding.char_to_token
        self._token_to_chars = encoding.token_to_chars

    def offsets_of(self, token: int) -> tuple[int, int]:
        chars = self._token_to_chars(token)
        return (0, 0) if chars is None else (int(chars[0]), int(chars[1]))
