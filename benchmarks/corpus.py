"""A chat dataset of any size, made deterministically, with a ledger of all that was planted in it.

`write_corpus` writes ``data/{train,validation,test}.jsonl`` and, beside it where no audit
looks, ``truth/*.parquet``. A row is ``{"id", "messages": [user, assistant]}`` of about 650
characters. In 100 rows of training data:

    72  English: real prose while it lasts (each paragraph once), then a Markov chain over it
    10  words of other languages by their frequency
     4  answers with a code fence
     2  exact duplicates of another row     6  near-duplicates in twelve kinds
     6  personal data (18 categories)       3  secrets (37 families)     6  look-alikes (40 kinds)

The last three stand in English rows, one in a row; the percentages are of all rows. A quarter
of the rows of validation and test repeat a training row. Sources of repeats hold nothing planted.

    python -m benchmarks.corpus --rows 20000 --out build/corpus
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.credentials import SECRETS
from benchmarks.look_alikes import LOOK_ALIKES
from benchmarks.mutations import LEAKS, MUTATIONS, jaccard, token_set
from benchmarks.personal_data import PII
from benchmarks.plants import Plant
from benchmarks.prose import LANGUAGES, ForeignText, MarkovChain, Prose, installed_prose

SHARES = {"train": 0.96, "validation": 0.02, "test": 0.02}
_KINDS = {  # of a training row, per cent
    "foreign": 10, "code": 4, "exact_duplicate": 2, "near_duplicate": 6, "pii": 6, "secret": 3, "look_alike": 6,
}  # fmt: skip
_HELD_OUT_LEAKS = 25  # per cent
_BLOCK = 10_000  # rows made at once
_SOURCES_KEPT = 4  # one plain training row in so many may be repeated
_PLANTS = {"pii": PII, "secret": SECRETS, "look_alike": LOOK_ALIKES}
_QUESTIONS = ("Please explain this: {}", "What does this mean? {}", "{} How does that work?", "Summarize: {}", "{}")

_PLANTED = pa.schema([
    ("split", pa.string()), ("row", pa.int64()), ("column", pa.string()), ("start", pa.int32()), ("end", pa.int32()),
    ("what", pa.string()), ("kind", pa.string()),
])  # fmt: skip
_REPEATS = pa.schema([
    ("split", pa.string()), ("row", pa.int64()), ("source_split", pa.string()), ("source_row", pa.int64()),
    ("what", pa.string()), ("kind", pa.string()), ("jaccard", pa.float64()),
])  # fmt: skip
_ROWS = pa.schema([("split", pa.string()), ("row", pa.int64()), ("language", pa.string()), ("kind", pa.string())])


@dataclass(frozen=True)
class Planted:
    """Something planted in one text. `what` is pii, secret or look_alike; the span is of characters, half-open."""

    split: str
    row: int
    column: str
    start: int
    end: int
    what: str
    kind: str


@dataclass(frozen=True)
class Repeat:
    """A row that repeats another. `what` is exact_duplicate, near_duplicate or leak; `kind` says how it differs.

    `jaccard` is the exact similarity of the two rows' token sets, user and assistant together.
    """

    split: str
    row: int
    source_split: str
    source_row: int
    what: str
    kind: str
    jaccard: float


@dataclass(frozen=True)
class Truth:
    """What `write_corpus` wrote.

    Attributes:
        data: The directory to audit.
        truth: The directory of ``planted.parquet``, ``repeats.parquet`` and ``rows.parquet``
            (language and kind of every row).
        rows: Rows of each split.
        bytes: Size of the data.
        prose_digest: Equal digests, rows and seeds give equal bytes.
    """

    data: Path
    truth: Path
    rows: dict[str, int]
    bytes: int
    prose_digest: str

    @property
    def planted(self) -> list[Planted]:
        return [Planted(**row) for row in pq.read_table(self.truth / "planted.parquet").to_pylist()]

    @property
    def repeats(self) -> list[Repeat]:
        return [Repeat(**row) for row in pq.read_table(self.truth / "repeats.parquet").to_pylist()]

    @property
    def languages(self) -> dict[str, list[str]]:
        """The language of each row of each split; "" for rows with code."""
        table = pq.read_table(self.truth / "rows.parquet").to_pydict()
        found: dict[str, list[str]] = {split: [] for split in self.rows}
        for split, language in zip(table["split"], table["language"], strict=True):
            found[split].append(language)
        return found


@dataclass
class _Row:
    user: str
    assistant: str
    language: str
    kind: str
    planted: list[tuple[int, int, int, str, str]] = field(default_factory=list)  # message, start, end, what, kind


@dataclass
class _Ledger:
    """The three tables of truth, written as they fill."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writers = {
            name: pq.ParquetWriter(self.folder / f"{name}.parquet", schema)
            for name, schema in (("planted", _PLANTED), ("repeats", _REPEATS), ("rows", _ROWS))
        }

    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._writers[name].write_table(pa.Table.from_pylist(list(rows), self._writers[name].schema))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _Writer:
    """English text: paragraphs while they last, then the chain over them."""

    def __init__(self, prose: Prose) -> None:
        self._paragraphs = iter(prose.paragraphs)
        self._chain = MarkovChain(prose.paragraphs)
        self.new_words = [word for word in self._chain.words if word.isalpha() and word.islower() and len(word) > 3]
        self.snippets = prose.snippets

    def texts(self, lengths: npt.NDArray[np.int64], rng: np.random.Generator) -> list[str]:
        """One text for each of `lengths`, of about that many characters."""
        real: list[str] = []
        for length in lengths.tolist():
            text = self._real(length)
            if text is None:
                break
            real.append(text)
        return real + self._chain.texts(lengths[len(real) :], rng)

    def _real(self, length: int) -> str | None:
        parts: list[str] = []
        size = 0
        for paragraph in self._paragraphs:
            parts.append(paragraph)
            size += len(paragraph) + 1
            if size >= length:
                text = " ".join(parts)
                return text if len(text) <= length + 60 else text[: text.rfind(" ", 0, length + 60)]
        return None


