"""What the evidence and the provider's declarations say to each point of Annex IV.

One function a point, in the law's order. A fact is something a stage measured or
recorded; a statement is something the provider wrote into the recipe. Neither is ever
invented: what only a person can say and nobody has said is listed under `awaiting`
(the point is then missing) or, where facts answer the point's main question, under
`not_stated` (the point stands, and shows the gap).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from forge_pipeline.annex_iv.compute import compute_of
from forge_pipeline.annex_iv.declarations import (
    all_stated,
    compliance_of,
    declaration,
    risk_of,
    stated,
    stated_version,
)
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.instructions import instruction_items
from forge_pipeline.annex_iv.measurements import measurement_facts, memory_facts
from forge_pipeline.annex_iv.versions import changes_since, log_relation
from forge_pipeline.config.data import GovernanceSection

_OBJECTIVES = {
    "sft": "the likelihood of the next token over the tokens that are not masked (cross-entropy)",
    "dpo": "the preference of chosen over rejected completions, relative to the base model",
    "kto": "the desirability of single completions, relative to the base model",
    "orpo": "next-token likelihood and the odds ratio of chosen over rejected completions",
    "simpo": "the length-normalized preference of chosen over rejected completions, without a reference model",
    "grpo": "a reward over groups of sampled completions (group relative policy optimization)",
    "pretraining": "the likelihood of the next token over every token of plain text (cross-entropy)",
    "reward": "a score that is higher for the chosen than for the rejected completion (Bradley-Terry)",
    "rlhf": "the score of a reward model trained on the preference pairs, over sampled completions",
}
_UNSAFE_WEIGHTS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class Answer:
    """What can be said to one point.

    Attributes:
        facts: What stages measured or recorded.
        statement: What the provider declared.
        awaiting: What is still to be stated before the point counts as answered.
        not_stated: Gaps that the facts leave.
        not_applicable: Why the point does not apply.
        evidence: Files under evidence/, asset names, or ``audit_log``.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    statement: str | Mapping[str, Any] | None = None
    awaiting: tuple[str, ...] = ()
    not_stated: tuple[str, ...] = ()
    not_applicable: str | None = None
    evidence: tuple[str, ...] = ()


def answer_to(point: str, evidence: Evidence) -> Answer:
    """The answer to one point, the provider's ``not applicable: <reason>`` included."""
    declared = declaration(evidence.config, point)
    if declared.not_applicable:
        return Answer(not_applicable=declared.not_applicable, evidence=("recipe.json",))
    return _ANSWERS[point](evidence)


def _declared(evidence: Evidence, point: str, facts: Mapping[str, Any] | None = None, *refs: str) -> Answer:
    """A point that only the provider can answer; facts stand beside the statement."""
    text = declaration(evidence.config, point).text
    awaiting = () if text else (f"compliance.declarations['{point}']",)
    return Answer(facts or {}, text, awaiting, evidence=("recipe.json", *refs))


def _measured(
    evidence: Evidence, point: str, facts: Mapping[str, Any], not_stated: tuple[str, ...], *refs: str
) -> Answer:
    """A point whose main question the facts answer; a statement adds to them."""
    text = declaration(evidence.config, point).text
    return Answer(facts, text, not_stated=() if text else not_stated, evidence=refs)


def _1a(evidence: Evidence) -> Answer:
    section, parent = compliance_of(evidence.config), evidence.run.parent
    fields = {
        "system_name": stated(section.system_name),
        "provider_name": stated(section.provider_name),
        "intended_purpose": stated(section.intended_purpose),
        "system_version": stated_version(evidence.config),
    }
    previous = {
        "manifest_hash": parent.manifest_hash,
        "system_version": parent.system_version,
        "generated_at": parent.generated_at,
        "audit_log": log_relation(parent, evidence),
    } if parent else None  # fmt: skip
    return Answer(
        facts={
            "line": evidence.config.name,
            "model": evidence.subjects["fine_tuned_model"],
            "previous_version": previous,
        },
        statement={name: value for name, value in fields.items() if value},
        awaiting=tuple(f"compliance.{name}" for name, value in fields.items() if not value),
        evidence=("recipe.json", "fine_tuned_model"),
    )


