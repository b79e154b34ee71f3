"""What a provider of a general-purpose AI model owes: Annex XI section 1 and Annex XII, point by point.

Of a modification, the duties are limited to the modification (recital 109): every entry here
speaks of the fine-tune. Whether they are owed at all, `compute` answers with the one-third
rule, as far as it can be answered. Entries are of the same kind as those of Annex IV, and a
point that both annexes ask for is declared once.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from forge_pipeline.annex_iv.answers import (
    Answer,
    architecture_facts,
    data_facts,
    data_statements,
    design_facts,
    forms_of,
)
from forge_pipeline.annex_iv.compute import compute_of, energy_upper_limit_kwh
from forge_pipeline.annex_iv.declarations import compliance_of, declaration, stated
from forge_pipeline.annex_iv.document import PointEntry, build_entry
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.points import Point

ANNEX_XI: tuple[Point, ...] = (
    Point(
        "XI 1(a)",
        "Tasks and systems",
        "The tasks the model is intended for, and the type and nature of systems that it can be integrated in.",
    ),
    Point("XI 1(b)", "Acceptable use policies", "The acceptable use policies that apply."),
    Point("XI 1(c)", "Release and distribution", "Date of release and methods of distribution."),
    Point("XI 1(d)", "Architecture and parameters", "The architecture and the number of parameters."),
    Point("XI 1(e)", "Inputs and outputs", "Modality and format of inputs and outputs."),
    Point("XI 1(f)", "Licence", "The licence."),
    Point("XI 2(a)", "Means of integration", "Instructions, infrastructure and tools needed to integrate the model."),
    Point(
        "XI 2(b)",
        "Design specifications and training process",
        "Training methods, key design choices with rationale and assumptions, what the model optimises for.",
    ),
    Point(
        "XI 2(c)",
        "Data",
        "Type, provenance and curation of the data, number of data points, scope and characteristics, how it was "
        "obtained and selected, measures against unsuitable sources and biases.",
    ),
    Point("XI 2(d)", "Computational resources", "Floating point operations, training time and other details."),
    Point("XI 2(e)", "Energy consumption", "Known or estimated; it may be derived from the computational resources."),
)

ANNEX_XII: tuple[Point, ...] = (
    Point("XII 1(a)", "Tasks and systems", "As Annex XI 1(a)."),
    Point("XII 1(b)", "Acceptable use policies", "As Annex XI 1(b)."),
    Point("XII 1(c)", "Release and distribution", "As Annex XI 1(c)."),
    Point(
        "XII 1(d)",
        "Interaction",
        "How the model interacts, or can be used to interact, with hardware or software that is no part of it.",
    ),
    Point("XII 1(e)", "Software versions", "Versions of software related to the use of the model."),
    Point("XII 1(f)", "Architecture and parameters", "As Annex XI 1(d)."),
    Point("XII 1(g)", "Inputs and outputs", "As Annex XI 1(e)."),
    Point("XII 1(h)", "Licence", "As Annex XI 1(f)."),
    Point("XII 2(a)", "Means of integration", "As Annex XI 2(a)."),
    Point("XII 2(b)", "Size of inputs and outputs", "Modality and format, and their maximum size."),
    Point("XII 2(c)", "Data", "Type, provenance and curation of the data."),
)

# Keys of `compliance.declarations` that are read here and in `content_summary` and `compute`, beside Annex IV's points.
GPAI_DECLARATIONS: tuple[str, ...] = (
    *(point.id for point in ANNEX_XI),
    *(f"summary {section}" for section in ("1.1", "1.2", "1.3")),
    *(f"summary 2.{number}" for number in range(1, 7)),
    *(f"summary 3.{number}" for number in range(1, 4)),
    "GPAI base_training_flop",
    "GPAI base_systemic_risk",
    "GPAI device_peak_flop_per_second",
    "GPAI device_utilization",
)


def build_annex_xi(evidence: Evidence) -> tuple[PointEntry, ...]:
    """Annex XI section 1, in order. Section 2 is for models with systemic risk alone."""
    return tuple(_entry(point, _XI[point.id], point.id, evidence) for point in ANNEX_XI)


def build_annex_xii(evidence: Evidence) -> tuple[PointEntry, ...]:
    """Annex XII, in order. What Annex XI asks for as well is answered by the same declaration."""
    return tuple(_entry(point, *_XII[point.id], evidence) for point in ANNEX_XII)


def _entry(point: Point, answer: Callable[[Evidence], Answer], key: str, evidence: Evidence) -> PointEntry:
    declared = declaration(evidence.config, key)
    if declared.not_applicable:
        said = Answer(not_applicable=declared.not_applicable, evidence=("recipe.json",))
        return build_entry(point.id, point.title, said, evidence)
    return build_entry(point.id, point.title, answer(evidence), evidence)


def _text(evidence: Evidence, *keys: str) -> str | None:
    """The first declaration among `keys` that says something."""
    texts = (declaration(evidence.config, key).text for key in keys)
    return next((text for text in texts if text), None)


def _key(point: str) -> str:
    return f"compliance.declarations['{point}']"


def _tasks(evidence: Evidence) -> Answer:
    purpose, text = stated(compliance_of(evidence.config).intended_purpose), _text(evidence, "XI 1(a)")
    said = {"intended_purpose": purpose, "declaration": text}
    statement = {name: value for name, value in said.items() if value}
    awaiting = () if statement else ("compliance.intended_purpose", _key("XI 1(a)"))
    gap = () if text else ("type and nature of systems that the model can be integrated in",)
    return Answer({}, statement or None, awaiting, gap, evidence=("recipe.json",))


def _declared(
    *keys: str, facts: Callable[[Evidence], Mapping[str, Any]] = lambda _: {}, refs: tuple[str, ...] = ()
) -> Any:
    """An answer that only the provider can give, by the first of `keys` that says something."""

    def answer(evidence: Evidence) -> Answer:
        text = _text(evidence, *keys)
        return Answer(facts(evidence), text, () if text else (_key(keys[0]),), evidence=("recipe.json", *refs))

    return answer


def _measured(facts: Callable[[Evidence], Mapping[str, Any]], key: str, *refs: str, gap: tuple[str, ...] = ()) -> Any:
    """An answer that facts give; a statement adds to them."""

    def answer(evidence: Evidence) -> Answer:
        text = _text(evidence, key)
        return Answer(facts(evidence), text, not_stated=() if text else gap, evidence=refs)

    return answer


def _release_facts(evidence: Evidence) -> dict[str, Any]:
    facts: dict[str, Any] = {"released_in_the_registry": evidence.released, "bundle_made": evidence.run.generated_at}
    return facts | {"forms": forms_of(evidence)}


def _modality(evidence: Evidence) -> dict[str, Any]:
    return {
        "input": "text",
        "output": "text",
        "format": evidence.provenance.dataset_format,
        "chat_template": evidence.tokenization.chat_template_digest,
    }


def _sizes(evidence: Evidence) -> dict[str, Any]:
    """Sizes as they were in training; the base model's own context may be longer."""
    return _modality(evidence) | {"maximum_tokens_of_input_and_output_in_training": evidence.tokenization.max_length}


