"""Several rows in one, so that batches hold no padding.

Input and output have the columns of a tokenized sft split; the output also has
`seq_lengths`, from which TRL's collator (1.16, padding-free) makes position ids that
begin anew with each row inside, so that rows do not see one another. The first label of
each is -100: the token before it belongs to another row.
"""

import bisect
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

IGNORED = -100


def pack_best_fit(table: pa.Table, max_length: int) -> pa.Table:
    """Best fit, longest first ("bfd"): rows stay whole. Every row must have 1 to `max_length` tokens."""
    lengths = table.column("length").to_pylist()
    if not lengths:
        raise ValueError("there are no tokens to pack")
    bins = best_fit_bins(lengths, max_length)
    order = [row for members in bins for row in members]
    taken = table.take(order)
    return _joined(taken, [[lengths[row] for row in members] for members in bins])


def pack_wrapped(table: pa.Table, max_length: int) -> pa.Table:
    """Rows laid end to end and cut every `max_length` tokens ("wrapped"): nothing is lost, rows are cut anywhere."""
    if not len(table):
        raise ValueError("there are no tokens to pack")
    pieces: list[list[int]] = [[]]
    room = max_length
    for length in table.column("length").to_pylist():
        while length:
            if room == 0:
                pieces.append([])
                room = max_length
            part = min(length, room)
            pieces[-1].append(part)
            length, room = length - part, room - part
    return _joined(table, pieces)


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


def _joined(table: pa.Table, seq_lengths: list[list[int]]) -> pa.Table:
    """The rows of `table`, in their order, cut anew into rows that hold pieces of `seq_lengths` tokens."""
    totals = np.array([sum(members) for members in seq_lengths], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(totals, dtype=np.int64)]).astype(np.int32)
    inside = np.array([length for members in seq_lengths for length in members], dtype=np.int64)
    ids, labels = (_flat(table, name) for name in ("input_ids", "labels"))
    labels[np.concatenate([[0], np.cumsum(inside)[:-1]])] = IGNORED
    return pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(offsets, ids),
            "labels": pa.ListArray.from_arrays(offsets, labels),
            "length": pa.array(totals),
            "seq_lengths": pa.array(seq_lengths, pa.list_(pa.int32())),
        }
    )


def _flat(table: pa.Table, name: str) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    chunks = [chunk.flatten().to_numpy() for chunk in table.column(name).chunks]
    return np.concatenate(chunks).astype(np.int32)
