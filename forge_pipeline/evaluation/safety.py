"""The safety gate: probes to base and tuned model, a scorer reads the answers, a verdict.

Fails closed. Whatever is missing (the section, the probes, the scorer's weights, the
base model, enough probes) gives a report that did not pass and says what is missing.
Nothing is deleted on a failure: the model stays where it is, unreleased.

`safety` loads the models one after the other; `score_probes` works on a model object
that the caller has. The verdict itself is `safety_verdict.decide`, which is pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import SafetySection, Severity
from forge_pipeline.errors import ModelError
from forge_pipeline.evaluation.calibration import LabeledSet, ScorerCalibration, calibration_report, labeled_set
from forge_pipeline.evaluation.coherence import is_incoherent
from forge_pipeline.evaluation.generation import generate, with_loaded
from forge_pipeline.evaluation.guards import ScorerUnavailableError
from forge_pipeline.evaluation.probes import Probe, ProbeSet, hazard_of, load_probes
from forge_pipeline.evaluation.safety_policy import SafetyPolicy, changed_since, policy_of
from forge_pipeline.evaluation.safety_verdict import (
    CategoryCount,
    CategoryTest,
    Count,
    Evidence,
    PairedCount,
    Ruling,
    decide,
    upper_bound,
)
from forge_pipeline.evaluation.scorers import Calibration, Label, Score, Scorer, build_scorer, is_refusal
from forge_pipeline.evaluation.statistics import rogan_gladen, rogan_gladen_interval
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.models import ModelDirectory, load_base, load_tuned
from forge_pipeline.models.heads import HEADS
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STAGE = "safety"
_WORST: tuple[Label, ...] = ("safe", "unscored", "unsafe")


@dataclass(frozen=True)
class CategoryResult:
    """The tuned model on the harmful probes of one category or severity; the bound is as in `SafetyReport`.

    The p-values are of a category alone, adjusted over all categories (Holm): see `safety_verdict.CategoryTest`.
    """

    n: int
    unsafe: int
    upper_bound: float
    unscored: int = 0
    hazard: str | None = None
    p_above: float | None = None
    p_rose: float | None = None


@dataclass(frozen=True)
class SeedResult:
    """The tuned model on the harmful probes, answered once with one seed."""

    seed: int
    unsafe: int
    unscored: int
    unsafe_rate: float


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
        over_refusal_n, over_refusals, base_over_refusals: Benign probes asked, and those refused.
        over_refusal_bound: Upper bound of the share refused, held against `max_over_refusal`.
        corrected_rate, corrected_interval: The unsafe rate corrected for both of the scorer's errors (Rogan and
            Gladen), with a conservative two-sided interval at level 1 - alpha; None without a calibration.
        answers, incoherent, base_incoherent: Answers of the tuned model, and how many are empty or loop.
        seeds, between_seed_sd: The tuned model by seed, and the standard deviation of the unsafe rate between seeds.
        hazards: Hazards that the scorer named for unsafe answers, with counts.
        policy: The gate's terms in full: digests of probes and labels, decoding, scorer, bounds.
        policy_changed: Terms that are not those on record from before training; None where none were handed in.
        calibration, calibration_digest: The counts that entered the bounds, and the digest of their whole report.
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
    over_refusal_bound: float | None = None
    corrected_rate: float | None = None
    corrected_interval: tuple[float, float] | None = None
    answers: int = 0
    incoherent: int = 0
    base_incoherent: int | None = None
    seeds: tuple[SeedResult, ...] = ()
    between_seed_sd: float | None = None
    hazards: dict[str, int] = field(default_factory=dict)
    policy: SafetyPolicy | None = None
    policy_changed: tuple[str, ...] | None = None
    calibration: Calibration | None = None
    calibration_digest: Digest | None = None


@dataclass(frozen=True)
class ProbeResult:
    """One model's answer to one probe; of several seeds the worst one stands for all.

    Attributes:
        by_seed: Every answer and its score, in the order of the seeds; empty where there is but one.
    """

    probe: Probe
    response: str
    score: Score
    by_seed: tuple[tuple[str, Score], ...] = ()

    @property
    def all_answers(self) -> tuple[tuple[str, Score], ...]:
        return self.by_seed or ((self.response, self.score),)

    @property
    def refused(self) -> bool:
        return any(is_refusal(answer) for answer, _ in self.all_answers)

    @property
    def incoherent(self) -> int:
        return sum(is_incoherent(answer) for answer, _ in self.all_answers)


def safety(
    config: ForgeConfig,
    model: ModelDirectory,
    *,
    calibration: Calibration | ScorerCalibration | None = None,
    fixed_policy: Mapping[str, Any] | None = None,
    progress: Report = silent,
) -> SafetyReport:
    """Ask base and tuned model the recipe's probes and decide the gate ``safety``.

    Args:
        config: `evaluation.safety` is the policy.
        model: The tuned model.
        calibration: How the scorer did on labeled answers; None measures it on the labels that the recipe names.
            Without one for exactly this scorer and these labels, nothing passes.
        fixed_policy: The `SafetyPolicy` put on record before training, as JSON; a gate whose terms differ by now
            does not pass. None: nobody kept one.
        progress: Told after each batch of answers.

    Raises:
        ModelError: The tuned model could not be loaded.
        EvaluationError: The tuned model cannot be asked: no chat template, or a probe exceeds its context.
    """
    section = config.evaluation.safety
    if section is None or not section.enabled:
        return not_run(section, model.digest, "evaluation.safety is not enabled in the recipe")
    if not HEADS[model.record.head].generates:
        reason = f"the model ends in a {model.record.head} head and writes no text, so there is no answer to score"
        return not_run(section, model.digest, reason)
    probes, labels = load_probes(section.test_prompts, section.limit), labeled_set(section.calibration)
    policy = policy_of(section, probes, labels)
    if probes.reason is not None:
        return not_run(section, model.digest, probes.reason, policy=policy)
    steps = _Steps(progress, len(probes.probes) * len(section.seeds))
    try:
        scorer = build_scorer(section)
        base = _base_answers(lambda: load_base(config), section, probes, steps)
        tuned = _loaded_answers(lambda: load_tuned(config, model), section, probes, steps.of("tuned model", 1))
        scored = _scored(probes, [tuned, *([base] if base else [])], scorer, steps.of("scoring", 2))
        if calibration is None:
            calibration = _measured(scorer, labels)
    except ScorerUnavailableError as error:
        return not_run(section, model.digest, str(error), probes, policy=policy)
    return report(
        section,
        model.digest,
        probes,
        scorer.identity,
        scored[0],
        scored[1] if base else None,
        calibration,
        policy=policy,
        changed=None if fixed_policy is None else tuple(changed_since(fixed_policy, policy)),
    )


def _measured(scorer: Scorer, labels: LabeledSet) -> ScorerCalibration:
    if labels.reason is not None:
        return ScorerCalibration(scorer.identity, labels.source, reason=labels.reason)
    return calibration_report(scorer, labels)


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
    return _scored(ProbeSet("", tuple(probes)), [[answers]], scorer, lambda done: None)[0]


def report(
    section: SafetySection,
    subject: Digest,
    probes: ProbeSet,
    scorer: str,
    tuned: Sequence[ProbeResult],
    base: Sequence[ProbeResult] | None,
    calibration: Calibration | ScorerCalibration | None = None,
    *,
    policy: SafetyPolicy | None = None,
    changed: tuple[str, ...] | None = None,
) -> SafetyReport:
    """Count the results, decide, and write it all down.

    Args:
        scorer: The scorer's identity; a `calibration` of another one is ignored.
        tuned, base: Results on the same probes in the same order; None where the base model was not measured.
        policy: The gate's terms.
        changed: Those of them that are not the ones on record.
    """
    used = _usable(calibration, scorer, policy)
    harmful = [result for result in tuned if not result.probe.benign]
    base_harmful = [result for result in base if not result.probe.benign] if base is not None else None
    paired = _paired(harmful, base_harmful) if base_harmful is not None else None
    severities = _counts(harmful, lambda probe: str(probe.severity))
    weighted, weighted_scored = _safety_scores(harmful)
    answers = sum(len(result.all_answers) for result in tuned)
    incoherent = sum(result.incoherent for result in tuned)
    evidence = Evidence(
        tuned=_count(harmful),
        paired=paired,
        severities=severities,
        calibration=used.calibration,
        safety_score=weighted,
        safety_score_of_scored=weighted_scored,
        categories=_categories(harmful, base_harmful) if section.track_categories else {},
        hazards={hazard: _of_hazard(hazard, harmful) for hazard in section.zero_tolerance},
        benign=_benign(tuned),
        refusals=used.refusals,
        answers=answers,
        incoherent=incoherent,
        uncalibrated=used.reason,
        changed=changed or (),
    )
    ruling = decide(section, evidence)

    def results(counts: Mapping[str, Count], tests: Mapping[str, CategoryTest]) -> dict[str, CategoryResult]:
        return {
            name: CategoryResult(
                count.n,
                count.unsafe,
                upper_bound(count, section, used.calibration),
                count.unscored,
                hazard_of(name),
                tests[name].above if name in tests else None,
                tests[name].rose if name in tests else None,
            )
            for name, count in sorted(counts.items())
        }

    seeds = _by_seed(section, harmful)
    corrected, interval = _corrected(section, evidence.tuned, used.calibration)
    count = evidence.tuned
    return SafetyReport(
        verdict=ruling.outcome,
        reason=ruling.reason,
        subject=subject,
        policy_digest=policy_digest(section),
        probes_digest=probes.digest,
        probes_source=probes.source,
        scorer=scorer,
        scorer_calibrated=used.calibration is not None,
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
        categories=(
            results(_counts(harmful, lambda probe: probe.category), ruling.categories)
            if section.track_categories
            else {}
        ),
        severities=results(severities, {}),
        gates=(_gate(section, subject, ruling, count),),
        samples=_samples(tuned, base) if section.include_eval_samples else (),
        over_refusal_bound=ruling.over_refusal_bound,
        corrected_rate=corrected,
        corrected_interval=interval,
        answers=answers,
        incoherent=incoherent,
        base_incoherent=sum(result.incoherent for result in base) if base is not None else None,
        seeds=seeds,
        between_seed_sd=stdev(result.unsafe_rate for result in seeds) if len(seeds) > 1 else None,
        hazards=_named_hazards(harmful),
        policy=policy,
        policy_changed=changed,
        calibration=used.calibration,
        calibration_digest=used.digest if used.calibration is not None else None,
    )


def _usable(
    calibration: Calibration | ScorerCalibration | None, scorer: str, policy: SafetyPolicy | None
) -> ScorerCalibration:
    """The calibration as far as it is of this scorer on these labels, else why not."""
    if isinstance(calibration, Calibration):
        calibration = ScorerCalibration(calibration.scorer, "", calibration=calibration)
        policy = None
    if calibration is None:
        return ScorerCalibration(scorer, "")
    reason = calibration.reason
    if policy is not None and calibration.labels_digest != policy.calibration_digest and reason is None:
        reason = "it was measured on other labels than the recipe's are now; materialize scorer_calibration again"
    elif calibration.calibration is not None and calibration.calibration.scorer != scorer:
        reason = f"the calibration is of {calibration.calibration.scorer}, not of {scorer}"
    return calibration if reason is None else replace(calibration, calibration=None, refusals=None, reason=reason)


def _corrected(
    section: SafetySection, count: Count, calibration: Calibration | None
) -> tuple[float | None, tuple[float, float] | None]:
    if calibration is None or not count.n or not calibration.unsafe or not calibration.safe:
        return None, None
    found, known = (calibration.unsafe_found, calibration.unsafe), (calibration.safe_found, calibration.safe)
    return (
        rogan_gladen(count.unsafe / count.n, found[0] / found[1], known[0] / known[1]),
        rogan_gladen_interval((count.unsafe, count.n), found, known, section.alpha),
    )


def _categories(harmful: Sequence[ProbeResult], base: Sequence[ProbeResult] | None) -> dict[str, CategoryCount]:
    found = {}
    for name in sorted({result.probe.category for result in harmful}):
        chosen = [i for i, result in enumerate(harmful) if result.probe.category == name]
        tuned = [harmful[i] for i in chosen]
        found[name] = CategoryCount(_count(tuned), _paired(tuned, [base[i] for i in chosen]) if base else None)
    return found


def _of_hazard(entry: str, harmful: Sequence[ProbeResult]) -> Count:
    """Probes of a hazard; and whichever other unsafe answer the scorer itself assigns to it."""
    code = hazard_of(entry)
    belongs = [r.probe.category == entry or (code is not None and r.probe.hazard == code) for r in harmful]
    others = sum(
        not own and r.score.label == "unsafe" and code in r.score.hazards
        for own, r in zip(belongs, harmful, strict=True)
    )
    count = _count([r for own, r in zip(belongs, harmful, strict=True) if own])
    return Count(count.n + others, count.unsafe + others, count.unscored)


def _benign(tuned: Sequence[ProbeResult]) -> Count:
    """Benign probes refused; an empty or looping answer is neither refused nor given."""
    benign = [result for result in tuned if result.probe.benign]
    refused = sum(result.refused for result in benign)
    return Count(len(benign), refused, sum(bool(r.incoherent) and not r.refused for r in benign))


def _by_seed(section: SafetySection, harmful: Sequence[ProbeResult]) -> tuple[SeedResult, ...]:
    if not harmful or any(len(result.all_answers) != len(section.seeds) for result in harmful):
        return ()
    found = []
    for index, seed in enumerate(section.seeds):
        labels = [result.all_answers[index][1].label for result in harmful]
        unsafe = labels.count("unsafe")
        found.append(SeedResult(seed, unsafe, labels.count("unscored"), unsafe / len(labels)))
    return tuple(found)


def _named_hazards(harmful: Sequence[ProbeResult]) -> dict[str, int]:
    named = [hazard for result in harmful if result.score.label == "unsafe" for hazard in result.score.hazards]
    return {hazard: named.count(hazard) for hazard in sorted(set(named), key=lambda code: int(code[1:]))}


def policy_digest(section: SafetySection | None) -> Digest:
    """Of the section with its defaults; of null where the recipe has none."""
    return json_digest(section.model_dump(mode="json") if section is not None else None)


def not_run(
    section: SafetySection | None,
    subject: Digest,
    reason: str,
    probes: ProbeSet | None = None,
    *,
    policy: SafetyPolicy | None = None,
) -> SafetyReport:
    """The report of a gate that could not be evaluated."""
    guards = (section or SafetySection()).guards
    return SafetyReport(
        verdict="not_run",
        reason=reason,
        subject=subject,
        policy_digest=policy_digest(section),
        probes_digest=probes.digest if probes else None,
        probes_source=probes.source if probes else "",
        scorer=section.classifier if section else "",
        scorer_calibrated=False,
        gates=(GateDecision("safety", "not_run", reason, subject, guards=guards),),
        policy=policy,
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
) -> list[list[str]] | None:
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
) -> list[list[str]]:
    """For each seed, the answer to each probe."""
    conversations = [[{"role": "user", "content": probe.prompt}] for probe in probes.probes]

    def ask(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[list[str]]:
        return [
            generate(
                model,
                tokenizer,
                conversations,
                max_new_tokens=section.max_new_tokens,
                temperature=section.temperature,
                top_p=section.top_p,
                batch_size=section.batch_size,
                seed=seed,
                on_batch=partial(_add_up, on_batch, index * len(conversations)),
            )
            for index, seed in enumerate(section.seeds)
        ]

    return with_loaded(load, ask)


def _add_up(on_batch: Callable[[int], None], before: int, done: int) -> None:
    on_batch(before + done)


def _scored(
    probes: ProbeSet, models: Sequence[Sequence[Sequence[str]]], scorer: Scorer, on_scored: Callable[[int], None]
) -> list[list[ProbeResult]]:
    """Results for each model, from its answers by seed and probe. The scorer is loaded once, and reads a pair once."""
    harmful = [(i, probe) for i, probe in enumerate(probes.probes) if not probe.benign]
    pairs = list(dict.fromkeys((probe.prompt, seed[i]) for seeds in models for seed in seeds for i, probe in harmful))
    known = dict(zip(pairs, scorer.score(pairs, on_scored), strict=True))
    return [
        [_result(probe, [seed[i] for seed in seeds], known) for i, probe in enumerate(probes.probes)]
        for seeds in models
    ]


def _result(probe: Probe, answers: Sequence[str], known: Mapping[tuple[str, str], Score]) -> ProbeResult:
    found = [(answer, Score("safe") if probe.benign else known[probe.prompt, answer]) for answer in answers]
    worst = max(found, key=lambda each: _WORST.index(each[1].label))
    return ProbeResult(probe, *worst, by_seed=tuple(found) if len(found) > 1 else ())


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
