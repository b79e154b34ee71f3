"""`DatasetIOManager`: Arrow tables and dataset directories as Parquet."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import DirectoryArtifact
from resources.io_managers.base import ForgeIOManager, check_type

_TABLE = "data.parquet"


class DatasetIOManager(ForgeIOManager):
    """Stores a `pyarrow.Table`, or a directory of Parquet splits with its provenance.

    A table is written as one zstd Parquet file of fixed row groups and no timestamps, so
    equal rows give equal bytes.
    """

    def write(self, value: Any, directory: Path) -> Path:
        if isinstance(value, DirectoryArtifact):
            return value.path
        check_type(type(value), (pa.Table, DirectoryArtifact), "DatasetIOManager")
        pq.write_table(value, directory / _TABLE, compression="zstd", row_group_size=65_536, store_schema=True)
        return directory

    def read(self, directory: Path, expected: type) -> Any:
        check_type(expected, (pa.Table, DirectoryArtifact), "DatasetIOManager")
        if issubclass(expected, DirectoryArtifact):
            return expected.open(directory)
        files = sorted(directory.glob("*.parquet"))
        if len(files) != 1:
            raise IntegrityError(f"{directory} holds {len(files)} Parquet files; a pyarrow.Table needs exactly one")
        return pq.read_table(files[0])
