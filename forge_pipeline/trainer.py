"""`ForgeTrainer`: a whole run from Python, the same stages that the assets call.

    ingest -> audit -> gates -> tokenize -> fine-tune -> loss gate -> benchmark, safety, judge

Every run gets a fresh folder ``run-<number>`` in `training.output_dir`, so a second run
never overwrites a first. One audit log, ``audit_log.jsonl``, lies beside the folders and
holds the events of all runs::

    <output_dir>/audit_log.jsonl
    <output_dir>/run-0001/synthetic_dataset, raw_dataset, clean_dataset, dataset_audit_report,
                          tokenized_dataset, checkpoints, final_model, benchmark_report, safety_report, judge_report,
                          resource_usage.json, training_environment.json, train_result.json

A failed gate deletes nothing. With `evaluation.auto_revert` the candidate is moved to
``run-<number>/quarantine/``; without it the model stays where it is, and `success` is
False. If the recipe asks for approvals, the model waits in ``<final_model_dir>.staging``.
"""

import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._version import __version__
from forge_pipeline.config import ForgeConfig, config_digest, policy_digest
from forge_pipeline.errors import ConfigError, GateFailedError, TrainingError
from forge_pipeline.gates import GateDecision, Verdict, check_gates
from forge_pipeline.integrity import REPORT_FILE, DirectoryArtifact, canonical_json, report_to_json, write_report
from forge_pipeline.integrity.atomic import write_file
from forge_pipeline.progress import Report, silent

if TYPE_CHECKING:
    from forge_pipeline.audit_log import AuditLogger
    from forge_pipeline.data import RawDataset, TokenizedDataset
    from forge_pipeline.dataset_audit import DatasetAudit
    from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport
    from forge_pipeline.models import ModelDirectory, PreviousStage
    from forge_pipeline.synthetic import SyntheticDataset
    from forge_pipeline.training import FineTune, ResourceUsage

_RUN = re.compile(r"run-(\d{4,})")
_CODE = f"forge-pipeline {__version__}"


@dataclass(frozen=True)
class TrainResult:
    """What became of a run. A field is None where the thing was not asked for, or could not be measured.

    Attributes:
        success: The model was trained and no gate failed. Gates that were not evaluated are in `gates`;
            they stop a release, not this.
        metrics: Numbers of the fine-tune: train_loss, eval_loss, steps, epochs, and what TRL logged last.
        final_model_path: The model directory; None while it waits for approval, or if it was reverted.
        reverted: A gate failed and `evaluation.auto_revert` moved the model to quarantine.
        error: What stopped the run, or which gates failed.
        benchmark_passed, safety_passed: None when the gate was not evaluated.
        resource_usage: `training.ResourceUsage` as a dict; over all stages of a chain that this run trained.
        safety_categories: Category -> unsafe answers; where the recipe tracks categories.
        safety_severity: Severity -> unsafe answers.
        estimated_cost_usd: Hours times `training.gpu_cost_per_hour`, in the currency of that price.
        staging_path: Where the model waits for approval.
        run_dir: The run's folder.
        gates: Every decision of this run, those about the dataset first.
    """

    success: bool
    metrics: dict[str, float] = field(default_factory=dict)
    final_model_path: str | None = None
    reverted: bool = False
    error: str | None = None
    benchmark_scores: dict[str, float] | None = None
    benchmark_average: float | None = None
    benchmark_passed: bool | None = None
    resource_usage: dict[str, Any] | None = None
    safety_passed: bool | None = None
    safety_score: float | None = None
    safety_categories: dict[str, int] | None = None
    safety_severity: dict[str, int] | None = None
    safety_low_confidence: int = 0
    judge_score: float | None = None
    judge_details: dict[str, Any] | None = None
    estimated_cost_usd: float | None = None
    staging_path: str | None = None
    awaiting_approval: bool = False
    run_id: str | None = None
    config_hash: str | None = None
    run_dir: str | None = None
    gates: tuple[GateDecision, ...] = ()

    @property
    def output_dir(self) -> str | None:
        """The run's folder, `run_dir`."""
        return self.run_dir

    @property
    def revert_reason(self) -> str | None:
        """Which gates failed, in words; None unless the model was reverted."""
        return _failures(self.gates) if self.reverted else None


