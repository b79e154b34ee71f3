"""Which dataset type and format a dataset is, and why.

Rows vote by their layout; the family with most rows wins, and the rows outside it are
broken rows with a named reason. Ties go to the family that was seen first. The reason
counts every layout, also those that lost.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from forge_pipeline.data.schemas import DatasetFormat, DatasetType, Shape


@dataclass(frozen=True)
class Detection:
    """What a dataset is, in TRL's words, with the reason as a sentence."""

    dataset_type: DatasetType
    dataset_format: DatasetFormat
    reason: str
    family: tuple[str, str]


def detect(rows_by_shape: Mapping[Shape, int]) -> Detection:
    """Decide from the number of rows of each layout.

    Raises:
        ValueError: There are no rows.
    """
    families: Counter[tuple[str, str]] = Counter()
    for shape, count in rows_by_shape.items():
        families[shape.family] += count
    if not families:
        raise ValueError("no rows to detect a dataset type from")
    family = families.most_common(1)[0][0]
    shapes = {shape: count for shape, count in rows_by_shape.items() if shape.family == family}
    types = {shape.dataset_type for shape in shapes}
    dataset_type: DatasetType = types.pop() if len(types) == 1 else "language modeling"
    dataset_format = next(iter(shapes)).dataset_format
    seen = "; ".join(f"{count} rows look like {shape}" for shape, count in shapes.items())
    others = {shape: count for shape, count in rows_by_shape.items() if shape.family != family}
    lost = f" Left out: {'; '.join(f'{count} rows look like {shape}' for shape, count in others.items())}."
    reason = f"{seen}. {_consequence(family)}{lost if others else ''}"
    return Detection(dataset_type, dataset_format, reason, family)


def _consequence(family: tuple[str, str]) -> str:
    if family[0] == "stepwise supervision":
        return "No trainer type of this version learns from steps; they are read so that they can be named."
    if family[1] == "conversational":
        return "Rows go through the chat template."
    return "Standard format: texts are tokenized as they stand, without a chat template."
