"""Tokenized rows on disk until their order is known, so that memory holds lengths only.

Rows are appended as they come; `tables` hands them out in any order, whole or in pieces
put together, as Arrow tables of a bounded number of tokens.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from forge_pipeline.data.packing import IGNORED, Piece
from forge_pipeline.data.special_tokens import Ids

_TABLE_TOKENS = 1 << 21
_TABLE_ROWS = 1 << 13


class TokenSpool:
    """Token ids and labels of many rows, in two files of int32 under one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._paths = (directory / "input_ids", directory / "labels")
        self._files: tuple[BinaryIO, ...] = tuple(path.open("wb") for path in self._paths)
        self.lengths = array("i")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def append(self, ids: Ids, labels: Ids, lengths: Iterable[int]) -> None:
        """Add rows: their ids and labels laid end to end, and their lengths."""
        for file, values in zip(self._files, (ids, labels), strict=True):
            file.write(np.ascontiguousarray(values, dtype=np.int32).data)
        self.lengths.extend(lengths)

    def tables(self, rows: Iterable[Sequence[Piece]], *, packed: bool) -> Iterator[pa.Table]:
        """The rows that `rows` puts together from pieces, with `seq_lengths` where they are packed."""
        for file in self._files:
            file.flush()
        starts = np.concatenate([[0], np.cumsum(np.asarray(self.lengths, dtype=np.int64))])
        ids, labels = (np.memmap(path, dtype=np.int32, mode="r") for path in self._paths)
        pending: list[Sequence[Piece]] = []
        tokens = 0
        for pieces in rows:
            pending.append(pieces)
            tokens += sum(piece.stop - piece.start for piece in pieces)
            if tokens >= _TABLE_TOKENS or len(pending) >= _TABLE_ROWS:
                yield _table(ids, labels, starts, pending, packed=packed)
                pending, tokens = [], 0
        if pending:
            yield _table(ids, labels, starts, pending, packed=packed)


def _table(
    ids: Ids,
    labels: Ids,
    starts: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    rows: Sequence[Sequence[Piece]],
    *,
    packed: bool,
) -> pa.Table:
    slices = [slice(starts[p.row] + p.start, starts[p.row] + p.stop) for pieces in rows for p in pieces]
    seq_lengths = [[piece.stop - piece.start for piece in pieces] for pieces in rows]
    totals = np.array([sum(members) for members in seq_lengths], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(totals, dtype=np.int64)]).astype(np.int32)
    flat_labels = np.concatenate([labels[each] for each in slices])
    if packed:
        inside = np.cumsum([length for members in seq_lengths for length in members])
        flat_labels[np.concatenate([[0], inside[:-1]])] = IGNORED
    columns = {
        "input_ids": pa.ListArray.from_arrays(offsets, np.concatenate([ids[each] for each in slices])),
        "labels": pa.ListArray.from_arrays(offsets, flat_labels),
        "length": pa.array(totals),
    }
    if packed:
        columns["seq_lengths"] = pa.array(seq_lengths, pa.list_(pa.int32()))
    return pa.table(columns)
