"""Named entities: what is made of a model's answers, and, where Presidio is installed, the real thing."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from forge_pipeline.dataset_audit.detection import CATEGORIES, scan_texts
from forge_pipeline.dataset_audit.pii_ml import entities_in, entity_finder
from forge_pipeline.errors import OptionalDependencyError

HAS_PRESIDIO = importlib.util.find_spec("presidio_analyzer") is not None
needs_presidio = pytest.mark.skipif(not HAS_PRESIDIO, reason="presidio-analyzer is not installed (extra pii-ml)")


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


@pytest.mark.skipif(HAS_PRESIDIO, reason="Presidio is installed")
def test_without_presidio_the_extra_is_named() -> None:
    with pytest.raises(OptionalDependencyError, match=r"forge-pipeline\[pii-ml\]"):
        entity_finder("en")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A spaCy pipeline on disk that knows four names."""
    import spacy

    pipeline = spacy.blank("de")
    pipeline.add_pipe("entity_ruler").add_patterns(  # type: ignore[attr-defined]
        [
            {"label": "PER", "pattern": "Ada Lovelace"},
            {"label": "LOC", "pattern": "Berlin"},
            {"label": "ORG", "pattern": "Acme GmbH"},
            {"label": "PERSON", "pattern": "Grace Hopper"},
        ]
    )
    pipeline.to_disk(tmp_path / "model")
    return tmp_path / "model"


@needs_presidio
def test_a_model_is_read_by_presidio_in_its_own_language(model: Path) -> None:
    find = entity_finder("de", model)
    text = "Grace Hopper und Ada Lovelace trafen die Acme GmbH in Berlin."
    assert [(finding.kind, text[slice(*finding.span)]) for finding in find(text)] == [
        ("person", "Grace Hopper"),
        ("person", "Ada Lovelace"),
        ("organization", "Acme GmbH"),
        ("location", "Berlin"),
    ]


@needs_presidio
def test_many_texts_at_once_give_what_each_gives_alone(model: Path) -> None:
    find = entity_finder("de", model)
    texts = ["Ada Lovelace in Berlin", "niemand", "", "Grace Hopper"] * 40
    assert find.many(texts) == [find(text) for text in texts]


@needs_presidio
def test_only_names_come_from_the_model_and_they_yield_to_patterns(model: Path) -> None:
    texts = pa.array(["Ada Lovelace, ada@example.com, 4111 1111 1111 1111", None, "nichts"])
    found = scan_texts(texts, entities=entity_finder("de", model))
    assert [CATEGORIES[code] for code in found.category] == ["person", "email", "credit_card"]
    assert found.preview[0] == "Xxx Xxxxxxxx"


@needs_presidio
def test_a_model_that_is_missing_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(OptionalDependencyError, match="python -m spacy download fr_core_news_sm"):
        entity_finder("fr")
