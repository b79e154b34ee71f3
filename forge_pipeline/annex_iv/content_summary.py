"""The draft of the public summary of training content, Art. 53(1)(d), on the Commission's template.

For a modification it is about the content used in it, beside a link to the summary of the
model that was modified. What a section lists follows from the categories that the recipe
gives its sources. Absence is never read as a no: a source of the category ``other``, which is
also what a recipe says when nobody chose one, keeps section 2.6 open until somebody says what
it is. While any section is missing, the summary is labelled a draft.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forge_pipeline.annex_iv.answers import Answer
from forge_pipeline.annex_iv.declarations import (
    compliance_of,
    declaration,
    stated,
    stated_name,
    stated_version,
)
from forge_pipeline.annex_iv.document import PointEntry, build_entry, entry_json, missing_fields
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.points import Point
from forge_pipeline.annex_iv.regime import Regime, load_regime
from forge_pipeline.config.data import Category
from forge_pipeline.data import SourceProvenance

SECTIONS: tuple[Point, ...] = (
    Point("summary 1.1", "Provider", "Name and contact details of the provider and of its authorised representative."),
    Point(
        "summary 1.2",
        "Model",
        "Versions of the model, the model it was made from with a link to that model's summary, date of placing on the "
        "Union market.",
    ),
    Point(
        "summary 1.3",
        "Modalities, size and characteristics",
        "For each modality the size, the types of content and the languages; the latest date of acquisition.",
    ),
    Point("summary 2.1", "Publicly available datasets", "The datasets, the large ones by name and link."),
    Point("summary 2.2", "Private datasets of third parties", "Whether licensed commercially or obtained otherwise."),
    Point("summary 2.3", "Data crawled from online sources", "Crawlers, their behaviour, period, kinds of sources."),
    Point("summary 2.4", "User data", "Whether data from users of the provider's services and models was used."),
    Point("summary 2.5", "Synthetic data", "Whether and by which models data was generated."),
    Point("summary 2.6", "Other sources of data", "What none of the sections before describes."),
    Point("summary 3.1", "Reservations of rights", "Measures to respect opt-outs from text and data mining."),
    Point("summary 3.2", "Removal of illegal content", "Measures to avoid or remove illegal content."),
    Point("summary 3.3", "Other information", "Further processing, where the provider wishes to say so."),
)

_CATEGORIES: dict[str, tuple[Category, ...]] = {
    "summary 2.1": ("public",),
    "summary 2.2": ("licensed", "private_other"),
    "summary 2.3": ("crawled",),
    "summary 2.4": ("user",),
    "summary 2.5": ("synthetic",),
    "summary 2.6": ("other",),
}


def build_summary(evidence: Evidence) -> tuple[PointEntry, ...]:
    """The template's sections, in order."""
    return tuple(build_entry(point.id, point.title, _answer(point.id, evidence), evidence) for point in SECTIONS)


def summary_label(sections: Sequence[PointEntry]) -> str:
    """``draft`` while anything is missing."""
    return "draft" if missing_fields(sections) else "complete"


def summary_json(evidence: Evidence, sections: Sequence[PointEntry], regime: Regime) -> dict[str, Any]:
    """``training_content_summary.json`` as JSON values."""
    template = regime.training_content_summary
    return {
        "template": template.template,
        "reference": template.reference,
        "label": summary_label(sections),
        "about": f"what was used to fine-tune {evidence.model_record.base_model.name_or_path}, and nothing before that",
        "model": evidence.subjects["fine_tuned_model"],
        "made": evidence.run.generated_at,
        "bring_up_to_date_every_months": template.update_months,
        "missing": missing_fields(sections),
        "sections": [entry_json(section) for section in sections],
    }


def _answer(section: str, evidence: Evidence) -> Answer:
    declared = declaration(evidence.config, section)
    if declared.not_applicable:
        return Answer(not_applicable=declared.not_applicable, evidence=("recipe.json",))
    if section in _CATEGORIES:
        return _sources(section, declared.text, evidence)
    return _OTHERS[section](declared.text, evidence)


def _key(section: str) -> str:
    return f"compliance.declarations['{section}']"


def _provider(text: str | None, evidence: Evidence) -> Answer:
    section = compliance_of(evidence.config)
    said = {"name": stated(section.provider_name), "contact": stated(section.provider_contact)}
    awaiting = tuple(f"compliance.provider_{name}" for name, value in said.items() if not value)
    statement = {name: value for name, value in said.items() if value} | ({"declaration": text} if text else {})
    gap = () if text else ("authorised representative, where the provider is outside the Union",)
    return Answer({}, statement or None, awaiting, gap, evidence=("recipe.json",))


def _model(text: str | None, evidence: Evidence) -> Answer:
    base, training = evidence.model_record.base_model, evidence.training
    facts = {
        "name": stated_name(evidence.config),
        "version": stated_version(evidence.config),
        "digest": evidence.subjects["fine_tuned_model"],
        "modified_model": {"name": base.name_or_path, "revision": base.revision_resolved, "digest": base.digest},
        "parameters": training.total_parameters,
    }
    wanted = "date of placing on the Union market, and the link to the modified model's summary"
    return Answer(facts, text, () if text else (f"{_key('summary 1.2')}: {wanted}",), evidence=("model_record.json",))


