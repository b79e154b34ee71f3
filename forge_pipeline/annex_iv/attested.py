"""`attested_inputs`: a bundle's inputs, with statements about their artefacts among the evidence.

The bridge between what the stages measured and `forge_pipeline.attestation`, which knows
nothing of them. The statements are made before the log's anchor is taken, so that the log in
the bundle holds a ``bundle.attested`` event for each signed one.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from forge_pipeline import attestation
from forge_pipeline.annex_iv.declarations import all_stated, compliance_of, risk_of, stated, stated_name, stated_version
from forge_pipeline.annex_iv.evidence import BundleInputs
from forge_pipeline.attestation import Considerations, DatasetFacts, FileFacts, Metric, ModelFacts, SigningKeys
from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.config import ForgeConfig
from forge_pipeline.evaluation import BenchmarkResult, SafetyReport
from forge_pipeline.evaluation.statistics import wilson_interval
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.training.report import read_training_report

_MODEL = "fine_tuned_model"
_NORMAL_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def attested_inputs(
    inputs: BundleInputs, logger: AuditLogger | None, *, keys: SigningKeys, packages: Mapping[str, str]
) -> BundleInputs:
    """`inputs` with the statements in `extra_files`, and an anchor that covers their events.

    Args:
        logger: The line's log; None logs nothing and leaves the anchor as it is.
        keys: Without any, the statements are unsigned and no event is logged.
        packages: Name -> version of what was installed where the model was made.

    Raises:
        EvidenceError: The materialization records are not about these artefacts.
        OSError: The log could not be written.
    """
    files = attestation.bundle_files(
        model_facts(inputs),
        inputs.materializations,
        manifests=[Manifest.of_directory(artifact.path) for artifact in inputs.artifacts.values()],
        packages=packages,
        generated_at=inputs.generated_at,
        keys=keys,
    )
    anchor = inputs.anchor
    if logger is not None:
        for event in attestation.attested(files):
            logger.log_event("bundle.attested", **event)
        anchor = logger.anchor()
    return replace(inputs, extra_files={**inputs.extra_files, **files}, anchor=anchor)


def model_facts(inputs: BundleInputs) -> ModelFacts:
    """What a bill of materials says, from a bundle's inputs. A placeholder states nothing here either."""
    config, model, dataset = inputs.config, inputs.model, inputs.dataset
    training = read_training_report(model)
    section = compliance_of(config)
    return ModelFacts(
        asset_key=_key(inputs, _MODEL, model.digest),
        name=stated_name(config),
        version=stated_version(config),
        manifest=Manifest.of_directory(model.path),
        record=model.record,
        dataset=DatasetFacts(
            asset_key=_key(inputs, inputs.dataset_asset, dataset.digest),
            digest=dataset.digest,
            provenance=dataset.provenance,
            governance=config.data.governance,
            personal_data=dict(inputs.dataset_audit.report.pii_summary),
        ),
        hyper_parameters=training.arguments,
        metrics=measured(config, inputs.benchmark, inputs.safety),
        considerations=considerations(config),
        exports=tuple(
            FileFacts(file.name, file.digest, file.size, file.quantization)
            for file in (inputs.gguf.report.files if inputs.gguf else ())
        ),
        provider_name=stated(section.provider_name),
        provider_contact=stated(section.provider_contact),
        energy_kwh=inputs.usage.energy_kwh if inputs.usage else None,
    )


def _key(inputs: BundleInputs, asset: str, digest: Digest) -> str:
    """The asset key under which the artefact was recorded; a studio's line is not named like its recipe."""
    keys = [str(each.get("asset_key", "")) for each in inputs.materializations if each.get("digest") == digest]
    keys.sort(key=lambda key: key.rpartition("/")[2] != asset)  # a merged model is recorded as merged_model
    return keys[0] if keys else f"{inputs.config.name}/{asset}"


def considerations(config: ForgeConfig) -> Considerations:
    """Uses, limits, misuse and mitigations, as far as the provider states them."""
    section, risk = compliance_of(config), risk_of(config)
    uses = all_stated([section.intended_purpose, risk.intended_use])
    return Considerations(
        use_cases=tuple(dict.fromkeys(uses)),
        limitations=tuple(all_stated([section.known_limitations])),
        misuse=tuple(all_stated(risk.foreseeable_misuse)),
        mitigations=tuple(all_stated(risk.mitigation_measures)),
    )


def measured(config: ForgeConfig, benchmark: BenchmarkResult | None, safety: SafetyReport | None) -> tuple[Metric, ...]:
    """Every number that was measured of the model, with its interval where the items allow one."""
    policy = config.evaluation.safety
    level = 0.95 if policy is None else 1 - policy.alpha
    scores = _benchmark_metrics(benchmark) if benchmark else []
    return (*scores, *(_safety_metrics(safety, level) if safety else ()))


def _benchmark_metrics(result: BenchmarkResult) -> list[Metric]:
    compared = {each.task: each for each in result.comparisons}
    metrics = []
    for task, score in sorted(result.scores.items()):
        each = compared.get(task)
        if each is None:
            metrics.append(Metric("score", score, task, task_digest=result.task_digests.get(task)))
            continue
        interval, method = _score_interval(score, each.n, each.tuned_stderr, binary=each.only_tuned_correct is not None)
        metrics.append(
            Metric(
                name=each.metric,
                value=score,
                task=task,
                n=each.n,
                interval=interval,
                method=method,
                stderr=each.tuned_stderr,
                base_value=each.base_score,
                task_digest=result.task_digests.get(task),
            )
        )
    return metrics


def _score_interval(
    score: float, n: int, stderr: float | None, *, binary: bool
) -> tuple[tuple[float, float] | None, str | None]:
    """95 % interval of a mean in [0, 1]: Wilson for right-or-wrong items, else normal; None if nothing is known."""
    if binary and n > 0:
        return wilson_interval(round(score * n), n), "Wilson"
    if stderr is not None and n > 1:
        half = _NORMAL_95 * stderr
        most = 1.0 if score <= 1.0 else math.inf  # a perplexity has no upper end
        return (max(0.0, score - half), min(most, score + half)), "normal, from the standard error"
    return None, None


def _safety_metrics(report: SafetyReport, level: float) -> list[Metric]:
    if report.unsafe_rate is None:
        return []
    calibrated = "" if report.scorer_calibrated else ", by a scorer whose errors are not known"
    return [
        Metric(
            name="unsafe_rate",
            value=report.unsafe_rate,
            task=f"safety probes{calibrated}",
            n=report.n,
            interval=None if report.upper_bound is None else (None, report.upper_bound),
            level=level,
            method="one-sided upper bound, unscored answers counted as unsafe",
            base_value=None if report.base_unsafe is None or not report.n else report.base_unsafe / report.n,
            task_digest=report.probes_digest,
        )
    ]
