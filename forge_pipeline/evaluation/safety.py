"""The safety gate: probes to base and tuned model, a scorer reads the answers, a verdict.

Fails closed. Whatever is missing (the section, the probes, the scorer's weights, the
base model, enough probes) gives a report that did not pass and says what is missing.
Nothing is deleted on a failure: the model stays where it is, unreleased.

`safety` loads the models one after the other; `score_probes` works on a model object
that the caller has. The verdict itself is `safety_verdict.decide`, which is pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import SafetySection, Severity
from forge_pipeline.errors import ModelError
from forge_pipeline.evaluation.generation import generate, with_loaded
from forge_pipeline.evaluation.probes import Probe, ProbeSet, load_probes
from forge_pipeline.evaluation.safety_verdict import Count, Evidence, PairedCount, Ruling, decide, upper_bound
from forge_pipeline.evaluation.scorers import (
    Calibration,
    Label,
    Score,
    Scorer,
    ScorerUnavailableError,
    build_scorer,
    calibrate,
    is_refusal,
)
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.models import ModelDirectory, load_base, load_tuned
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STAGE = "safety"


@dataclass(frozen=True)
class CategoryResult:
    """The tuned model on the harmful probes of one category or severity; the bound is as in `SafetyReport`."""

    n: int
    unsafe: int
    upper_bound: float


@dataclass(frozen=True)
class SafetySample:
    """One probe and what became of it. The base model's part is None where it was not measured."""

    prompt: str
    category: str
    severity: Severity | None
    response: str
    label: Label
    base_response: str | None = None
    base_label: Label | None = None


@dataclass(frozen=True)
class SafetyReport:
    """What the safety gate found.

    Attributes:
        verdict, reason: The gate's answer; only ``pass`` is a pass.
        subject: The tuned model.
        policy_digest: Of the recipe's `evaluation.safety` section, logged before training.
        probes_digest, probes_source: Which probes were asked; the digest is None where there were none.
        scorer, scorer_calibrated: Who read the answers, and whether its errors are known.
        n, unsafe, unscored: Harmful probes asked, and what the scorer said of the tuned model's answers.
        low_confidence: Unscored answers that the scorer had a probability for, but not a clear one.
        unsafe_rate: unsafe / n as scored; None without probes.
        upper_bound: Upper confidence bound of the true unsafe rate (level 1 - alpha), unscored answers counted as
            unsafe. Of an uncalibrated scorer it assumes that the scorer never errs.
        n_needed: Probes that would be needed, where there were too few.
        base_unsafe: Unsafe answers of the base model to the same probes; None where it was not measured.
        newly_unsafe, newly_safe, mcnemar_p: Discordant probes and their exact two-sided p-value.
        regression_bound: Upper bound of the rise of the unsafe rate against the base model.
        over_refusal_n, over_refusals, base_over_refusals: Benign probes asked, and those refused. No gate reads them.
        safety_score: Mean probability of safe, unscored answers as 0; None from a scorer without probabilities.
        categories: By hazard category, where the recipe tracks them.
        severities: By severity.
        gates: The gate ``safety``.
        samples: Prompts and answers, only where the recipe includes them.
    """

    verdict: Outcome
    reason: str
    subject: Digest
    policy_digest: Digest
    probes_digest: Digest | None
    scorer: str
    scorer_calibrated: bool
    n: int = 0
    unsafe: int = 0
    unscored: int = 0
    low_confidence: int = 0
    unsafe_rate: float | None = None
    upper_bound: float | None = None
    n_needed: int | None = None
    base_unsafe: int | None = None
    newly_unsafe: int | None = None
    newly_safe: int | None = None
    mcnemar_p: float | None = None
    regression_bound: float | None = None
    over_refusal_n: int = 0
    over_refusals: int = 0
    base_over_refusals: int | None = None
    safety_score: float | None = None
    probes_source: str = ""
    categories: dict[str, CategoryResult] = field(default_factory=dict)
    severities: dict[str, CategoryResult] = field(default_factory=dict)
    gates: tuple[GateDecision, ...] = ()
    samples: tuple[SafetySample, ...] = ()


@dataclass(frozen=True)
class ProbeResult:
    """One model's answer to one probe."""

    probe: Probe
    response: str
    score: Score

    @property
    def refused(self) -> bool:
        return is_refusal(self.response)


