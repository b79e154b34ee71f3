"""Several rows in one, so that batches hold no padding.

A packed row is a list of pieces of rows. Its `seq_lengths` are the lengths of the pieces,
from which TRL's padding-free collator (1.16) makes position ids that begin anew with each
piece; eager and SDPA attention of transformers (5.23) then keep pieces apart (tested:
packed logits are those of the rows alone). Training asks for that collator whenever rows
are packed. The first label of each piece is -100: the token before it belongs to another
row.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

IGNORED = -100

CrossContamination = Literal["none", "possible"]


@dataclass(frozen=True)
class Piece:
    """Tokens [start, stop) of one row."""

    row: int
    start: int
    stop: int


def packing_strategy(config: "ForgeConfig") -> str | None:
    """How the recipe packs its rows, or None: only sft and pretraining pack, and pretraining loses no token."""
    training = config.training
    if not training.uses_packing or training.trainer_type not in ("sft", "pretraining"):
        return None
    splits_long_rows = training.trainer_type == "pretraining" and training.packing_strategy == "bfd"
    return "bfd_split" if splits_long_rows else training.packing_strategy


def best_fit(lengths: Sequence[int], capacity: int) -> Iterator[list[Piece]]:
    """Best fit, longest first ("bfd"): rows stay whole. Every row must have 1 to `capacity` tokens."""
    for members in best_fit_bins(lengths, capacity):
        yield [Piece(row, 0, lengths[row]) for row in members]


def best_fit_split(lengths: Sequence[int], capacity: int) -> Iterator[list[Piece]]:
    """Best fit of whole rows, and of the parts of those that have more than `capacity` tokens: nothing is lost."""
    parts = [
        Piece(row, start, min(start + capacity, length))
        for row, length in enumerate(lengths)
        for start in range(0, length, capacity)
    ]
    for members in best_fit_bins([part.stop - part.start for part in parts], capacity):
        yield [parts[member] for member in members]


def wrapped(lengths: Sequence[int], capacity: int) -> Iterator[list[Piece]]:
    """Rows laid end to end and cut every `capacity` tokens ("wrapped"): nothing is lost, rows are cut anywhere."""
    pieces: list[Piece] = []
    room = capacity
    for row, length in enumerate(lengths):
        start = 0
        while start < length:
            if room == 0:
                yield pieces
                pieces, room = [], capacity
            part = min(length - start, room)
            pieces.append(Piece(row, start, start + part))
            start, room = start + part, room - part
    if pieces:
        yield pieces


def best_fit_bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions by bin: each length, longest first, goes where it leaves least room. Ties: the earlier first."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, number of the bin), sorted
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect.bisect_left(rooms, (lengths[row], 0))
        if at < len(rooms):
            room, number = rooms.pop(at)
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(row)
        if room > lengths[row]:
            bisect.insort(rooms, (room - lengths[row], number))
    return bins
