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
    """How the recipe packs its rows, or None: only sft packs."""
    training = config.training
    return training.packing_strategy if training.uses_packing and training.trainer_type == "sft" else None


def best_fit(lengths: Sequence[int], capacity: int) -> Iterator[list[Piece]]:
    """Best fit, longest first ("bfd"): rows stay whole. Every row must have 1 to `capacity` tokens."""
    for members in best_fit_bins(lengths, capacity):
        yield [Piece(row, 0, lengths[row]) for row in members]


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
