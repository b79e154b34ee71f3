"""Rows: from files, packages and the Hub to token ids, with a record of where they came from."""

from typing import TYPE_CHECKING

from forge_pipeline._lazy import attributes

if TYPE_CHECKING:
    from forge_pipeline.data.artifacts import (
        DatasetProvenance,
        RawDataset,
        SkippedRow,
        SourceProvenance,
        SplitSummary,
        TokenizationSummary,
        TokenizedDataset,
        Transformation,
    )
    from forge_pipeline.data.examples import conversation_of
    from forge_pipeline.data.ingestion import ingest
    from forge_pipeline.data.tokenization import tokenize

_EXPORTS = {
    "DatasetProvenance": "artifacts",
    "RawDataset": "artifacts",
    "SkippedRow": "artifacts",
    "SourceProvenance": "artifacts",
    "SplitSummary": "artifacts",
    "TokenizationSummary": "artifacts",
    "TokenizedDataset": "artifacts",
    "Transformation": "artifacts",
    "conversation_of": "examples",
    "ingest": "ingestion",
    "tokenize": "tokenization",
}

__all__ = [
    "DatasetProvenance",
    "RawDataset",
    "SkippedRow",
    "SourceProvenance",
    "SplitSummary",
    "TokenizationSummary",
    "TokenizedDataset",
    "Transformation",
    "conversation_of",
    "ingest",
    "tokenize",
]

if not TYPE_CHECKING:
    __getattr__ = attributes(__name__, _EXPORTS)