def _licence_facts(evidence: Evidence) -> dict[str, Any]:
    return {"licence_of_the_base_model": stated(evidence.model_record.base_model.license)}


def _versions(evidence: Evidence) -> dict[str, Any]:
    names = ("package:transformers", "package:peft", "package:tokenizers", "package:torch", "python")
    facts = {name: value for name, value in evidence.run.environment.items() if name in names}
    if evidence.export is not None and evidence.export.runtime:
        facts["llama.cpp"] = evidence.export.runtime
    return facts


def _data(evidence: Evidence) -> Answer:
    text, said = _text(evidence, "XI 2(c)", "2(d)"), data_statements(evidence)
    statement = {name: value for name, value in said.items() if value is not None} | (
        {"declaration": text} if text else {}
    )
    sources = evidence.provenance.sources
    awaiting = [f"origin of {source.name} (data.origin)" for source in sources if not stated(source.origin)]
    if not said["collection_method"]:
        awaiting.append("data.governance.collection_method")
    gap = () if text or said["known_biases"] else ("measures to detect unsuitable sources and biases",)
    refs = ("dataset_provenance.json", "dataset_audit_report.json", "tokenization_summary.json")
    return Answer(data_facts(evidence), statement or None, () if text else tuple(awaiting), gap, evidence=refs)


