"""Real prose, real code and words of other languages, from the packages that `constraints.txt` pins.

Nothing is shipped: paragraphs are cut from the docstrings of the installed packages, and words
come by their frequency from `wordfreq`. Equal versions give equal prose; `Prose.digest` says which.

Paragraphs that hold an e-mail address, an IP address, a long number or a long token are left out,
so that a corpus holds what was planted and nothing else that a detector ought to find.
"""

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
LANGUAGES = ("de", "fr", "es", "it", "tr", "ru", "pt", "nl")
_WORDS_PER_LANGUAGE = 30_000
_CODE_FROM_EVERY = 8  # files: there is far more code than prose

_DOCSTRING = re.compile(r'^[ \t]*[rRuU]?"""(.*?)"""', re.MULTILINE | re.DOTALL)
_FUNCTION = re.compile(r"^def [a-z]\w*\(.*(?:\n(?:[ \t]+.*)?){4,24}", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_NO_PROSE = re.compile(r">>>|^\s*(?::|\.\.|@|\||\+--|[-=~*#]{3})|\{\{|[\[\]{}<>=|\\_]{3}")
_MIGHT_BE_A_FINDING = re.compile(
    r"[^\s@]@[^\s@]|:[^\s:/@]*@|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]|[0-9](?:[ ().\-/]{0,2}[0-9]){6}"
    r"|[A-Za-z0-9+/_\-]{32}|[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}|PRIVATE KEY|(?i:sk-|ghp_|hf_|xox|akia)"
    r"|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:|::[0-9A-Fa-f]"
)
_LETTERS = str.maketrans("", "", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,.;'")


@dataclass(frozen=True)
class Prose:
    """What rows are made of.

    Attributes:
        paragraphs: English, 120 to 1,200 characters of one line each, no two equal.
        snippets: Pieces of Python source, several lines each.
        digest: SHA-256 of both, hexadecimal: equal digests, equal corpora.
    """

    paragraphs: tuple[str, ...]
    snippets: tuple[str, ...]
    digest: str


@functools.cache
def installed_prose() -> Prose:
    """The prose of the installed packages that `constraints.txt` names, in an order that depends on them alone."""
    paragraphs: dict[str, None] = {}
    snippets: dict[str, None] = {}
    for number, source in enumerate(_sources()):
        for docstring in _DOCSTRING.findall(source):
            paragraphs.update(dict.fromkeys(_paragraphs_of(docstring)))
        for snippet in _FUNCTION.findall(source) if number % _CODE_FROM_EVERY == 0 else ():
            if '"""' not in snippet and len(snippet) <= 900 and not _MIGHT_BE_A_FINDING.search(snippet):
                snippets[snippet.rstrip().replace("\t", "    ")] = None
    digest = hashlib.sha256("\0".join([*paragraphs, "", *snippets]).encode()).hexdigest()
    # Neighbours are of one package; a fixed shuffle spreads them.
    spread = np.random.default_rng(0).permutation(len(paragraphs))
    ordered = list(paragraphs)
    return Prose(tuple(ordered[index] for index in spread), tuple(snippets), digest)


def _sources() -> Iterator[str]:
    pinned = {line.split("==")[0].strip().lower() for line in CONSTRAINTS.read_text().splitlines() if "==" in line}
    for name in sorted(pinned):
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for file in sorted(str(file) for file in distribution.files or () if str(file).endswith(".py")):
            try:
                yield Path(str(distribution.locate_file(file))).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):  # listed but not there, or no UTF-8
                continue


def _paragraphs_of(docstring: str) -> Iterator[str]:
    for raw in _PARAGRAPH.split(docstring):
        if not 120 <= len(raw) <= 3000 or _NO_PROSE.search(raw) or "\\" in raw:
            continue
        paragraph = " ".join(raw.split())
        if not 120 <= len(paragraph) <= 1200 or not paragraph.isascii() or paragraph.count(" ") < len(paragraph) / 9:
            continue
        is_worded = len(paragraph.translate(_LETTERS)) <= 0.08 * len(paragraph)
        if is_worded and not _MIGHT_BE_A_FINDING.search(paragraph):
            yield paragraph


class MarkovChain:
    """Text with the word and word-pair statistics of some paragraphs: order 1 over words as written.

    Many texts are walked at once, a step of all of them being one array operation.
    """

    def __init__(self, paragraphs: tuple[str, ...]) -> None:
        numbers: dict[str, int] = {"": 0}  # 0 stands between paragraphs
        stream = [0]
        for paragraph in paragraphs:
            stream += [numbers.setdefault(word, len(numbers)) for word in paragraph.split(" ")]
            stream.append(0)
        self.words = list(numbers)
        self._word_lengths = np.array([len(word) for word in self.words])
        walked = np.array(stream, dtype=np.int32)
        order = np.argsort(walked[:-1], kind="stable")
        self._successors = walked[1:][order]
        self._counts = np.bincount(walked[:-1], minlength=len(self.words))
        self._starts = np.cumsum(self._counts) - self._counts

    def texts(self, lengths: IntArray, rng: np.random.Generator) -> list[str]:
        """One text for each of `lengths`: as many words as first reach that many characters."""
        steps = int(lengths.max(initial=0)) // 5 + 8
        state = np.zeros(len(lengths), dtype=np.int64)
        walk = np.empty((len(lengths), steps), dtype=np.int64)
        for step in range(steps):
            state = self._next(state, rng)
            ended = state == 0
            if ended.any():
                state[ended] = self._next(state[ended], rng)
            walk[:, step] = state
        reached = np.cumsum(self._word_lengths[walk] + 1, axis=1) - 1
        sizes = np.minimum((reached < lengths[:, None]).sum(axis=1) + 1, steps)
        words = self.words
        return [
            " ".join([words[index] for index in row[:size]])
            for row, size in zip(walk.tolist(), sizes.tolist(), strict=True)
        ]

    def _next(self, state: IntArray, rng: np.random.Generator) -> IntArray:
        drawn = (rng.random(len(state)) * self._counts[state]).astype(np.int64)
        following: IntArray = self._successors[self._starts[state] + drawn].astype(np.int64)
        return following


class ForeignText:
    """Words of a language drawn by their frequency, cut into sentences."""

    def __init__(self) -> None:
        import wordfreq

        self._words: dict[str, list[str]] = {}
        self._cumulative: dict[str, npt.NDArray[np.float64]] = {}
        for language in LANGUAGES:
            table = wordfreq.get_frequency_dict(language)
            frequent = wordfreq.top_n_list(language, _WORDS_PER_LANGUAGE)
            words = [word for word in frequent if word.isalpha() and word in table]
            weights = np.array([table[word] for word in words])
            self._words[language] = words
            self._cumulative[language] = np.cumsum(weights / weights.sum())

    def text(self, language: str, length: int, rng: np.random.Generator) -> str:
        """About `length` characters in `language`."""
        words = self._words[language]
        cumulative = self._cumulative[language]
        drawn = np.minimum(np.searchsorted(cumulative, rng.random(length // 4 + 16)), len(words) - 1)
        sentences: list[str] = []
        size, position = 0, 0
        while size < length and position < len(drawn):
            count = int(rng.integers(6, 16))
            sentence = " ".join(words[index] for index in drawn[position : position + count].tolist())
            position += count
            sentences.append(sentence[0].upper() + sentence[1:] + ".")
            size += len(sentence) + 2
        return " ".join(sentences)
