"""Which of some items stand in a dataset's training rows, for whoever scores a model on them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from forge_pipeline.dataset_audit.contamination import find_contamination
from forge_pipeline.dataset_audit.rows import row_texts_of

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.data import RawDataset

FindSeen = Callable[[Mapping[str, Sequence[str]]], Mapping[str, frozenset[int]]]


def seen_items(config: "ForgeConfig", dataset: "RawDataset") -> FindSeen | None:
    """Looks for items, given as texts by task, in the training rows with the audit's own thresholds.

    The call gives the numbers of those that it found, by task. None where the recipe does without
    (``data.audit.contamination.enabled: false``).
    """
    wanted = config.data.audit.contamination
    rows = dataset.path / "train.parquet"
    if not wanted.enabled or not rows.is_file():
        return None

    def find(items: Mapping[str, Sequence[str]]) -> dict[str, frozenset[int]]:
        found = find_contamination(
            items, row_texts_of(rows), ngram=wanted.ngram, min_words=wanted.min_words, jaccard=wanted.jaccard
        )
        return {task: frozenset(hit.item for hit in found.hits if hit.task == task) for task in items}

    return find
