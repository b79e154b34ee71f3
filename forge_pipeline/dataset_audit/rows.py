"""The texts of a stored split, block by block, for whoever looks at them a second time."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from forge_pipeline.dataset_audit.reading import plan, read_blocks
from forge_pipeline.dataset_audit.texts import row_texts, strings_of


def row_texts_of(path: Path) -> Iterator[pa.StringArray]:
    """What each row of one file says (see `texts.row_texts`), in reading order."""
    for shard in plan({"": (path,)}):
        for block in read_blocks(shard):
            yield row_texts(strings_of(block), block.row_count)
