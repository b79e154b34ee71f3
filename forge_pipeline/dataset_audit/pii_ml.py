"""Names of people, places and organizations, found by a named-entity model (Presidio, extra ``pii-ml``).

It costs some ten thousand times what the patterns cost, and takes common nouns for
names; its findings are advisory: medium or low, never critical.
"""

from collections.abc import Callable
from typing import Any

from forge_pipeline import _optional
from forge_pipeline.dataset_audit.finding import Finding, Severity, without_overlaps
from forge_pipeline.errors import OptionalDependencyError

SEVERITY: dict[str, Severity] = {"person": "medium", "location": "low", "organization": "low"}

_ENTITIES = {"PERSON": "person", "LOCATION": "location", "ORGANIZATION": "organization", "NRP": "organization"}
_MIN_SCORE = 0.5

FindEntities = Callable[[str], list[Finding]]


def entity_finder(language: str) -> FindEntities:
    """Load the model once and return a function that finds entities in a text.

    Args:
        language: ISO 639-1 code; spaCy's small model of that language must be installed.

    Raises:
        OptionalDependencyError: Presidio or the language's model is not installed.
    """
    analyzer = _optional.require("presidio_analyzer", extra="pii-ml", purpose="Named-entity findings (enable_pii_ml)")
    spacy = _optional.require("spacy", extra="pii-ml", purpose="Named-entity findings (enable_pii_ml)")
    model = f"{language}_core_{'web' if language in ('en', 'zh') else 'news'}_sm"
    if not spacy.util.is_package(model):
        raise OptionalDependencyError(
            f"Named-entity findings in {language!r} need the spaCy model {model!r}, which is not installed. "
            f"Install it with: python -m spacy download {model}"
        )
    from importlib import import_module

    nlp = import_module("presidio_analyzer.nlp_engine")
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]}
    provider = nlp.NlpEngineProvider(nlp_configuration=configuration)
    engine = analyzer.AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[language])
    return lambda text: entities_in(text, engine.analyze(text=text, language=language, entities=list(_ENTITIES)))


def entities_in(text: str, results: list[Any]) -> list[Finding]:
    """Presidio's results (entity_type, start, end, score) as findings without overlaps."""
    candidates = [
        Finding(kind, (result.start, result.end), SEVERITY[kind])
        for result in results
        if result.score >= _MIN_SCORE and (kind := _ENTITIES.get(result.entity_type))
    ]
    return without_overlaps(candidates, tuple(SEVERITY))
