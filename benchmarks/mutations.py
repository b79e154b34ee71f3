"""Near-duplicates made to order: twelve ways in which a copied text differs from its source."""

import re
from collections.abc import Callable
from random import Random

Mutate = Callable[[str, Random, "Callable[[Random], str]"], str]

_WORD = re.compile(r"\w+")
_PUNCTUATION = re.compile(r"(?<=\w)[.,;:!?](?=\s|$)")


def token_set(text: str) -> frozenset[str]:
    """The distinct ``\\w+`` tokens of the lower-cased text: what Jaccard similarity is defined on here."""
    return frozenset(_WORD.findall(text.lower()))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union; 0 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


def _case(text: str, rng: Random, new_word: Callable[[Random], str]) -> str:
    return rng.choice((text.upper(), text.lower(), text.title()))


def _punctuation(text: str, rng: Random, new_word: Callable[[Random], str]) -> str:
    return _PUNCTUATION.sub(lambda mark: rng.choice(("", "!", ";", "...")), text)


def _whitespace(text: str, rng: Random, new_word: Callable[[Random], str]) -> str:
    return "".join(rng.choice((" ", "  ", "\n", "\t")) if char == " " else char for char in text)


def _words(count: int) -> Mutate:
    def substitute(text: str, rng: Random, new_word: Callable[[Random], str]) -> str:
        spans = [match.span() for match in _WORD.finditer(text)]
        for start, end in sorted(rng.sample(spans, min(count, len(spans))), reverse=True):
            text = text[:start] + new_word(rng) + text[end:]
        return text

    return substitute


def _append(text: str, rng: Random, new_word: Callable[[Random], str]) -> str:
    added = " ".join(new_word(rng) for _ in range(rng.randrange(8, 20)))
    return f"{text} {added[0].upper()}{added[1:]}."


def _truncate(text: str, rng: Random, new_word: Callable[[Random], str]) -> str:
    return text[: len(text) * 9 // 10]


def _swap_halves(text: str, rng: Random, new_word: Callable[[Random], str]) -> str:
    words = text.split(" ")
    return " ".join(words[len(words) // 2 :] + words[: len(words) // 2])


MUTATIONS: dict[str, Mutate] = {
    "case": _case,
    "punctuation": _punctuation,
    "whitespace": _whitespace,
    "1 word": _words(1),
    "2 words": _words(2),
    "3 words": _words(3),
    "5 words": _words(5),
    "8 words": _words(8),
    "12 words": _words(12),
    "append": _append,
    "truncate": _truncate,
    "swap halves": _swap_halves,
}
"""Name -> function of the text, the source of randomness and a maker of new words."""

LEAKS = ("exact", "1 word", "3 words")
"""What a row of validation or test differs in from the training row that it repeats."""
