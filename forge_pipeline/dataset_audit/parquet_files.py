"""Parquet files that grow table by table and appear under their name when they are whole."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.integrity.atomic import fsync_directory

ROW_GROUP_ROWS = 65_536


@contextmanager
def parquet_file(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends a table; `path` is replaced when the block ends well, and untouched otherwise.

    Row groups hold 65,536 rows however the tables are cut, so equal rows give equal bytes with one version of pyarrow.

    Raises:
        OSError: Nothing was replaced; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd", compression_level=3) as writer:
                yield from _appending(writer, schema)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def _appending(writer: pq.ParquetWriter, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    held: list[pa.Table] = []

    def append(table: pa.Table) -> None:
        held.append(table)
        while sum(len(part) for part in held) >= ROW_GROUP_ROWS:
            whole = pa.concat_tables(held)
            writer.write_table(whole.slice(0, ROW_GROUP_ROWS), row_group_size=ROW_GROUP_ROWS)
            held[:] = [whole.slice(ROW_GROUP_ROWS)]

    yield append
    rest = pa.concat_tables([pa.Table.from_batches([], schema), *held])
    if len(rest):
        writer.write_table(rest, row_group_size=ROW_GROUP_ROWS)