def _characteristics(text: str | None, evidence: Evidence) -> Answer:
    splits = evidence.tokenization.splits
    tokens = sum(split.tokens for split in splits.values())
    facts = {
        "modality": "text",
        "size": _size(tokens, evidence),
        "tokens": {name: split.tokens for name, split in splits.items()},
        "rows": dict(evidence.provenance.rows),
        "characters_from_mean_length": _characters(evidence),
        "type_of_content": f"{evidence.provenance.dataset_type}, {evidence.provenance.dataset_format}",
        "languages": {
            name: [dict(each) for each in split.get("languages_top3", [])]
            for name, split in evidence.audit.splits.items()
        },
    }
    wanted = "latest date of acquisition, and the types of content"
    refs = ("dataset_provenance.json", "dataset_audit_report.json", "tokenization_summary.json")
    return Answer(facts, text, () if text else (f"{_key('summary 1.3')}: {wanted}",), evidence=refs)


def _size(tokens: int, evidence: Evidence) -> str:
    template = load_regime(evidence.run.regime).training_content_summary
    if tokens < template.small_text_tokens:
        return f"less than {template.small_text_tokens:.0e} tokens"
    if tokens <= template.large_text_tokens:
        return f"{template.small_text_tokens:.0e} to {template.large_text_tokens:.0e} tokens"
    return f"more than {template.large_text_tokens:.0e} tokens"


def _characters(evidence: Evidence) -> dict[str, int]:
    return {
        name: round(split["text_length"]["mean"] * split["sample_count"])
        for name, split in evidence.audit.splits.items()
        if split.get("text_length", {}).get("mean") is not None
    }


def _sources(section: str, text: str | None, evidence: Evidence) -> Answer:
    """A section of part 2: its sources with what is known of each, and what is still to be said."""
    named = [source for source in evidence.provenance.sources if source.category in _CATEGORIES[section]]
    facts: dict[str, Any] = {"sources": [_source(source) for source in named]}
    if section == "summary 2.5":
        facts["generators"] = _generators(evidence)
    if not named and not text:
        facts = {"sources": "none of this category among the sources that the recipe names"}
        return Answer(facts, evidence=("dataset_provenance.json",))
    awaiting = [] if text else _awaited(section, named, facts)
    return Answer(facts, text, tuple(awaiting), evidence=("dataset_provenance.json", "recipe.json"))


def _source(source: SourceProvenance) -> dict[str, Any]:
    return {
        "name": source.name,
        "uri": source.uri,
        "revision": source.revision,
        "category": source.category,
        "license": stated(source.license),
        "origin": stated(source.origin),
        "rows_read": source.rows_read,
        "rows_used": source.rows_taken,
    }


def _awaited(section: str, named: Sequence[SourceProvenance], facts: Mapping[str, Any]) -> list[str]:
    """What the sources of one section leave open."""
    awaiting = [f"origin of {source.name} (data.origin)" for source in named if not stated(source.origin)]
    awaiting += [f"licence of {source.name} (data.license)" for source in named if not stated(source.license)]
    if section in ("summary 2.3", "summary 2.4"):
        awaiting.append(_key(section))
    if section == "summary 2.5" and not facts["generators"]:
        awaiting.append(f"{_key(section)}: which model or program generated the rows, with a link to its summary")
    if section == "summary 2.6":
        awaiting.append(f"{_key(section)}, or a category of its own for each of these sources (data.category)")
    return awaiting


def _generators(evidence: Evidence) -> list[dict[str, Any]]:
    """Models that the recipe itself had rows generated by."""
    section = evidence.config.synthetic
    if section is None or not section.enabled:
        return []
    return [
        {
            "model": section.teacher_model or section.teacher_backend,
            "revision": section.teacher_revision,
            "backend": section.teacher_backend,
        }
    ]


def _opt_outs(text: str | None, evidence: Evidence) -> Answer:
    return Answer({}, text, () if text else (_key("summary 3.1"),), evidence=("recipe.json",))


def _illegal_content(text: str | None, evidence: Evidence) -> Answer:
    facts = {
        "secrets_found": dict(evidence.audit.secrets_summary),
        "personal_data_found": dict(evidence.audit.pii_summary),
        "rows_removed": dict(evidence.cleaning.removed) if evidence.cleaning else {},
    }
    refs = ("dataset_audit_report.json", "recipe.json")
    return Answer(facts, text, () if text else (_key("summary 3.2"),), evidence=refs)


def _further(text: str | None, evidence: Evidence) -> Answer:
    steps = [
        {"step": each.name, "rows_in": each.rows_in, "rows_out": each.rows_out}
        for each in evidence.provenance.transformations
    ]
    return Answer({"processing": steps}, text, evidence=("dataset_provenance.json",))


_OTHERS: dict[str, Callable[[str | None, Evidence], Answer]] = {
    "summary 1.1": _provider,
    "summary 1.2": _model,
    "summary 1.3": _characteristics,
    "summary 3.1": _opt_outs,
    "summary 3.2": _illegal_content,
    "summary 3.3": _further,
}
