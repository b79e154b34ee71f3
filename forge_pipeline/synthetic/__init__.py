"""Rows written by a teacher model: prompts in, training rows with their provenance out."""

from forge_pipeline.synthetic.generator import SyntheticDataGenerator
from forge_pipeline.synthetic.report import SyntheticReport, SyntheticResult
from forge_pipeline.synthetic.stage import SyntheticDataset, account_of, synthesize

__all__ = [
    "SyntheticDataGenerator",
    "SyntheticDataset",
    "SyntheticReport",
    "SyntheticResult",
    "account_of",
    "synthesize",
]