def _resources(evidence: Evidence) -> dict[str, Any]:
    facts: dict[str, Any] = {"compute": asdict(compute_of(evidence)), "steps": evidence.training.steps}
    return facts | ({"resource_usage": asdict(evidence.usage)} if evidence.usage else {})


def _energy(evidence: Evidence) -> Answer:
    text, usage = _text(evidence, "XI 2(e)"), evidence.usage
    limit = energy_upper_limit_kwh(evidence)
    facts: dict[str, Any] = {}
    if usage is not None and usage.energy_kwh is not None:
        on_gpus = usage.energy_of == "GPU boards"
        method = "measured: GPU boards (NVML)" if on_gpus else "measured: CPU packages (RAPL), the whole machine's"
        facts = {"energy_kwh": usage.energy_kwh, "method": method}
    elif limit is not None:
        facts = {"energy_kwh_at_most": limit, "method": "estimated: device time at the board's full power"}
    awaiting = () if facts or text else (_key("XI 2(e)"),)
    refs = ("resource_usage.json",) if usage is not None else ()
    return Answer(facts, text, awaiting, evidence=("recipe.json", *refs))


_XI: dict[str, Callable[[Evidence], Answer]] = {
    "XI 1(a)": _tasks,
    "XI 1(b)": _declared("XI 1(b)"),
    "XI 1(c)": _declared("XI 1(c)", facts=_release_facts, refs=("fine_tuned_model",)),
    "XI 1(d)": _measured(architecture_facts, "XI 1(d)", "training_report.json", "model_record.json"),
    "XI 1(e)": _measured(_modality, "XI 1(e)", "dataset_provenance.json", "tokenization_summary.json"),
    "XI 1(f)": _declared("XI 1(f)", facts=_licence_facts, refs=("model_record.json",)),
    "XI 2(a)": _declared("XI 2(a)", facts=_sizes, refs=("tokenization_summary.json",)),
    "XI 2(b)": _declared("XI 2(b)", "2(b)", facts=design_facts, refs=("training_report.json",)),
    "XI 2(c)": _data,
    "XI 2(d)": _measured(_resources, "XI 2(d)", "training_report.json", "tokenization_summary.json"),
    "XI 2(e)": _energy,
}

# Point of Annex XII -> its answer, and the key under which it is declared.
_XII: dict[str, tuple[Callable[[Evidence], Answer], str]] = {
    "XII 1(a)": (_tasks, "XI 1(a)"),
    "XII 1(b)": (_XI["XI 1(b)"], "XI 1(b)"),
    "XII 1(c)": (_XI["XI 1(c)"], "XI 1(c)"),
    "XII 1(d)": (_declared("1(b)"), "1(b)"),
    "XII 1(e)": (_measured(_versions, "1(c)", "run.json"), "1(c)"),
    "XII 1(f)": (_XI["XI 1(d)"], "XI 1(d)"),
    "XII 1(g)": (_XI["XI 1(e)"], "XI 1(e)"),
    "XII 1(h)": (_XI["XI 1(f)"], "XI 1(f)"),
    "XII 2(a)": (_XI["XI 2(a)"], "XI 2(a)"),
    "XII 2(b)": (_measured(_sizes, "XI 1(e)", "tokenization_summary.json"), "XI 1(e)"),
    "XII 2(c)": (_data, "XI 2(c)"),
}
