"""Names of people, places and organizations, found by a named-entity model (Presidio, extra ``pii-ml``).

It costs some ten thousand times what the patterns cost, and takes common nouns for
names; its findings are advisory: medium or low, never critical.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_pipeline import _optional
from forge_pipeline.dataset_audit.finding import Finding, Severity, without_overlaps
from forge_pipeline.errors import OptionalDependencyError

SEVERITY: dict[str, Severity] = {"person": "medium", "location": "low", "organization": "low"}

_ENTITIES = {"PERSON": "person", "LOCATION": "location", "ORGANIZATION": "organization", "NRP": "organization"}
_MIN_SCORE = 0.5
_PURPOSE = "Named-entity findings (enable_pii_ml)"
_BATCH = 64  # texts that the model reads at once

FindEntities = Callable[[str], list[Finding]]


@dataclass(frozen=True)
class EntityFinder:
    """A loaded model. Call it with a text, or `many` with texts, which is faster."""

    language: str
    engine: Any  # presidio_analyzer.AnalyzerEngine

    def __call__(self, text: str) -> list[Finding]:
        return entities_in(text, self.engine.analyze(text=text, language=self.language, entities=list(_ENTITIES)))

    def many(self, texts: Sequence[str]) -> list[list[Finding]]:
        """The findings of each text."""
        found: list[list[Finding]] = []
        for first in range(0, len(texts), _BATCH):
            batch = list(texts[first : first + _BATCH])
            read = self.engine.nlp_engine.process_batch(batch, language=self.language)
            for text, artifacts in read:
                results = self.engine.analyze(
                    text=text, language=self.language, entities=list(_ENTITIES), nlp_artifacts=artifacts
                )
                found.append(entities_in(text, results))
        return found


def entity_finder(language: str, model: str | Path | None = None) -> EntityFinder:
    """Load the model once and return what finds entities in a text.

    Args:
        language: ISO 639-1 code.
        model: Name of an installed spaCy package, or the directory of a saved pipeline; by default spaCy's
            small model of the language.

    Raises:
        OptionalDependencyError: Presidio or the model is not installed.
    """
    analyzer = _optional.require("presidio_analyzer", extra="pii-ml", purpose=_PURPOSE)
    spacy = _optional.require("spacy", extra="pii-ml", purpose=_PURPOSE)
    name = str(model or f"{language}_core_{'web' if language in ('en', 'zh') else 'news'}_sm")
    if not (spacy.util.is_package(name) or Path(name, "config.cfg").is_file()):
        raise OptionalDependencyError(
            f"Named-entity findings in {language!r} need the spaCy model {name!r}, which is not installed. "
            f"Install it with: python -m spacy download {name} (models are not on PyPI)"
        )
    from importlib import import_module

    nlp = import_module("presidio_analyzer.nlp_engine")
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": name}]}
    provider = nlp.NlpEngineProvider(nlp_configuration=configuration)
    # Only the recognizer that reads the model's entities: the patterns are ours.
    registry = analyzer.RecognizerRegistry(supported_languages=[language])
    recognizers = import_module("presidio_analyzer.predefined_recognizers")
    registry.add_recognizer(recognizers.SpacyRecognizer(supported_language=language))
    engine = analyzer.AnalyzerEngine(
        registry=registry, nlp_engine=provider.create_engine(), supported_languages=[language]
    )
    return EntityFinder(language, engine)


def entities_in(text: str, results: Sequence[Any]) -> list[Finding]:
    """Presidio's results (entity_type, start, end, score) as findings without overlaps."""
    candidates = [
        Finding(kind, (result.start, result.end), SEVERITY[kind])
        for result in results
        if result.score >= _MIN_SCORE and (kind := _ENTITIES.get(result.entity_type))
    ]
    return without_overlaps(candidates, tuple(SEVERITY))