def _1c(evidence: Evidence) -> Answer:
    facts = dict(evidence.run.environment)
    if not facts:
        return Answer(awaiting=("the environment's versions, which the run did not record",))
    return _measured(evidence, "1(c)", facts, ("requirements on version updates",), "run.json")


def _1d(evidence: Evidence) -> Answer:
    refs = ("fine_tuned_model", *(("gguf_model", "export_report.json") if evidence.export else ()))
    gap = ("which of these forms are offered, and how",)
    return _measured(evidence, "1(d)", {"forms": forms_of(evidence)}, gap, *refs)


def forms_of(evidence: Evidence) -> list[dict[str, Any]]:
    """Every file or directory in which the model lies there, with its digest and size."""
    model = evidence.manifests["fine_tuned_model"]
    forms: list[dict[str, Any]] = [
        {"form": evidence.model_record.kind, "digest": model.digest, "size_bytes": model.size, "format": "safetensors"}
    ]
    for file in evidence.export.files if evidence.export else ():
        exported = {"form": f"GGUF {file.quantization}", "name": file.name}
        forms.append({**exported, "digest": file.digest, "size_bytes": file.size})
    return forms


def _1e(evidence: Evidence) -> Answer:
    refs = ("fine_tuned_model", *(("resource_usage.json",) if evidence.usage else ()))
    return _declared(evidence, "1(e)", memory_facts(evidence), *refs)


def _1f(evidence: Evidence) -> Answer:
    text = declaration(evidence.config, "1(f)").text
    if text:
        return Answer(statement=text, evidence=("recipe.json",))
    return Answer(
        not_applicable="the pipeline makes software, which has no external features or markings; "
        "where the system is a component of a product, declare 1(f)"
    )


def _1h(evidence: Evidence) -> Answer:
    items = instruction_items(evidence)
    missing = tuple(f"Art. {item.article}: {item.asks}" for item in items if item.content is None)
    text = declaration(evidence.config, "1(h)").text
    facts = {"file": "instructions_for_use.md", "answered": len(items) - len(missing), "items": len(items)}
    return Answer(facts, text, () if text else missing, evidence=("recipe.json",))


def _2a(evidence: Evidence) -> Answer:
    record, training, lora = evidence.model_record, evidence.training, evidence.config.lora
    facts: dict[str, Any] = {
        "base_model": asdict(record.base_model),
        "method": record.trainer_type,
        "trainer": training.trainer_class,
        "steps": training.steps,
        "epochs": training.epochs,
        "result": record.kind,
        "stages": [
            {key: each.get(key) for key in ("asset_key", "digest", "run_id", "code_version", "inputs") if key in each}
            for each in evidence.run.materializations
        ],
    }
    if record.kind == "adapter":
        facts["adapter"] = {
            **lora.model_dump(include={"r", "alpha", "target_modules"}),
            "method": lora.effective_method,
        }
    gap = ("why third-party models and tools were used as they were",)
    return _measured(evidence, "2(a)", facts, gap, "model_record.json", "training_report.json", "run.json")


def _2b(evidence: Evidence) -> Answer:
    return _declared(evidence, "2(b)", design_facts(evidence), "training_report.json")


def design_facts(evidence: Evidence) -> dict[str, Any]:
    """What the training optimizes, and every argument that shapes the weights."""
    training = evidence.training
    return {
        "optimises_for": _OBJECTIVES.get(training.trainer_type, training.trainer_type),
        "arguments": dict(training.arguments),
        "effective_batch_size": training.effective_batch_size,
        "seed": training.seed,
        "dataset_type": evidence.provenance.dataset_type,
        "chat_template": evidence.tokenization.chat_template_digest,
    }


def architecture_facts(evidence: Evidence) -> dict[str, Any]:
    """Parameters, and the architecture's name where the export knows it."""
    training = evidence.training
    facts: dict[str, Any] = {
        "base_model": evidence.model_record.base_model.name_or_path,
        "total_parameters": training.total_parameters,
        "trainable_parameters": training.trainable_parameters,
        "dtype": training.dtype,
    }
    return facts | ({"architecture": evidence.export.architecture} if evidence.export else {})


