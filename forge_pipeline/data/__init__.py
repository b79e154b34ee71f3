"""Rows: from files, packages and the Hub to token ids, with a record of where they came from."""

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
from forge_pipeline.data.prepare import prepare_dataset
from forge_pipeline.data.tokenization import tokenize

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
    "prepare_dataset",
    "tokenize",
]