class _Corpus:
    """Makes blocks of rows; remembers the rows that later ones may repeat."""

    def __init__(self, prose: Prose, seed: int) -> None:
        self._seed = seed
        self._writer = _Writer(prose)
        self._foreign = ForeignText()
        self._sources: list[tuple[int, _Row]] = []

    def block(self, split: str, number: int, first: int, size: int) -> tuple[list[_Row], list[dict[str, Any]]]:
        """Rows `first` to `first + size` of `split`, and those of them that repeat others."""
        key = (self._seed, tuple(SHARES).index(split), number)
        arrays, rng = np.random.default_rng(key), Random(str(key))
        kinds = _kinds(size, split, rng)
        user_texts = self._writer.texts(arrays.integers(60, 190, size), arrays)
        answers = self._writer.texts(arrays.integers(310, 560, size), arrays)
        rows: list[_Row] = []
        repeats: list[dict[str, Any]] = []
        for offset, (kind, user, answer) in enumerate(zip(kinds, user_texts, answers, strict=True)):
            if kind in ("exact_duplicate", "near_duplicate", "leak") and self._sources:
                row, repeat = self._repeat(kind, rng)
                repeats.append({"split": split, "row": first + offset, **repeat})
            else:
                row = self._fresh(kind, rng.choice(_QUESTIONS).format(user), answer, rng, arrays)
                if split == "train" and row.kind in ("prose", "foreign") and offset % _SOURCES_KEPT == 0:
                    self._sources.append((first + offset, row))
            rows.append(row)
        return rows, repeats

    def _fresh(self, kind: str, user: str, answer: str, rng: Random, arrays: np.random.Generator) -> _Row:
        if kind == "foreign":
            language = rng.choice(LANGUAGES)
            user = self._foreign.text(language, rng.randrange(60, 190), arrays)
            return _Row(user, self._foreign.text(language, rng.randrange(310, 560), arrays), language, kind)
        if kind == "code":
            head = answer[: answer.rfind(" ", 0, 260)]
            return _Row(user, f"{head}\n\n```python\n{rng.choice(self._writer.snippets)}\n```\n", "", kind)
        row = _Row(user, answer, "en", kind if kind in _PLANTS else "prose")
        return _with_plant(row, rng) if kind in _PLANTS else row

    def _repeat(self, kind: str, rng: Random) -> tuple[_Row, dict[str, Any]]:
        source_row, source = rng.choice(self._sources)
        how = {"exact_duplicate": "exact", "leak": rng.choice(LEAKS)}.get(kind) or rng.choice(tuple(MUTATIONS))
        row = source
        if how != "exact":
            mutate = MUTATIONS[how]
            answer = mutate(source.assistant, rng, lambda rng: rng.choice(self._writer.new_words))
            row = _Row(source.user, answer, source.language, kind)
        similarity = jaccard(_row_tokens(source), _row_tokens(row))
        told = {"source_split": "train", "source_row": source_row, "what": kind, "kind": how, "jaccard": similarity}
        return _Row(row.user, row.assistant, source.language, kind), told


def _row_tokens(row: _Row) -> frozenset[str]:
    return token_set(f"{row.user}\n{row.assistant}")