class ForgeTrainer:
    """Runs a recipe from its dataset to a fine-tuned, gated model.

    Constructing one costs nothing: no file is touched, and torch loads in `train`.
    """

    def __init__(self, config: ForgeConfig) -> None:
        if not isinstance(config, ForgeConfig):
            raise ConfigError(
                f"ForgeTrainer: found {type(config).__name__}; expected a ForgeConfig, as load_config(path) returns it"
            )
        self.config = config

    def train(self, resume_from_checkpoint: str | bool | None = None, *, progress: Report = silent) -> TrainResult:
        """Run the recipe.

        Args:
            resume_from_checkpoint: A ``checkpoint-<step>`` directory of an earlier run, or True for the newest
                one under `training.output_dir`. The dataset must come out the same.
            progress: Told by every stage how far it is.

        Raises:
            ConfigError, DataError, ModelError: Something does not fit; the message says what to do.
            TrainingError: (a RuntimeError) training stopped.
            OSError: Something, the audit log included, could not be written.
        """
        from forge_pipeline.audit_log import AuditLogger
        from forge_pipeline.models import pin_base_line
        from forge_pipeline.training.arguments import check_training
        from forge_pipeline.webhook import WebhookNotifier

        config = pin_base_line(self.config)
        check_training(config)
        output_dir = Path(config.pipeline.output_dir if config.pipeline else config.training.output_dir).expanduser()
        resumed = _newest_run(output_dir) if resume_from_checkpoint is True else None
        checkpoint = resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else None
        run_dir = _fresh_run_directory(output_dir)
        log = AuditLogger(output_dir, f"{run_dir.name}-{uuid.uuid4().hex[:12]}")
        notifier = WebhookNotifier(config)
        run = _Run(config, run_dir, log, progress, resumed=resumed)
        log.log_event("pipeline.started", line=config.name, folder=run_dir.name)
        notifier.notify_start(log.run_id)
        try:
            result = run.run(checkpoint)
            write_report(run_dir / "train_result.json", result)
        except BaseException as error:  # also an interrupt: the log must say how the run ended, and then it goes on
            log.log_event("pipeline.failed", error=f"{type(error).__name__}: {error}")
            log.log_event("run.closed")
            if isinstance(error, Exception):
                notifier.notify_failure(log.run_id, str(error))
            raise
        log.log_event("pipeline.completed", success=result.success, awaiting_approval=result.awaiting_approval)
        log.log_event("run.closed")
        if result.awaiting_approval:
            notifier.notify_awaiting_approval(log.run_id, result.staging_path or "")
        elif result.reverted:
            notifier.notify_reverted(log.run_id, result.revert_reason or "")
        elif result.success:
            notifier.notify_success(log.run_id, result.metrics)
        else:
            notifier.notify_failure(log.run_id, result.error or "")
        return result


