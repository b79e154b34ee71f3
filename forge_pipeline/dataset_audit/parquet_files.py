"""Parquet files that grow table by table and appear under their name when they are whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from forge_pipeline.integrity.atomic import fsync_directory

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROW_GROUP_ROWS = 65_536


@contextmanager
def parquet_file(path: Path, schema: pa.Schema) -> "Iterator[Rows]":
    """Yield what takes tables; `path` is replaced when the block ends well, and untouched otherwise.

    Row groups hold 65,536 rows however the tables are cut, so equal rows give equal bytes with one version of pyarrow.

    Raises:
        OSError: Nothing was replaced; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            rows = Rows(file, schema)
            yield rows
            rows.end()
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


class Rows:
    """What goes into an open file. pyarrow's Parquet is imported with the first rows, while workers are at others."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema
        self._held: list[pa.Table] = []
        self._ended = False

    @cached_property
    def _writer(self) -> "pq.ParquetWriter":
        import pyarrow.parquet as pq

        return pq.ParquetWriter(self._file, self._schema, compression="zstd", compression_level=3)

    def append(self, table: pa.Table) -> None:
        writer = self._writer
        self._held.append(table)
        while sum(len(part) for part in self._held) >= ROW_GROUP_ROWS:
            whole = pa.concat_tables(self._held)
            writer.write_table(whole.slice(0, ROW_GROUP_ROWS), row_group_size=ROW_GROUP_ROWS)
            self._held = [whole.slice(ROW_GROUP_ROWS)]

    def end(self) -> None:
        """Write what is left. Nothing may be appended then."""
        if self._ended:
            return
        self._ended = True
        rest = pa.concat_tables([pa.Table.from_batches([], self._schema), *self._held])
        if len(rest):
            self._writer.write_table(rest, row_group_size=ROW_GROUP_ROWS)
        self._writer.close()
