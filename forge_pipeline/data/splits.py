"""Which rows are taken and to which split each goes: decided by content, never by position.

Laws: the same rows and seed give the same splits in whatever order they are read; a row
that is added moves no other row (but for the two rescues in `assign`); rows of one group
go together. Selection (`smallest_digests`) and assignment hash with different salts, so
that taking fewer rows does not empty a split.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from forge_pipeline.config.data import SplitSection
from forge_pipeline.data.columns import to_json
from forge_pipeline.data.examples import conversation_of

_WORDS = re.compile(r"\w+")
_ALIASES = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "eval", "holdout"), "test"),
}


def as_split(name: str) -> str | None:
    """The split that a file or folder name declares, or None. A test split never becomes validation."""
    stem = name.casefold()
    for cut in ".-_":
        stem = stem.partition(cut)[0]
    return _ALIASES.get(stem)


def row_digest(row: Mapping[str, Any]) -> bytes:
    """32 bytes that identify a row's content, whatever the order of its keys."""
    return hashlib.sha256(to_json(row).encode()).digest()


def group_key(row: Mapping[str, Any]) -> bytes:
    """What repeats share: the words of the first user turn and of the answer to it; of plain text, all words.

    Case, punctuation, white space, order and repetition do not count: the audit's overlap of such rows is 1.
    Rows that differ in a word are in different groups.
    """
    turns = conversation_of(row)
    if turns is None:
        text = str(row.get("text") or to_json(row))
    else:
        first = {turn["role"]: turn["content"] for turn in reversed(turns)}  # the first of each role stays
        text = "\n".join((first.get("user", ""), first.get("assistant", "")))
    words = " ".join(sorted(set(_WORDS.findall(text.casefold()))))
    return hashlib.sha256((words or text).encode()).digest()


def smallest_digests(digests: Sequence[bytes], count: int) -> list[int]:
    """Positions of `count` rows, chosen by digest, in their old order. Exact repeats: the earlier first."""
    if count >= len(digests):
        return list(range(len(digests)))
    order = sorted(range(len(digests)), key=lambda i: (_salted(b"select", digests[i]), i))
    return sorted(order[:count])


def shuffled(digests: Sequence[bytes], seed: int) -> list[int]:
    """Positions in an order that depends on the rows' content and `seed` only."""
    salt = f"shuffle {seed}".encode()
    return sorted(range(len(digests)), key=lambda i: (_salted(salt, digests[i]), i))


def assign(groups: Iterable[bytes], wanted: SplitSection, *, skip: frozenset[str] = frozenset()) -> list[str]:
    """The split of each row, by its group.

    Every split that is asked for gets at least one group, and so does train, while there are groups enough:
    on a small dataset a split may otherwise come out empty.

    Args:
        groups: One key a row; rows with equal keys go together.
        wanted: Shares and seed.
        skip: Splits that the dataset declares itself, and that get no rows here.
    """
    groups = list(groups)
    salt = f"split {wanted.seed}".encode()
    place = {group: int.from_bytes(_salted(salt, group)[:8], "big") / 2**64 for group in groups}
    shares = {"test": wanted.test, "validation": wanted.validation}
    shares = {split: share for split, share in shares.items() if share > 0 and split not in skip}
    chosen = dict.fromkeys(place, "train")
    start = 0.0
    for split, share in shares.items():
        chosen.update({group: split for group, at in place.items() if start <= at < start + share})
        start += share
    for split in ("train", *reversed(shares)):
        _rescue(split, chosen, place)
    return [chosen[group] for group in groups]


def _rescue(split: str, chosen: dict[bytes, str], place: Mapping[bytes, float]) -> None:
    """Give an empty split the first group of the fullest one, unless that would empty it in turn."""
    members: dict[str, list[bytes]] = {}
    for group, of in chosen.items():
        members.setdefault(of, []).append(group)
    if split in members:
        return
    fullest = max(members.values(), key=len, default=[])
    if len(fullest) > 1:
        chosen[min(fullest, key=lambda group: place[group])] = split
    elif split == "train" and fullest:
        chosen[fullest[0]] = split


def _salted(salt: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(salt + b"\0" + digest).digest()