class _Run:
    """One run: the stages in order, each logged when its artefact is there."""

    def __init__(
        self,
        config: ForgeConfig,
        run_dir: Path,
        log: "AuditLogger",
        progress: Report,
        *,
        resumed: Path | None = None,
        part: str | None = None,
    ) -> None:
        self._config, self._dir, self._log, self._progress = config, run_dir, log, progress
        self._resumed, self._part = resumed, part
        self._gates: list[GateDecision] = []
        self._usages: list[ResourceUsage] = []
        self._records: list[dict[str, Any]] = []
        self._fixed_policy: Mapping[str, Any] | None = None

    def run(self, checkpoint: str | None) -> TrainResult:
        config = self._config
        self._log.log_event(
            "recipe.resolved",
            line=config.name,
            config_digest=config_digest(config),
            policy_digest=policy_digest(config),
        )
        self._check_base_model()
        self._fix_safety_policy()
        try:
            previous = self._earlier_stages()
            raw = self._clean(self._ingest(self._synthesize()))
            audit = self._audit(raw)
            check_gates("training", audit.gates, subject=raw.digest)
        except GateFailedError as error:
            return self._result(success=False, error=str(error), **_spent(self._usages))
        tokenized = self._tokenize(raw)
        tuned = self._fine_tune(raw, tokenized, checkpoint or self._checkpoint(), previous)
        candidate = self._candidate(tuned, previous)
        evaluations = self._evaluate(candidate, raw)
        self._attest(raw, audit, tokenized, tuned, candidate, evaluations)
        return self._settle(tuned, candidate, evaluations)

    def _earlier_stages(self) -> "PreviousStage | None":
        """What to go on from: another line's model, or a chain's, each stage in ``stages/<name>/`` of the run's folder.

        Raises:
            GateFailedError: A stage's gates stop the chain, or a gate of the other line does.
        """
        from forge_pipeline.models import start_from_line

        previous = start_from_line(self._config)
        for stage in self._config.earlier_stages:
            config, where = self._config.stage_config(stage.name), Path("stages", stage.name)
            resumed = self._resumed / where if self._resumed else None
            (self._dir / where).mkdir(parents=True)
            part = _Run(config, self._dir / where, self._log, self._progress, resumed=resumed, part=stage.name)
            self._log.log_event(
                "pipeline.stage_started", stage=stage.name, trainer_type=config.training.trainer_type,
                config_digest=config_digest(config),
            )  # fmt: skip
            try:
                previous = part.hand_on(previous)
            finally:
                self._gates += part._gates
                self._usages += part._usages
                self._records += part._records
            self._log.log_event("pipeline.stage_completed", stage=stage.name, subject=previous.model.digest)
        return previous

    def hand_on(self, previous: "PreviousStage | None") -> "PreviousStage":
        """Run one earlier stage of a chain; what the next one goes on from."""
        from forge_pipeline.models import go_on_from

        assert self._part is not None
        self._fix_safety_policy()
        raw = self._clean(self._ingest(None))
        audit = self._audit(raw)
        check_gates("training", audit.gates, subject=raw.digest)
        tokenized = self._tokenize(raw)
        candidate = self._finished_before(raw, tokenized, previous)
        if candidate is None:
            candidate = self._candidate(self._fine_tune(raw, tokenized, self._checkpoint(), previous), previous)
        decided = len(self._gates)
        self._evaluate(candidate, raw)
        return go_on_from(self._part, candidate, about_rows=audit.gates, about_model=self._gates[decided:])

    def _finished_before(
        self, raw: "RawDataset", tokenized: "TokenizedDataset", previous: "PreviousStage | None"
    ) -> "ModelDirectory | None":
        """This stage's model from the run that is resumed, if it was made of exactly the same."""
        from forge_pipeline.models import ModelDirectory
        from forge_pipeline.models.directory import RECORD_FILE

        found = self._resumed / self._model_name if self._resumed else None
        if found is None or not (found / RECORD_FILE).is_file():
            return None
        model = ModelDirectory.open(found)
        made_from = (model.record.config_digest, model.record.tokenized_digest, model.record.earlier)
        before = (*previous.model.record.earlier, previous.stage) if previous else ()
        if made_from != (config_digest(self._config), tokenized.digest, before):
            return None
        shutil.copytree(found, self._dir / self._model_name)
        taken = ModelDirectory.open(self._dir / self._model_name)
        name = "merged_model" if self._config.delivers_merged else "fine_tuned_model"
        self._materialized(name, taken, {"raw_dataset": raw, "tokenized_dataset": tokenized})
        self._log.log_event("pipeline.stage_reused", stage=self._part, subject=taken.digest)
        return taken

    def _checkpoint(self) -> str | None:
        """The newest whole checkpoint of this stage in the run that is resumed."""
        from forge_pipeline.training.checkpoints import newest_checkpoint

        found = newest_checkpoint(self._resumed / "checkpoints") if self._resumed else None
        return str(found.path) if found else None

    def _fix_safety_policy(self) -> None:
        """Put the terms of the safety gate on record before anything is trained."""
        safety = self._config.evaluation.safety
        if safety is None or not safety.enabled:
            return
        from forge_pipeline.evaluation import safety_policy

        policy = safety_policy(self._config)
        if policy is not None:
            self._fixed_policy = report_to_json(policy)
            self._log.log_event(
                "safety.policy_fixed",
                config_digest=config_digest(self._config),
                safety_policy_digest=policy.digest,
                policy=self._fixed_policy,
            )

    def _check_base_model(self) -> None:
        """First of all, because everything before training takes minutes on a large dataset."""
        from forge_pipeline.models import resolve_base_model
        from forge_pipeline.models.compatibility import check_compatibility
        from forge_pipeline.models.devices import pick_device

        config = self._config
        base = resolve_base_model(config)
        for each in (*(config.stage_config(stage.name) for stage in config.earlier_stages), config):
            if each.model.backend == "transformers":  # the others run on the packages of another environment
                check_compatibility(each, base, pick_device())

    def _synthesize(self) -> "SyntheticDataset | None":
        """The teacher's rows, where the recipe has a teacher. Answers of a run that ended early are taken up."""
        if not (self._config.synthetic and self._config.synthetic.enabled):
            return None
        from forge_pipeline.synthetic import synthesize

        taught = synthesize(
            self._config,
            self._dir / "synthetic_dataset",
            progress=self._progress,
            answers_dir=self._dir.parent / "answers",
        )
        self._materialized("synthetic_dataset", taught, {})
        return taught

    def _ingest(self, taught: "SyntheticDataset | None") -> "RawDataset":
        from forge_pipeline.data import ingest
        from forge_pipeline.dataset_audit import row_grouping
        from forge_pipeline.models import token_counter

        raw = ingest(
            self._config,
            self._dir / "raw_dataset",
            progress=self._progress,
            group_rows=row_grouping(self._config),
            count_tokens=token_counter(self._config),
            synthetic=taught.rows_file if taught else None,
        )
        self._materialized("raw_dataset", raw, {"synthetic_dataset": taught} if taught else {})
        return raw

    def _clean(self, raw: "RawDataset") -> "RawDataset":
        """The rows that everything after uses: as they were read, or cleaned where the recipe says so."""
        if not self._config.data.clean.enabled:
            return raw
        from forge_pipeline.dataset_audit import clean
        from forge_pipeline.evaluation import benchmark_items

        items = benchmark_items(self._config, raw)
        cleaned = clean(self._config, raw, self._dir / "clean_dataset", benchmark_items=items, progress=self._progress)
        self._materialized("clean_dataset", cleaned, {"raw_dataset": raw})
        return cleaned

    def _audit(self, dataset: "RawDataset") -> "DatasetAudit":
        from forge_pipeline.dataset_audit import audit_raw_dataset
        from forge_pipeline.evaluation import benchmark_items
        from forge_pipeline.models import load_tokenizer

        audit = audit_raw_dataset(
            self._config,
            dataset,
            self._dir / "dataset_audit_report",
            benchmark_items=benchmark_items(self._config, dataset),
            tokenizer=load_tokenizer(self._config) if self._config.data.audit.token_counts else None,
            progress=self._progress,
        )
        self._materialized("dataset_audit_report", audit, {"dataset": dataset})
        self._decided("dataset_audit_report", audit.gates)
        return audit

    def _tokenize(self, raw: "RawDataset") -> "TokenizedDataset":
        from forge_pipeline.data import tokenize
        from forge_pipeline.models import load_tokenizer

        tokenizer = load_tokenizer(self._config)
        tokenized = tokenize(self._config, raw, tokenizer, self._dir / "tokenized_dataset", progress=self._progress)
        self._materialized("tokenized_dataset", tokenized, {"raw_dataset": raw})
        return tokenized

    def _fine_tune(
        self,
        raw: "RawDataset",
        tokenized: "TokenizedDataset",
        checkpoint: str | None,
        previous: "PreviousStage | None",
    ) -> "FineTune":
        from forge_pipeline.training.ranks import launched_fine_tune

        config = self._config
        self._log.log_event(
            "training.started",
            trainer_type=config.training.trainer_type,
            model=config.model.name_or_path,
            dataset=str(raw.digest),
        )
        tuned = launched_fine_tune(
            config,
            tokenized,
            raw.digest,
            self._dir / ("adapter" if self._config.delivers_merged else self._model_name),
            progress=self._progress,
            work_dir=self._dir / "checkpoints",
            resume_from_checkpoint=checkpoint,
            previous=previous,
            log_event=self._log.log_event,
            run_id=self._tracked_as,
            logs_dir=self._logs_dir,
        )
        self._usages.append(tuned.usage)
        write_report(self._dir / "resource_usage.json", tuned.usage)
        write_file(self._dir / "training_environment.json", canonical_json(tuned.environment))
        self._materialized("fine_tuned_model", tuned.model, {"raw_dataset": raw, "tokenized_dataset": tokenized})
        self._log.log_event(
            "training.completed", subject=tuned.model.digest, steps=tuned.report.steps, device=tuned.report.device
        )
        return tuned

    @property
    def _tracked_as(self) -> str:
        """The run id that the trackers of `training.report_to` get."""
        return "-".join(filter(None, [self._log.run_id, self._part]))

    @property
    def _logs_dir(self) -> Path:
        return (self._dir.parents[2] if self._part else self._dir.parent) / "logs"

    def _track(self, model: "ModelDirectory", report: Any) -> None:
        """The numbers of an evaluation, beside the loss curve."""
        from forge_pipeline.tracked_evaluation import track_evaluation

        track_evaluation(self._config, self._tracked_as, model, report, self._logs_dir)

    @property
    def _model_name(self) -> str:
        name = self._config.training.final_model_dir
        return f"{name}.staging" if self._config.approvals_needed and self._part is None else name

    def _candidate(self, tuned: "FineTune", previous: "PreviousStage | None") -> "ModelDirectory":
        """What the gates judge is exactly what is delivered: the merged model where the recipe asks for one."""
        if not self._config.delivers_merged:
            return tuned.model
        from forge_pipeline.models import deliver, find_released

        base = previous.base if previous else None
        destination = self._dir / self._model_name
        merged = deliver(self._config, tuned.model, destination, base=base, find_line=find_released())
        self._materialized("merged_model", merged, {"fine_tuned_model": tuned.model})
        return merged

    def _evaluate(self, model: "ModelDirectory", raw: "RawDataset") -> "_Evaluations":
        from forge_pipeline import dataset_audit, evaluation
        from forge_pipeline.training import loss_gate

        config, section = self._config, self._config.evaluation
        self._decided("fine_tuned_model", loss_gate(config, model))
        done = _Evaluations()
        if section.benchmark and section.benchmark.enabled:
            find_seen = dataset_audit.seen_items(config, raw)
            done.benchmark = evaluation.benchmark(config, model, raw, find_seen=find_seen, progress=self._progress)
            self._report("benchmark_report", done.benchmark, {"fine_tuned_model": model, "raw_dataset": raw})
            self._track(model, done.benchmark)
            self._decided("benchmark_report", done.benchmark.gates)
        if section.safety and section.safety.enabled:
            done.safety = evaluation.safety(config, model, fixed_policy=self._fixed_policy, progress=self._progress)
            self._report("safety_report", done.safety, {"fine_tuned_model": model})
            self._track(model, done.safety)
            self._decided("safety_report", done.safety.gates)
        if section.llm_judge and section.llm_judge.enabled:
            done.judge = evaluation.judge(config, model, progress=self._progress)
            self._report("judge_report", done.judge, {"fine_tuned_model": model})
            self._track(model, done.judge)
            self._decided("judge_report", done.judge.gates)
        return done

    def _attest(
        self,
        raw: "RawDataset",
        audit: "DatasetAudit",
        tokenized: "TokenizedDataset",
        tuned: "FineTune",
        model: "ModelDirectory",
        evaluations: "_Evaluations",
    ) -> None:
        """Statements about this run's artefacts beside them, under ``attestations/``."""
        from forge_pipeline.annex_iv import BundleInputs
        from forge_pipeline.annex_iv.attested import attested_inputs
        from forge_pipeline.attestation import SigningKeys, installed_packages

        inputs = BundleInputs(
            config=self._config,
            dataset=raw,
            dataset_audit=audit,
            tokenized=tokenized,
            model=model,
            benchmark=evaluations.benchmark,
            safety=evaluations.safety,
            judge=evaluations.judge,
            gguf=None,
            audit_log_path=None,
            anchor=None,
            materializations=tuple(self._records),
            environment=tuned.environment,
            generated_at=_now(),
            usage=tuned.usage,
        )
        keys, packages = SigningKeys.from_environment(), installed_packages()
        attested = attested_inputs(inputs, self._log, keys=keys, packages=packages)
        for name, data in attested.extra_files.items():
            write_file(self._dir / name, data)

    def _settle(self, tuned: "FineTune", model: "ModelDirectory", evaluations: "_Evaluations") -> TrainResult:
        """Where the candidate ends up, and what is said about it."""
        failures = _failures(self._gates)
        reverted = bool(failures) and self._config.evaluation.auto_revert
        waits = not failures and bool(self._config.approvals_needed)
        path: Path | None = model.path
        if reverted:
            quarantine = self._dir / "quarantine"
            quarantine.mkdir()
            os.replace(model.path, quarantine / self._config.training.final_model_dir)
            self._log.log_event("model.reverted", reason=failures, subject=model.digest)
            path = None
        if waits:
            self._log.log_event("human_approval.required", subject=model.digest, path=model.path.name)
        numbers = {"steps": float(tuned.report.steps), "epochs": tuned.report.epochs}
        losses = {"train_loss": tuned.report.train_loss, "eval_loss": tuned.report.eval_loss}
        return self._result(
            success=not failures,
            error=failures,
            metrics=tuned.report.metrics | numbers | {name: loss for name, loss in losses.items() if loss is not None},
            final_model_path=None if path is None or waits else str(path),
            reverted=reverted,
            **_spent(self._usages),
            staging_path=str(path) if waits else None,
            awaiting_approval=waits,
            **evaluations.fields(),
        )

    def _result(self, **fields: Any) -> TrainResult:
        return TrainResult(
            run_id=self._log.run_id,
            config_hash=config_digest(self._config),
            run_dir=str(self._dir),
            gates=tuple(self._gates),
            **fields,
        )

    def _key(self, name: str) -> str:
        return "/".join(filter(None, [self._config.name, self._part, name]))

    def _report(self, name: str, report: Any, inputs: dict[str, DirectoryArtifact]) -> None:
        """Store a report as an artefact of its own."""
        write_report(self._dir / name / REPORT_FILE, report)
        self._materialized(name, DirectoryArtifact.open(self._dir / name), inputs, kind="report")

    def _materialized(
        self, name: str, artefact: DirectoryArtifact, inputs: dict[str, DirectoryArtifact], kind: str | None = None
    ) -> None:
        from forge_pipeline.attestation import seeds

        named = {self._key(key): value.digest for key, value in inputs.items()}
        self._records.append(
            {
                "asset_key": self._key(name),
                "artifact_type": kind or type(artefact).__name__,
                "digest": artefact.digest,
                "inputs": named,
                "code_version": _CODE,
                "run_id": self._log.run_id,
                "recorded_at": _now(),
                "recipe": config_digest(self._config),
                "seeds": seeds(self._config),
                "environment": {"forge_pipeline": __version__, "python": platform.python_version()},
            }
        )
        self._log.log_event(
            "artifact.materialized",
            asset_key=self._key(name),
            digest=artefact.digest,
            files=sum(path.is_file() for path in artefact.path.rglob("*")),
            inputs=named,
            code_version=_CODE,
            kind=kind or type(artefact).__name__,
        )

    def _decided(self, name: str, decisions: Iterable[GateDecision]) -> None:
        for decision in decisions:
            self._gates.append(decision)
            self._log.log_event(
                "gate.decided",
                asset_key=self._key(name),
                gate=decision.gate,
                verdict=decision.verdict.value,
                outcome=decision.outcome,
                subject=decision.subject,
                policy_digest=policy_digest(self._config),
                reason=decision.reason,
            )


