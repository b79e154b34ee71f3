"""Parquet, a few rows of a row group at a time: what is held is a batch of them and a page of each column."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.data.readers.arrow_values import check_schema, rows_of_batch
from forge_pipeline.data.readers.row import Rows
from forge_pipeline.errors import DataError

_BATCH_ROWS = 1024
_BATCH_BYTES = 8 * 2**20
_BUFFER = 1 << 20  # bytes read ahead in a column, so that a row group is never held whole


def read_parquet(path: Path) -> Rows:
    """The rows of the file; `line` counts them.

    Raises:
        DataError: It is no Parquet file, is cut off or damaged, or has two columns of one name.
    """
    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            check_schema(file.schema_arrow, str(path))
            for group in range(file.num_row_groups):
                facts = file.metadata.row_group(group)
                size = facts.total_byte_size // max(1, facts.num_rows)
                rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, size)))
                for batch in file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False):
                    yield from rows_of_batch(batch, number + 1)
                    number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise DataError(f"{path}: not readable as Parquet after row {number}: {error}") from error