def _kinds(size: int, split: str, rng: Random) -> list[str]:
    """What each row of a block is, in the shares of `_KINDS`, shuffled."""
    shares = dict(_KINDS)
    if split != "train":
        shares = {**shares, "exact_duplicate": 0, "near_duplicate": 0, "leak": _HELD_OUT_LEAKS}
    kinds = [kind for kind, share in shares.items() for _ in range(round(size * share / 100))][:size]
    kinds += ["prose"] * (size - len(kinds))
    rng.shuffle(kinds)
    return kinds


def _with_plant(row: _Row, rng: Random) -> _Row:
    """`row` with one thing planted in one of its messages, at its begin, between two words, or at its end."""
    plant: Plant = rng.choice(_PLANTS[row.kind])
    value = plant.draw(rng)
    before, after = rng.choice(plant.carriers).split("{}")
    message = rng.randrange(2)
    text = row.assistant if message else row.user
    spaces = [index for index, char in enumerate(text) if char == " "]
    at = rng.choice((0, len(text), *(rng.choice(spaces) for _ in range(4)))) if spaces else len(text)
    head, tail = text[:at], text[at:].lstrip(" ")
    lead = f"{head} {before}" if head else before
    planted = f"{lead}{value}{after}{' ' if tail else ''}{tail}"
    span = (message, len(lead), len(lead) + len(value), row.kind, plant.kind)
    messages = (row.user, planted) if message else (planted, row.assistant)
    return _Row(*messages, row.language, row.kind, [span])


def write_corpus(folder: Path, rows: int, *, seed: int = 0, identical_cluster: int = 0, splits: bool = True) -> Truth:
    """Write a corpus and its truth.

    Args:
        folder: Gets ``data/`` and ``truth/``.
        rows: Rows of all splits together.
        seed: Another seed, another corpus.
        identical_cluster: So many equal rows stand at the end of the training data, beyond `rows`.
        splits: Without, all rows are training data.
    """
    prose = installed_prose()
    made = _Corpus(prose, seed)
    sizes = {split: round(rows * share) for split, share in SHARES.items() if split != "train"} if splits else {}
    sizes = {"train": rows - sum(sizes.values()), **sizes}
    truth = _Ledger(folder / "truth")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    written = {}
    for split, size in sizes.items():
        path = folder / "data" / f"{split}.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for number, first in enumerate(range(0, size, _BLOCK)):
                block, repeats = made.block(split, number, first, min(_BLOCK, size - first))
                file.writelines(_lines(split, first, block))
                truth.write("planted", list(_planted(split, first, block)))
                truth.write("repeats", repeats)
                truth.write("rows", _row_facts(split, first, block))
            if split == "train" and identical_cluster:
                same = [_Row("Is this an answer?", _BOILERPLATE, "en", "boilerplate")] * identical_cluster
                file.writelines(_lines(split, size, same))
                truth.write("rows", _row_facts(split, size, same))
                sizes["train"] = size + identical_cluster
        written[split] = path.stat().st_size
    truth.close()
    return Truth(folder / "data", folder / "truth", sizes, sum(written.values()), prose.digest)


_BOILERPLATE = " ".join(["I am sorry, but as a language model I can not help with that request."] * 8)


def _lines(split: str, first: int, rows: list[_Row]) -> Iterator[str]:
    for number, row in enumerate(rows, first):
        messages = [{"role": "user", "content": row.user}, {"role": "assistant", "content": row.assistant}]
        yield json.dumps({"id": f"{split}-{number}", "messages": messages}, ensure_ascii=False) + "\n"


def _planted(split: str, first: int, rows: list[_Row]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, first):
        for message, start, end, what, kind in row.planted:
            column = f"messages[{message}].content"
            yield {"split": split, "row": number, "column": column, "start": start, "end": end,
                   "what": what, "kind": kind}  # fmt: skip


def _row_facts(split: str, first: int, rows: list[_Row]) -> list[dict[str, Any]]:
    return [
        {"split": split, "row": number, "language": row.language, "kind": row.kind}
        for number, row in enumerate(rows, first)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the audit benchmark's corpus and its truth.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--identical-cluster", type=int, default=0, help="equal rows beyond --rows")
    parser.add_argument("--one-split", action="store_true", help="all rows are training data")
    arguments = parser.parse_args()
    truth = write_corpus(
        arguments.out,
        arguments.rows,
        seed=arguments.seed,
        identical_cluster=arguments.identical_cluster,
        splits=not arguments.one_split,
    )
    print(f"{truth.rows} rows, {truth.bytes / 1e6:.1f} MB in {truth.data}; prose {truth.prose_digest[:12]}")


if __name__ == "__main__":
    main()