@dataclass
class _Evaluations:
    """What was measured after training; None where the recipe does not ask."""

    benchmark: "BenchmarkResult | None" = None
    safety: "SafetyReport | None" = None
    judge: "JudgeReport | None" = None

    def fields(self) -> dict[str, Any]:
        """As the fields of a `TrainResult`."""
        values: dict[str, Any] = {}
        if self.benchmark is not None:
            measured = self.benchmark.items > 0
            values["benchmark_scores"] = dict(self.benchmark.scores) if measured else None
            values["benchmark_average"] = self.benchmark.average_score if measured else None
            values["benchmark_passed"] = _passed(self.benchmark.gates)
        if self.safety is not None:
            values["safety_passed"] = _passed(self.safety.gates)
            values["safety_score"] = self.safety.safety_score
            values["safety_categories"] = {name: entry.unsafe for name, entry in self.safety.categories.items()} or None
            values["safety_severity"] = {name: entry.unsafe for name, entry in self.safety.severities.items()} or None
            values["safety_low_confidence"] = self.safety.low_confidence
        if self.judge is not None:
            values["judge_score"] = self.judge.mean_score
            values["judge_details"] = dict(report_to_json(self.judge))
        return values


def _spent(usages: Sequence["ResourceUsage"]) -> dict[str, Any]:
    """What the fine-tunes of this run took together, as the fields of a `TrainResult`; empty if nothing was trained.

    A sum of which one part was not measured is unknown, and so is a rate over several stages.
    """
    if not usages:
        return {}

    def total(name: str, of: Callable[[list[Any]], Any] = sum) -> Any:
        values = [getattr(each, name) for each in usages]
        return None if None in values else of(values)

    summed = ("duration_seconds", "cpu_seconds", "gpu_seconds", "energy_kwh", "estimated_cost")
    whole = replace(usages[-1], **{name: total(name) for name in summed})
    if len(usages) > 1:
        whole = replace(whole, peak_memory_bytes=total("peak_memory_bytes", max), tokens_per_second=None)
    return {"resource_usage": asdict(whole), "estimated_cost_usd": whole.estimated_cost}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _passed(decisions: Iterable[GateDecision]) -> bool | None:
    verdicts = {decision.verdict for decision in decisions}
    if Verdict.FAILED in verdicts:
        return False
    return True if verdicts == {Verdict.PASSED} else None


