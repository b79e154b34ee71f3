"""Rows on disk between the one time they are read and the one time they are written.

Rows are appended once and kept in chunks, each in its own types, so what stays in memory
is one chunk, whatever their number; `write` then copies any of them to Parquet files in
one pass, in the types that all chunks share.
"""

from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.data.columns import CHUNK_ROWS, ParquetRows, Row, SharedSchema, chunk_of

_CHUNK_CHARACTERS = 8 << 20  # of JSON; a single longer row is a chunk of its own


class RowSpill:
    """Rows in a file at `path`, which must not exist yet and is whoever made its folder's to remove.

    `append` all, then `finish`, then `write`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pa.OSFile(str(path), "wb")
        self._pending: list[Row] = []
        self._characters = 0
        self._offsets: list[int] = []  # of each chunk, in bytes
        self._starts = [0]  # number of the first row of each chunk, and of the row after the last
        self._columns: list[frozenset[str]] = []
        self._schema = SharedSchema()

    def append(self, row: Row, characters: int) -> None:
        """Keep a row; `characters` says about how large it is."""
        self._pending.append(row)
        self._characters += characters
        if len(self._pending) >= CHUNK_ROWS or self._characters >= _CHUNK_CHARACTERS:
            self._flush()

    def finish(self) -> None:
        """No more rows will come."""
        self._flush()
        self._file.close()
        self._schema.settle(self._column)

    def write(self, rows: Mapping[Path, npt.NDArray[np.int64]]) -> None:
        """Write Parquet files, each with the rows of the given numbers, which rise or repeat."""
        with ExitStack() as stack:
            files = {path: stack.enter_context(ParquetRows(path, self._schema.schema)) for path in rows}
            for number, chunk in enumerate(self._chunks()):
                start, stop = self._starts[number], self._starts[number + 1]
                for path, numbers in rows.items():
                    low, high = np.searchsorted(numbers, (start, stop))
                    if low < high:
                        files[path].write(self._schema.conformed(chunk.take(pa.array(numbers[low:high] - start))))

    def _flush(self) -> None:
        if not self._pending:
            return
        chunk = chunk_of(self._pending)
        self._schema.add(chunk.schema)
        self._columns.append(frozenset(chunk.column_names))
        self._offsets.append(self._file.tell())
        with pa.ipc.new_stream(self._file, chunk.schema) as stream:
            stream.write_table(chunk)
        self._starts.append(self._starts[-1] + len(self._pending))
        self._pending, self._characters = [], 0

    def _chunks(self) -> Iterator[pa.Table]:
        with pa.OSFile(str(self._path), "rb") as file:
            for offset in self._offsets:
                file.seek(offset)
                yield pa.ipc.open_stream(file).read_all()

    def _column(self, name: str) -> Iterator[pa.Table]:
        with pa.OSFile(str(self._path), "rb") as file:
            for offset, columns in zip(self._offsets, self._columns, strict=True):
                if name in columns:
                    file.seek(offset)
                    yield pa.ipc.open_stream(file).read_all().select([name])


class TextSpill:
    """Texts in a file at `path`, one a row, to be given back as one array that lies on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._ends = array("q", [0])  # of each text, in bytes

    def append(self, text: str) -> None:
        raw = text.encode()
        self._file.write(raw)
        self._ends.append(self._ends[-1] + len(raw))

    def finish(self) -> None:
        self._file.close()

    def texts(self, kept: npt.NDArray[np.bool_]) -> pa.LargeStringArray:
        """The texts of the rows for which `kept` is true, mapped from disk: they take no memory of the process."""
        texts = _mapped(self._path, self._ends)
        if kept.all():
            return texts
        chosen = TextSpill(self._path.with_suffix(".kept"))
        for start in range(0, len(texts), CHUNK_ROWS):
            chunk = texts.slice(start, CHUNK_ROWS).filter(pa.array(kept[start : start + CHUNK_ROWS]))
            for text in chunk:
                raw = text.as_buffer()
                chosen._file.write(raw)
                chosen._ends.append(chosen._ends[-1] + raw.size)
        chosen.finish()
        return _mapped(chosen._path, chosen._ends)


def _mapped(path: Path, ends: "array[int]") -> pa.LargeStringArray:
    data = pa.memory_map(str(path)).read_buffer() if ends[-1] else pa.py_buffer(b"")
    return pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), data)
