"""Batches of a Parquet file through a `RowEncoder`, in order, in this process or in several.

Batches are cut where the file's rows say, never where the workers do, so the result does
not depend on their number. At most a few batches a worker are under way at a time.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.data.row_encoding import EncodedRows, RowEncoder

BATCH_ROWS = 512
_AHEAD = 3  # batches a worker

_encoder: RowEncoder | None = None  # of this worker process


def encoded_batches(encoder: RowEncoder, file: Path, split: str, workers: int) -> Iterator[EncodedRows]:
    """The rows of one split, encoded, in their order."""
    batches = _batches(file)
    if workers <= 1 or pq.read_metadata(file).num_rows <= BATCH_ROWS:
        for batch, first in batches:
            yield encoder.encode(batch, split, first)
        return
    context = multiprocessing.get_context("spawn")  # threads of Arrow, torch or tokenizers do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(encoder,)) as pool:
        pending: deque[Future[EncodedRows]] = deque()
        try:
            for batch, first in batches:
                pending.append(pool.submit(_encode, batch, split, first))
                if len(pending) >= _AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _batches(file: Path) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of at most `BATCH_ROWS` rows, each with the number of its first row."""
    first = 0
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
            yield batch, first
            first += len(batch)


def _start(encoder: RowEncoder) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process a core already
    _encoder = encoder


def _encode(batch: pa.RecordBatch, split: str, first: int) -> EncodedRows:
    assert _encoder is not None
    return _encoder.encode(batch, split, first)
