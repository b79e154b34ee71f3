"""The named-entity layer: what it makes of an analyzer's results, and what it says without one."""

import importlib.util
from dataclasses import dataclass

import pytest

from forge_pipeline.dataset_audit.pii_ml import entities_in, entity_finder
from forge_pipeline.errors import OptionalDependencyError


@dataclass
class Result:
    """Has the four attributes of presidio_analyzer.RecognizerResult that are read."""

    entity_type: str
    start: int
    end: int
    score: float


def test_entities_become_findings_without_overlaps() -> None:
    text = "Ada Lovelace met Acme in London at noon."
    found = entities_in(
        text,
        [
            Result("LOCATION", 25, 31, 0.85),
            Result("PERSON", 0, 12, 0.85),
            Result("LOCATION", 4, 12, 0.85),
            Result("DATE_TIME", 35, 39, 0.85),
            Result("ORGANIZATION", 17, 21, 0.3),
        ],
    )
    assert [(finding.kind, text[slice(*finding.span)], finding.severity) for finding in found] == [
        ("person", "Ada Lovelace", "medium"),
        ("location", "London", "low"),
    ]


@pytest.mark.skipif(importlib.util.find_spec("presidio_analyzer") is not None, reason="Presidio is installed")
def test_without_presidio_the_extra_is_named() -> None:
    with pytest.raises(OptionalDependencyError, match=r"forge-pipeline\[pii-ml\]"):
        entity_finder("en")