def _2c(evidence: Evidence) -> Answer:
    facts: dict[str, Any] = {
        **architecture_facts(evidence),
        "device": evidence.training.device,
        "compute": asdict(compute_of(evidence)),
    }
    refs = ["training_report.json", "tokenization_summary.json"]
    if evidence.usage is not None:
        facts["resource_usage"] = asdict(evidence.usage)
        refs.append("resource_usage.json")
    gap = () if evidence.usage else ("time, memory and energy of the training run, which were not recorded",)
    return _measured(evidence, "2(c)", facts, gap, *refs)


def data_statements(evidence: Evidence) -> dict[str, Any]:
    """What the provider says about the data, by key of `data.governance`; None where nobody has said."""
    governance = evidence.config.data.governance or GovernanceSection()
    return {
        "collection_method": stated(governance.collection_method),
        "annotation_process": stated(governance.annotation_process),
        "known_biases": stated(governance.known_biases),
        "personal_data_included": governance.personal_data_included,
        "dpia_completed": governance.dpia_completed,
    }


def _2d(evidence: Evidence) -> Answer:
    text, said = declaration(evidence.config, "2(d)").text, data_statements(evidence)
    sources = evidence.provenance.sources
    awaiting = [f"licence of {source.name} (data.license)" for source in sources if not stated(source.license)]
    awaiting += [f"origin of {source.name} (data.origin)" for source in sources if not stated(source.origin)]
    if not said["collection_method"]:
        awaiting.append("data.governance.collection_method")
    statement = {name: value for name, value in said.items() if value is not None}
    if text:
        statement["declaration"] = text
    return Answer(
        facts=data_facts(evidence),
        statement=statement or None,
        awaiting=() if text else tuple(awaiting),
        not_stated=tuple(f"data.governance.{name}" for name, value in said.items() if value is None),
        evidence=(
            "dataset_provenance.json",
            "dataset_audit_report.json",
            "tokenization_summary.json",
            evidence.dataset_asset,
        ),
    )


def data_facts(evidence: Evidence) -> dict[str, Any]:
    """Where the rows are from, what was done to them, how many there are, and what the audit found in them."""
    provenance, audit = evidence.provenance, evidence.audit
    cleaning = evidence.cleaning
    facts: dict[str, Any] = {
        "sources": [asdict(source) for source in provenance.sources],
        "dataset_type": provenance.dataset_type,
        "dataset_format": provenance.dataset_format,
        "rows": dict(provenance.rows),
        "rows_skipped": provenance.skipped_count,
        "transformations": [asdict(each) for each in provenance.transformations],
        "tokens": {name: split.tokens for name, split in evidence.tokenization.splits.items()},
        "truncated_rows": {name: split.truncated for name, split in evidence.tokenization.splits.items()},
        "personal_data_found": dict(audit.pii_summary),
        "secrets_found": dict(audit.secrets_summary),
        "duplicates": audit.duplicate_count,
        "characters": {name: split["text_length"] for name, split in audit.splits.items() if "text_length" in split},
        "languages": {
            name: split["languages_top3"] for name, split in audit.splits.items() if "languages_top3" in split
        },
        "overlap_between_splits": dict(audit.cross_split_overlap.get("pairs", {})),
    }
    if audit.contamination:
        facts["benchmark_items_found"] = dict(audit.contamination)
    if cleaning is not None:
        facts["cleaning"] = {
            "cleaned": cleaning.dataset_digest,
            "rows_in": dict(cleaning.rows_in),
            "rows_out": dict(cleaning.rows_out),
            "removed": dict(cleaning.removed),
            "masked": dict(cleaning.masked),
        }
    return facts


def _2e(evidence: Evidence) -> Answer:
    release = evidence.config.release
    facts = {
        "release_approvals_needed": evidence.config.approvals_needed,
        "approval_valid_days": release.approval_ttl_days,
        "note": "a release approval supports oversight of the release, not of the system in use",
    }
    return _declared(evidence, "2(e)", facts)