def safety(
    config: ForgeConfig, model: ModelDirectory, *, calibration: Calibration | None = None, progress: Report = silent
) -> SafetyReport:
    """Ask base and tuned model the recipe's probes and decide the gate ``safety``.

    Args:
        config: `evaluation.safety` is the policy.
        model: The tuned model.
        calibration: How the scorer did on labeled answers (`scorers.calibrate`); None measures it on the file that
            the recipe names. Without one for exactly this scorer, nothing passes.
        progress: Told after each batch of answers.

    Raises:
        ModelError: The tuned model could not be loaded.
        EvaluationError: The tuned model cannot be asked: no chat template, or a probe exceeds its context.
    """
    section = config.evaluation.safety
    if section is None or not section.enabled:
        return not_run(section, model.digest, "evaluation.safety is not enabled in the recipe")
    probes = load_probes(section.test_prompts, section.limit)
    if probes.reason is not None:
        return not_run(section, model.digest, probes.reason)
    try:
        scorer = build_scorer(section)
        steps = _Steps(progress, len(probes.probes))
        base = _base_answers(lambda: load_base(config), section, probes, steps)
        tuned = _loaded_answers(lambda: load_tuned(config, model), section, probes, steps.of("tuned model", 1))
        tuned_results = _scored(probes, tuned, scorer, steps.of("scoring the tuned model", 2))
        base_results = _scored(probes, base, scorer, steps.of("scoring the base model", 3)) if base else None
        if calibration is None and section.calibration is not None:
            calibration = calibrate(scorer, Path(section.calibration))
    except ScorerUnavailableError as error:
        return not_run(section, model.digest, str(error), probes)
    return report(section, model.digest, probes, scorer.identity, tuned_results, base_results, calibration)


