"""Near-duplicate clusters row by row: who belongs together, who stays, and who can go."""

import numpy as np
import pyarrow as pa

from forge_pipeline.dataset_audit import arrow_functions as pc
from forge_pipeline.dataset_audit.arrow_arrays import boolean_array, number_array, string_array
from forge_pipeline.dataset_audit.groups import IntArray
from forge_pipeline.dataset_audit.overlap import Repeats

CLUSTERS = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("cluster", pa.int64()),
        ("kept", pa.bool_()),
        ("exact", pa.bool_()),
        ("similarity", pa.float32()),
    ]
)
REMOVED = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("kept_split", pa.string()),
        ("kept_row", pa.int64()),
    ]
)
REASONS = ("split_overlap", "exact_duplicate", "near_duplicate")


def cluster_table(repeats: Repeats) -> pa.Table:
    """One row for each row of a cluster of at least two rows over all splits, in reading order, as `CLUSTERS` says.

    `row` counts in its split. `cluster` counts from 0 in the order of first rows. `kept` is true for the first row of
    the cluster in its split, not counting whom rows of other splits connect: so many are false as the report counts
    redundant rows. `exact`: another row has the same text, character by character. `similarity`: the highest Jaccard
    similarity to another row.
    """
    rows, cluster = repeats.cluster_rows()
    split, row = _places(repeats, rows)
    columns = [
        split,
        row,
        number_array(cluster),
        boolean_array(repeats.first_in_split(rows) == rows),
        boolean_array(repeats.has_twin(rows)),
        number_array(repeats.highest_similarity(rows).astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=CLUSTERS)


def redundant_rows(repeats: Repeats, *, split_overlap: bool) -> pa.Table:
    """The rows that a dataset can do without, in reading order, as `REMOVED` says: each with one that stays instead.

    First training rows that stand in another split too, exactly or nearly (``split_overlap``); what stays is a row of
    that split. Then, of each cluster of what is left of a split, all rows but the first (``exact_duplicate`` where the
    text is the first one's, ``near_duplicate`` otherwise).

    Args:
        repeats: What repeats.
        split_overlap: Whether training rows go because of other splits.
    """
    rows, _ = repeats.cluster_rows()
    split = repeats.split_of(rows)
    stays_instead = np.full(len(rows), -1, dtype=np.int64)
    if split_overlap and "train" in repeats.names:
        train = repeats.names.index("train")
        for other in range(len(repeats.names)):
            if other != train:
                near = repeats.first_near(rows, other)
                found = (split == train) & (stays_instead < 0) & (near >= 0)
                stays_instead[found] = near[found]
    overlaps = stays_instead >= 0
    left = rows[~overlaps]
    first = repeats.first_in_split(left)
    # The row of the other split may be redundant there.
    stays_instead[overlaps] = first[np.searchsorted(left, stays_instead[overlaps])]
    stays_instead[~overlaps] = first
    same_text = repeats.rows.text[stays_instead] == repeats.rows.text[rows]
    reason = np.where(overlaps, 0, np.where(same_text, 1, 2))
    gone = stays_instead != rows
    columns = [
        *_places(repeats, rows[gone]),
        pc.take(string_array(REASONS), number_array(reason[gone])),
        *_places(repeats, stays_instead[gone]),
    ]
    return pa.Table.from_arrays(columns, schema=REMOVED)


def _places(repeats: Repeats, rows: IntArray) -> tuple[pa.Array, pa.Array]:
    """Split and number in it of each row."""
    split = repeats.split_of(rows)
    return pc.take(string_array(repeats.names), number_array(split)), number_array(rows - repeats.starts[split])