def _failures(decisions: Iterable[GateDecision]) -> str | None:
    """The failed gates in one sentence each; None if none failed."""
    words = [f"{each.gate}: {each.reason}" for each in decisions if each.verdict is Verdict.FAILED]
    return "; ".join(words) or None


def _fresh_run_directory(output_dir: Path) -> Path:
    """Make the next ``run-<number>`` folder. Two processes never get the same one."""
    output_dir.mkdir(parents=True, exist_ok=True)
    number = max((int(found[1]) for path in output_dir.iterdir() if (found := _RUN.fullmatch(path.name))), default=0)
    while True:
        number += 1
        try:
            (output_dir / f"run-{number:04d}").mkdir()
        except FileExistsError:
            continue
        return output_dir / f"run-{number:04d}"


def _newest_run(output_dir: Path) -> Path:
    """The last run that left something to go on from: a checkpoint, or a finished stage of a chain.

    Raises:
        TrainingError: There is none.
    """
    from forge_pipeline.training.checkpoints import newest_checkpoint

    runs = sorted((path for path in output_dir.glob("run-*") if _RUN.fullmatch(path.name)), reverse=True)
    for run in runs:
        stages = sorted(run.glob("stages/*"))
        if any(newest_checkpoint(part / "checkpoints") for part in (run, *stages)) or len(stages) > 1:
            return run
    raise TrainingError(f"there is no checkpoint to resume from under {output_dir}; start without resuming")
