"""The near-duplicate join over files, for executors whose workers share no memory.

1. Each shard's units are partitioned by table and by the upper bits of their bucket key,
   and written as one Arrow file: a record batch a partition.
2. Each partition is gathered from all shards' files; units with equal keys are all in it,
   so it finds its pairs alone (`near_duplicates.pairs_of_table`), reading the token sets of
   candidates from the signature files. The pairs are written as one Arrow file.
3. The pairs of all partitions, sorted, are the result.

Nothing depends on who does which part, nor on the number of partitions.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from forge_pipeline.dataset_audit.arrow_arrays import numpy_of
from forge_pipeline.dataset_audit.executors import Executor
from forge_pipeline.dataset_audit.groups import IntArray, mixed
from forge_pipeline.dataset_audit.near_duplicates import (
    Pairs,
    Signatures,
    SignedRows,
    Tables,
    pairs_of_table,
)
from forge_pipeline.dataset_audit.scan import RowSignatures

_UNITS_PER_PARTITION = 4_000_000  # 64 MB of keys and rows

_KEYED = pa.schema([("key", pa.uint64()), ("row", pa.int64())])
_PAIRS = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("similarity", pa.float64())])


@dataclass(frozen=True)
class SignatureFiles:
    """The signatures of all shards, each read from its file when it is asked for."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Signatures:
        return _signatures(self.paths[index])


@lru_cache(maxsize=256)  # memory maps that are open at a time
def _signatures(path: Path) -> RowSignatures:
    return RowSignatures.read(path)


@dataclass(frozen=True)
class _Partitioning:
    """What to do with one shard: its units (numbers in the shard, ascending) into `target`."""

    source: Path
    first_row: int
    units: IntArray
    tables: Tables
    parts: int
    target: Path


@dataclass(frozen=True)
class _Joining:
    """One partition to join: `table` and `part`, from what the shards wrote."""

    table: int
    part: int
    parts: int
    tables: Tables
    signatures: SignatureFiles
    starts: IntArray
    partitioned: tuple[Path, ...]
    target: Path


def find_pairs_in_files(
    rows: SignedRows,
    files: SignatureFiles,
    units: IntArray,
    tables: Tables,
    executor: Executor,
    directory: Path,
    *,
    parts: int | None = None,
) -> Pairs:
    """All near-duplicate pairs of units: the same as `near_duplicates.find_pairs`.

    Args:
        rows: Of which `starts` alone is used here.
        files: The signatures, where every worker can read them.
        units: The first row of each unit, ascending.
        tables: How units come into buckets.
        executor: Does the parts.
        directory: For intermediate files; every worker can write there.
        parts: Partitions of each table; by default so many that one holds four million units.
    """
    parts = parts or -(-len(units) // _UNITS_PER_PARTITION) or 1
    cuts = np.searchsorted(units, rows.starts).tolist()
    shards = [
        _Partitioning(
            files.paths[index],
            int(rows.starts[index]),
            units[start:stop] - rows.starts[index],
            tables,
            parts,
            directory / f"partitioned-{index:06}.arrow",
        )
        for index, (start, stop) in enumerate(pairwise(cuts))
    ]
    partitioned = tuple(executor.map(_partition, shards))
    joins = [
        _Joining(table, part, parts, tables, files, rows.starts, partitioned, directory / f"pairs-{table}-{part}.arrow")
        for table in range(tables.count)
        for part in range(parts)
    ]
    return Pairs.merged([_read_pairs(path, complete) for path, complete in executor.map(_join, joins)])


def _partition(task: _Partitioning) -> Path:
    """Write one record batch for each table and part, in this order."""
    keys = RowSignatures.read(task.source).keys
    with pa.OSFile(str(task.target), "wb") as sink, pa.ipc.new_file(sink, _KEYED) as writer:
        for table in range(task.tables.count):
            own = task.tables.bucket_keys(np.asarray(keys)[task.units, task.tables.column(table)], table)
            part = _part_of(own, task.parts)
            order = np.argsort(part, kind="stable")
            cuts = np.searchsorted(part[order], np.arange(task.parts + 1)).tolist()
            for start, stop in pairwise(cuts):
                chosen = order[start:stop]
                batch = [pa.array(own[chosen]), pa.array(task.first_row + task.units[chosen])]
                writer.write_batch(pa.record_batch(batch, schema=_KEYED))
    return task.target


def _part_of(keys: "np.typing.NDArray[np.uint64]", parts: int) -> IntArray:
    """The partition of each key, by its upper bits: 0 to parts - 1."""
    upper = (mixed(keys) >> np.uint64(32)) * np.uint64(parts)
    return (upper >> np.uint64(32)).astype(np.int64)


def _join(task: _Joining) -> tuple[Path, bool]:
    batches = []
    for path in task.partitioned:
        with pa.memory_map(str(path)) as source:
            batches.append(pa.ipc.open_file(source).get_batch(task.table * task.parts + task.part))
    table = pa.Table.from_batches(batches, _KEYED)
    keys, units = (numpy_of(column) for column in table.columns)
    nothing = np.zeros(0, dtype=np.uint64)
    rows = SignedRows(nothing, nothing, task.signatures, task.starts)
    pairs = pairs_of_table(rows, units, keys, task.tables, task.table)
    found = pa.table([pairs.left, pairs.right, pairs.similarity], schema=_PAIRS)
    with pa.OSFile(str(task.target), "wb") as sink, pa.ipc.new_file(sink, _PAIRS) as writer:
        writer.write_table(found)
    return task.target, pairs.complete


def _read_pairs(path: Path, complete: bool) -> Pairs:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    left, right, similarity = (numpy_of(column) for column in table.columns)
    return Pairs(left, right, similarity, complete)