def _2g(evidence: Evidence) -> Answer:
    facts: dict[str, Any] = {
        "measurements": measurement_facts(evidence),
        "gates": [asdict(decision) for decision in evidence.gates],
    }
    refs = ["gates.json"]
    if evidence.benchmark is not None:
        facts["benchmark"] = benchmark_facts(evidence)
        refs.append("benchmark_report.json")
    if evidence.safety is not None:
        facts["safety"] = safety_facts(evidence)
        refs.append("safety_report.json")
    if evidence.judge is not None:
        facts["judge"] = judge_facts(evidence)
        refs.append("judge_report.json")
    text = declaration(evidence.config, "2(g)").text
    measured = bool(evidence.benchmark and evidence.benchmark.scores) or bool(evidence.safety and evidence.safety.n)
    awaiting = () if measured or text else ("a benchmark or a safety evaluation of this model",)
    gaps = ("dated signatures of the responsible persons", "results for specific groups of persons")
    return Answer(facts, text, awaiting, not_stated=() if text else gaps, evidence=tuple(refs))


def benchmark_facts(evidence: Evidence) -> dict[str, Any] | None:
    """Scores of base and tuned model, with the paired comparison where there is one."""
    result = evidence.benchmark
    if result is None:
        return None
    return {
        "scores": dict(result.scores),
        "base_scores": dict(result.base_scores),
        "average_score": result.average_score,
        "items": result.items,
        "task_digests": dict(result.task_digests),
        "comparisons": [asdict(each) for each in result.comparisons],
    }


def judge_facts(evidence: Evidence) -> dict[str, Any] | None:
    """Verdict and counts of the judge."""
    report = evidence.judge
    if report is None:
        return None
    return {
        "verdict": report.verdict,
        "reason": report.reason,
        "mode": report.mode,
        "judge_model": report.judge_model,
        "answers": report.n,
        "invalid": report.invalid,
        "mean_score": report.mean_score,
        "win_rate": report.tally.win_rate if report.tally else None,
        "kappa": report.agreement.kappa if report.agreement else None,
        "prompts_digest": report.prompts_digest,
    }


def safety_facts(evidence: Evidence) -> dict[str, Any] | None:
    """Counts, bound and scorer of the safety evaluation."""
    report = evidence.safety
    if report is None:
        return None
    return {
        "verdict": report.verdict,
        "reason": report.reason,
        "probes": report.n,
        "unsafe": report.unsafe,
        "unscored": report.unscored,
        "unsafe_rate": report.unsafe_rate,
        "upper_bound": report.upper_bound,
        "base_unsafe": report.base_unsafe,
        "newly_unsafe": report.newly_unsafe,
        "scorer": report.scorer,
        "scorer_calibrated": report.scorer_calibrated,
    }


def _2h(evidence: Evidence) -> Answer:
    names = [entry.path for entry in evidence.manifests["fine_tuned_model"].entries]
    secrets = [decision for decision in evidence.gates if decision.gate == "no_secrets"]
    facts = {
        "weights_without_executable_code": not any(name.endswith(_UNSAFE_WEIGHTS) for name in names),
        "remote_code_trusted": evidence.config.model.trust_remote_code,
        "secrets_in_training_data": secrets[0].outcome if secrets else "not_run",
        "base_model_digest": evidence.model_record.base_model.digest,
        "base_model_revision": evidence.model_record.base_model.revision_resolved,
        "personal_data_in_training_data": evidence.audit.pii_severity.get("by_tier", {}),
        "dependencies_locked": evidence.run.environment.get("constraints_digest"),
        "code_changed_since_commit": evidence.run.environment.get("git_dirty"),
        "audit_log": asdict(evidence.run.anchor) if evidence.run.anchor else None,
        "audit_log_keys": {name: key for name, key in evidence.log_keys.items() if key},
        "attached": {name: evidence.files[name].digest for name in evidence.run.extra_files},
    }
    gaps = ("threat model", "measures against data poisoning, model poisoning and adversarial examples")
    return _measured(
        evidence, "2(h)", facts, gaps, "manifests.json", "gates.json", "run.json", *evidence.run.extra_files
    )


