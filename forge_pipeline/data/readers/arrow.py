"""Arrow IPC: files (.arrow, .feather) and streams, which is what ``Dataset.save_to_disk`` writes.

The file is mapped into memory, so that the system holds the pages it needs and no more. Each
batch is validated before it is read: offsets in a damaged file would point anywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from forge_pipeline.data.readers.arrow_values import check_schema, rows_of_batch
from forge_pipeline.data.readers.row import Rows
from forge_pipeline.errors import DataError

_FILE_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"


def read_arrow(path: Path) -> Rows:
    """The rows of the file; `line` counts them.

    Raises:
        DataError: It is no Arrow file, is cut off or damaged, or has two columns of one name.
    """
    number = 0
    try:
        with _batches(path) as (schema, batches):
            check_schema(schema, str(path))
            for batch in batches:
                batch.validate(full=True)
                yield from rows_of_batch(batch, number + 1)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise DataError(f"{path}: not readable as Arrow after row {number}: {error}") from error


@contextmanager
def _batches(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with path.open("rb") as file:
        magic = file.read(len(_FILE_MAGIC))
    if magic.startswith(_FEATHER_1_MAGIC):
        raise DataError(f"{path}: Feather version 1, which Arrow no longer reads; write it again as Feather or Parquet")
    with pa.memory_map(str(path)) as source:
        if magic == _FILE_MAGIC:
            with pa.ipc.open_file(source) as reader:
                yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            with pa.ipc.open_stream(source) as stream:
                yield stream.schema, iter(stream)
