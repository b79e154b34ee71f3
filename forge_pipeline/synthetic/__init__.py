"""Rows written by a teacher model: prompts in, training rows with their provenance out."""

from forge_pipeline.synthetic.generator import SyntheticDataGenerator, SyntheticResult

__all__ = ["SyntheticDataGenerator", "SyntheticResult"]