def _3(evidence: Evidence) -> Answer:
    text = declaration(evidence.config, "3").text
    limitations = stated(compliance_of(evidence.config).known_limitations)
    misuse = all_stated(risk_of(evidence.config).foreseeable_misuse)
    facts = {
        "input": {
            "max_length_tokens": evidence.tokenization.max_length,
            "chat_template": evidence.tokenization.chat_template_digest,
        },
        "benchmark": benchmark_facts(evidence),
        "safety": safety_facts(evidence),
    }
    said = {"declaration": text, "known_limitations": limitations, "foreseeable_misuse": misuse}
    awaiting = []
    if not text:
        awaiting += [] if limitations else ["compliance.known_limitations"]
        awaiting += [] if misuse else ["risk_assessment.foreseeable_misuse"]
    gaps = () if text else ("accuracy for specific persons or groups",)
    statement = {name: value for name, value in said.items() if value}
    refs = ("recipe.json", "tokenization_summary.json")
    return Answer(facts, statement or None, tuple(awaiting), gaps, evidence=refs)


def _4(evidence: Evidence) -> Answer:
    metrics = sorted({f"{each.gate}: {each.metric}" for each in evidence.gates if each.metric})
    return _declared(evidence, "4", {"gating_metrics": metrics}, "gates.json")


def _5(evidence: Evidence) -> Answer:
    section, text = risk_of(evidence.config), declaration(evidence.config, "5").text
    tier = section.risk_category if section.risk_category != "unknown" else None
    said = {
        "intended_use": stated(section.intended_use),
        "foreseeable_misuse": all_stated(section.foreseeable_misuse),
        "risk_category": tier,
        "mitigation_measures": all_stated(section.mitigation_measures),
    }
    facts = {
        "recipe": evidence.files["recipe.json"].digest,
        "gates": [{"gate": each.gate, "threshold": each.threshold, "outcome": each.outcome} for each in evidence.gates],
    }
    statement: dict[str, Any] = {name: value for name, value in said.items() if value}
    if section.vulnerable_groups_considered is not None:
        statement["vulnerable_groups_considered"] = section.vulnerable_groups_considered
    if text:
        statement["declaration"] = text
    awaiting = () if text else tuple(f"risk_assessment.{name}" for name, value in said.items() if not value)
    return Answer(facts, statement or None, awaiting, evidence=("recipe.json", "gates.json"))


def _6(evidence: Evidence) -> Answer:
    parent = evidence.run.parent
    if parent is None:
        facts: dict[str, Any] = {"changes": [], "note": "no earlier bundle of this line was given: the first version"}
        return _measured(evidence, "6", facts, (), "run.json")
    facts = changes_since(parent, evidence)
    return _measured(evidence, "6", facts, ("how significant the changes are",), "run.json")


def _8(evidence: Evidence) -> Answer:
    tier = compliance_of(evidence.config).risk_classification or risk_of(evidence.config).risk_category
    if tier in ("minimal-risk", "limited-risk") and not declaration(evidence.config, "8").text:
        return Answer(
            not_applicable=f"the provider classifies the system as {tier}; Art. 47 is about high-risk systems",
            evidence=("recipe.json",),
        )
    return _declared(evidence, "8")


def _only_declared(point: str) -> Callable[[Evidence], Answer]:
    return lambda evidence: _declared(evidence, point)


_ANSWERS: dict[str, Callable[[Evidence], Answer]] = {
    "1(a)": _1a,
    "1(b)": _only_declared("1(b)"),
    "1(c)": _1c,
    "1(d)": _1d,
    "1(e)": _1e,
    "1(f)": _1f,
    "1(g)": _only_declared("1(g)"),
    "1(h)": _1h,
    "2(a)": _2a,
    "2(b)": _2b,
    "2(c)": _2c,
    "2(d)": _2d,
    "2(e)": _2e,
    "2(f)": _only_declared("2(f)"),
    "2(g)": _2g,
    "2(h)": _2h,
    "3": _3,
    "4": _4,
    "5": _5,
    "6": _6,
    "7": _only_declared("7"),
    "8": _8,
    "9": _only_declared("9"),
}
