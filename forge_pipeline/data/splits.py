"""Which rows are taken and to which split each goes: decided by content, never by position.

Laws: the same rows and seed give the same splits in whatever order they are read; rows
of one group go together; a row that is added moves no other row, but where it ties two
groups together, makes a group too large for a split, or changes the two rescues in
`assign`. Selection (`smallest`) and assignment use keys of different salts, so that
taking fewer rows does not empty a split. Keys are 64 bits of SHA-256: two rows in a
million-row dataset share one by chance once in 40 million datasets, and then they only
go together.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from forge_pipeline.data.columns import to_json

if TYPE_CHECKING:
    from forge_pipeline.config.data import SplitSection
    from forge_pipeline.data.examples import Example

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

_WORDS = re.compile(r"\w+")
_ASCII_WORDS = bytes(code if _WORDS.match(chr(code)) else ord(" ") for code in range(128)) + bytes(128)
SPLITS = ("train", "validation", "test")
_ALIASES = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "eval", "holdout", "heldout"), "test"),
}


def as_split(name: str) -> str | None:
    """The split that a file or folder name declares, or None. A test split never becomes validation."""
    stem = name.casefold()
    for cut in ".-_":
        stem = stem.partition(cut)[0]
    return _ALIASES.get(stem)


def row_digest(row: Mapping[str, Any]) -> bytes:
    """32 bytes that identify a row's content, whatever the order of its keys."""
    return json_digest_of(to_json(row))


def json_digest_of(text: str) -> bytes:
    """`row_digest` of the row whose `columns.to_json` is `text`."""
    return hashlib.sha256(text.encode()).digest()


def group_key(example: "Example") -> bytes:
    """What repeats share: the words of the first user turn and of the answer to it; of plain text, all words.

    Case, punctuation, white space, order and repetition do not count: the audit's overlap of such rows is 1.
    Rows that differ in a word are in different groups.
    """
    text = example.columns["text"] if "text" in example.columns else _first_exchange(example.columns)
    return hashlib.sha256(b" ".join(sorted(_words(text))) or text.encode()).digest()


def _words(text: str) -> set[bytes]:
    if text.isascii():  # four times as fast
        return set(text.lower().encode().translate(_ASCII_WORDS).split())
    return {word.encode() for word in _WORDS.findall(text.casefold())}


def _first_exchange(columns: Mapping[str, Any]) -> str:
    """The first user turn and the first assistant turn, where there are such; of preferences the chosen answer."""
    first: dict[str, str] = {}
    answer = columns.get("chosen", columns.get("completion", "\n".join(columns.get("completions", ()))))
    parts = (("user", columns.get("messages", columns.get("prompt"))), ("assistant", answer))
    for role, part in parts:
        turns = [{"role": role, "content": part}] if part and isinstance(part, str) else part
        for turn in turns:
            first.setdefault(turn["role"], turn.get("content") or "")
    return "\n".join((first.get("user", ""), first.get("assistant", "")))


def salted_key(salt: str, digest: bytes) -> int:
    """A number from 0 to 2**64 - 1 that depends on `salt` and `digest` alone."""
    return int.from_bytes(_salted(salt.encode(), digest)[:8], "big")


def smallest(keys: Keys, count: int) -> Numbers:
    """Positions of the `count` smallest keys, in rising order. Of equal keys the earlier."""
    if count >= len(keys):
        return np.arange(len(keys))
    return np.sort(np.argsort(keys, kind="stable")[:count])


def shuffled(digests: Sequence[bytes], seed: int) -> list[int]:
    """Positions in an order that depends on the rows' content and `seed` only."""
    salt = f"shuffle {seed}".encode()
    return sorted(range(len(digests)), key=lambda i: (_salted(salt, digests[i]), i))


def shares(wanted: "SplitSection", skip: frozenset[str] = frozenset()) -> dict[str, float]:
    """The splits to be made of training rows, and their shares; those in `skip` are there already."""
    asked = {"test": wanted.test, "validation": wanted.validation}
    return {split: share for split, share in asked.items() if share > 0 and split not in skip}


def assign(
    groups: Keys,
    places: Keys,
    wanted: "SplitSection",
    *,
    clusters: Numbers | None = None,
    skip: frozenset[str] = frozenset(),
) -> npt.NDArray[np.int8]:
    """The split of each row, by its group, as an index into `SPLITS`.

    A group with more rows than the share that is asked for stays in train: it would make a split of near repeats.
    Every split that is asked for gets at least one group, and so does train, while there are groups enough:
    on a small dataset a split may otherwise come out empty.

    Args:
        groups: One key a row; rows with equal keys go together.
        places: For each row where its group stands between 0 and 2**64, which says to which split it goes.
        wanted: Shares and seed.
        clusters: A number a row; rows with equal numbers go together as well, and so do rows tied through others.
        skip: Splits that the dataset declares itself, and that get no rows here.
    """
    if not len(groups):
        return np.zeros(0, np.int8)
    _, label, sizes = np.unique(_tied(groups, clusters), return_inverse=True, return_counts=True)
    order = np.lexsort((groups, label))
    first = order[np.searchsorted(label[order], np.arange(len(sizes)))]
    place = places[first].astype(np.float64) / 2.0**64  # of the smallest key, whatever the order of the rows
    chosen = np.zeros(len(sizes), np.int8)
    start = 0.0
    for split, share in shares(wanted, skip).items():
        fits = sizes <= max(1.0, share * len(groups))
        chosen[(start <= place) & (place < start + share) & fits] = SPLITS.index(split)
        start += share
    for split in ("train", *reversed(shares(wanted, skip))):
        _rescue(SPLITS.index(split), chosen, sizes, place)
    return chosen[label]


def _tied(groups: Keys, clusters: Numbers | None) -> Numbers:
    """A label a row, equal where rows are tied by group, by cluster, or by a chain of both."""
    _, group = np.unique(groups, return_inverse=True)
    if clusters is None:
        return group
    _, cluster = np.unique(clusters, return_inverse=True)
    label = np.arange(group.max() + 1)  # of each group: a group it is tied to, itself at first
    while True:
        lowest = np.full(cluster.max() + 1, len(label))
        np.minimum.at(lowest, cluster, label[group])
        closer = label.copy()
        np.minimum.at(closer, group, lowest[cluster])
        closer = closer[closer]  # two steps at once, so that long chains take few rounds
        if np.array_equal(closer, label):
            return label[group]
        label = closer


def _rescue(split: int, chosen: npt.NDArray[np.int8], sizes: Numbers, place: npt.NDArray[np.float64]) -> None:
    """Give an empty split a group of the fullest one, unless that would empty it in turn: a small one, the first."""
    counts = np.bincount(chosen, minlength=len(SPLITS))
    if counts[split]:
        return
    fullest = int(counts.argmax())
    if counts[fullest] > 1 or SPLITS[split] == "train":
        members = np.flatnonzero(chosen == fullest)
        chosen[members[np.lexsort((place[members], sizes[members]))[0]]] = split


def _salted(salt: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(salt + b"\0" + digest).digest()