def score_probes(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    probes: Sequence[Probe],
    scorer: Scorer,
    *,
    max_new_tokens: int = 256,
    batch_size: int = 8,
) -> list[ProbeResult]:
    """One model's greedy answers to the probes, scored. Benign probes are answered but not scored."""
    conversations = [[{"role": "user", "content": probe.prompt}] for probe in probes]
    answers = generate(model, tokenizer, conversations, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return _scored(ProbeSet("", tuple(probes)), answers, scorer, lambda done: None)


def report(
    section: SafetySection,
    subject: Digest,
    probes: ProbeSet,
    scorer: str,
    tuned: Sequence[ProbeResult],
    base: Sequence[ProbeResult] | None,
    calibration: Calibration | None = None,
) -> SafetyReport:
    """Count the results, decide, and write it all down.

    Args:
        scorer: The scorer's identity; a `calibration` of another one is ignored.
        tuned, base: Results on the same probes in the same order; None where the base model was not measured.
    """
    if calibration is not None and calibration.scorer != scorer:
        calibration = None
    harmful = [result for result in tuned if not result.probe.benign]
    paired = _paired(harmful, [r for r in base if not r.probe.benign]) if base is not None else None
    severities = _counts(harmful, lambda probe: str(probe.severity))
    weighted, weighted_scored = _safety_scores(harmful)
    evidence = Evidence(
        tuned=_count(harmful),
        paired=paired,
        severities=severities,
        calibration=calibration,
        safety_score=weighted,
        safety_score_of_scored=weighted_scored,
    )
    ruling = decide(section, evidence)

    def results(counts: Mapping[str, Count]) -> dict[str, CategoryResult]:
        return {
            name: CategoryResult(count.n, count.unsafe, upper_bound(count, section, calibration))
            for name, count in sorted(counts.items())
        }

    count = evidence.tuned
    return SafetyReport(
        verdict=ruling.outcome,
        reason=ruling.reason,
        subject=subject,
        policy_digest=policy_digest(section),
        probes_digest=probes.digest,
        probes_source=probes.source,
        scorer=scorer,
        scorer_calibrated=calibration is not None,
        n=count.n,
        unsafe=count.unsafe,
        unscored=count.unscored,
        low_confidence=sum(r.score.label == "unscored" and r.score.unsafe_probability is not None for r in harmful),
        unsafe_rate=count.unsafe / count.n if count.n else None,
        upper_bound=ruling.upper_bound,
        n_needed=ruling.n_needed,
        base_unsafe=_count([r for r in base if not r.probe.benign]).unsafe if base is not None else None,
        newly_unsafe=paired.newly_unsafe if paired else None,
        newly_safe=paired.newly_safe if paired else None,
        mcnemar_p=ruling.mcnemar_p,
        regression_bound=ruling.regression_bound,
        over_refusal_n=sum(result.probe.benign for result in tuned),
        over_refusals=_refusals(tuned),
        base_over_refusals=_refusals(base) if base is not None else None,
        safety_score=weighted,
        categories=results(_counts(harmful, lambda probe: probe.category)) if section.track_categories else {},
        severities=results(severities),
        gates=(_gate(section, subject, ruling, count),),
        samples=_samples(tuned, base) if section.include_eval_samples else (),
    )


def policy_digest(section: SafetySection | None) -> Digest:
    """Of the section with its defaults; of null where the recipe has none."""
    return json_digest(section.model_dump(mode="json") if section is not None else None)


def not_run(
    section: SafetySection | None, subject: Digest, reason: str, probes: ProbeSet | None = None
) -> SafetyReport:
    """The report of a gate that could not be evaluated."""
    policy = section or SafetySection()
    return SafetyReport(
        verdict="not_run",
        reason=reason,
        subject=subject,
        policy_digest=policy_digest(section),
        probes_digest=probes.digest if probes else None,
        probes_source=probes.source if probes else "",
        scorer=policy.classifier if section else "",
        scorer_calibrated=False,
        gates=(GateDecision("safety", "not_run", reason, subject, guards=policy.guards),),
    )


def _gate(section: SafetySection, subject: Digest, ruling: Ruling, count: Count) -> GateDecision:
    rate = count.unsafe / count.n if count.n else None
    return GateDecision(
        gate="safety",
        outcome=ruling.outcome,
        reason=ruling.reason,
        subject=subject,
        guards=section.guards,
        metric="unsafe_rate",
        observed=rate,
        threshold=section.max_unsafe_rate,
        interval=(0.0, ruling.upper_bound) if ruling.upper_bound is not None else None,  # one-sided
        n=count.n,
    )


def _base_answers(
    load: Callable[[], tuple["PreTrainedModel", "PreTrainedTokenizerBase"]],
    section: SafetySection,
    probes: ProbeSet,
    steps: "_Steps",
) -> list[str] | None:
    """None where the base model cannot be loaded: the verdict then says that it was not measured."""
    try:
        return _loaded_answers(load, section, probes, steps.of("base model", 0))
    except ModelError:
        return None


def _loaded_answers(
    load: Callable[[], tuple["PreTrainedModel", "PreTrainedTokenizerBase"]],
    section: SafetySection,
    probes: ProbeSet,
    on_batch: Callable[[int], None],
) -> list[str]:
    return with_loaded(
        load,
        lambda model, tokenizer: generate(
            model,
            tokenizer,
            [[{"role": "user", "content": probe.prompt}] for probe in probes.probes],
            max_new_tokens=section.max_new_tokens,
            batch_size=section.batch_size,
            on_batch=on_batch,
        ),
    )


def _scored(
    probes: ProbeSet, answers: Sequence[str], scorer: Scorer, on_scored: Callable[[int], None]
) -> list[ProbeResult]:
    harmful = [(i, probe) for i, probe in enumerate(probes.probes) if not probe.benign]
    scores = scorer.score([(probe.prompt, answers[i]) for i, probe in harmful], on_scored)
    by_index = {i: score for (i, _), score in zip(harmful, scores, strict=True)}
    return [ProbeResult(probe, answers[i], by_index.get(i, Score("safe"))) for i, probe in enumerate(probes.probes)]


def _count(results: Sequence[ProbeResult]) -> Count:
    labels = [result.score.label for result in results]
    return Count(len(labels), labels.count("unsafe"), labels.count("unscored"))


def _counts(results: Iterable[ProbeResult], key: Callable[[Probe], str]) -> dict[str, Count]:
    groups: dict[str, list[ProbeResult]] = {}
    for result in results:
        groups.setdefault(key(result.probe), []).append(result)
    return {name: _count(members) for name, members in groups.items()}


def _paired(tuned: Sequence[ProbeResult], base: Sequence[ProbeResult]) -> PairedCount:
    pairs = [(t.score.label, b.score.label) for t, b in zip(tuned, base, strict=True)]
    return PairedCount(
        n=len(pairs),
        newly_unsafe=pairs.count(("unsafe", "safe")),
        newly_safe=pairs.count(("safe", "unsafe")),
        unpaired=sum("unscored" in pair for pair in pairs),
    )


def _safety_scores(results: Sequence[ProbeResult]) -> tuple[float | None, float | None]:
    """Mean probability of safe: over all with unscored as 0, and over the scored alone."""
    scored = [r.score for r in results if r.score.label != "unscored"]
    probabilities = [1.0 - score.unsafe_probability for score in scored if score.unsafe_probability is not None]
    if not probabilities or len(probabilities) < len(scored):
        return None, None
    return sum(probabilities) / len(results), fmean(probabilities)


def _refusals(results: Sequence[ProbeResult]) -> int:
    return sum(result.refused for result in results if result.probe.benign)


def _samples(tuned: Sequence[ProbeResult], base: Sequence[ProbeResult] | None) -> tuple[SafetySample, ...]:
    others: Sequence[ProbeResult | None] = base if base is not None else [None] * len(tuned)
    return tuple(
        SafetySample(
            prompt=result.probe.prompt,
            category=result.probe.category,
            severity=result.probe.severity,
            response=result.response,
            label=result.score.label,
            base_response=other.response if other else None,
            base_label=other.score.label if other else None,
        )
        for result, other in zip(tuned, others, strict=True)
    )


class _Steps:
    """Four passes over the probes (ask and score, base and tuned) as one row of steps."""

    def __init__(self, progress: Report, probes: int) -> None:
        self._progress = progress
        self._probes = probes

    def of(self, what: str, index: int) -> Callable[[int], None]:
        def report_step(done: int) -> None:
            step = index * self._probes + done
            self._progress(Progress(STAGE, step, 4 * self._probes, f"{what}: {done} of {self._probes} probes"))

        return report_step
