"""`build_example_bundle`: a small bundle for documentation and tests.

Everything in it is made up, and it says so on every page. The dataset, its audit, the
log and the bundle are made by the real stages; the model directory holds a weight file
without tensors, so nothing here needs torch.
"""

import json
import struct
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forge_pipeline.annex_iv.bundle import bundle
from forge_pipeline.annex_iv.evidence import BundleInputs
from forge_pipeline.annex_iv.manifest import MANIFEST_NAME
from forge_pipeline.audit_log import AuditLogger, AuditSettings
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.data import RawDataset, SplitSummary, TokenizationSummary, TokenizedDataset, ingest
from forge_pipeline.dataset_audit import AuditReport, audit_raw_dataset
from forge_pipeline.evaluation import BenchmarkResult, PairedComparison
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, report_digest, write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.models import BaseModelRecord, ModelDirectory, ModelRecord
from forge_pipeline.training import LossPoint, TrainingReport

_MOMENT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
_TOKENS_A_ROW = 12


def build_example_bundle(output_dir: Path | str) -> Path:
    """Write a synthetic bundle to `output_dir` and return the path of its ``annex_iv.json``.

    Some points are left missing on purpose, so the bundle is valid and not complete.

    Raises:
        FileExistsError: `output_dir` is not empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = example_inputs(Path(folder))
        return bundle(inputs, Path(output_dir)).path / MANIFEST_NAME


def example_inputs(folder: Path) -> BundleInputs:
    """The inputs of the example; its artefacts and log lie under `folder`."""
    config = example_config(folder)
    logger = AuditLogger.with_settings(
        folder / "log", AuditSettings("synthetic-operator", clock=lambda: _MOMENT), run_id="run-example"
    )
    logger.log_event(
        "recipe.resolved", config_digest=config_digest(config), policy_digest=config_digest(config), line=config.name
    )
    raw = ingest(config, folder / "raw")
    audit = audit_raw_dataset(config, raw, folder / "audit")
    tokenized = _tokenized(raw, folder / "tokenized")
    model = _model(config, raw, tokenized, folder / "model")
    benchmark = _benchmark(model)
    digests = {
        "raw_dataset": raw.digest,
        "dataset_audit_report": audit.digest,
        "tokenized_dataset": tokenized.digest,
        "fine_tuned_model": model.digest,
        "benchmark_report": report_digest(benchmark),
    }
    return BundleInputs(
        config=config,
        dataset=raw,
        dataset_audit=audit,
        tokenized=tokenized,
        model=model,
        benchmark=benchmark,
        safety=None,
        gguf=None,
        audit_log_path=logger.log_path,
        anchor=_log_all(logger, digests, audit.report, benchmark),
        materializations=tuple(
            {"asset_key": f"{config.name}/{name}", "digest": digest, "run_id": "run-example", "inputs": {}}
            for name, digest in digests.items()
        ),
        environment={"python": "3.11", "platform": "synthetic", "package:torch": "2.13"},
        generated_at="2026-11-21T12:00:00Z",
        synthetic=True,
    )


def example_config(folder: Path, **compliance: Any) -> ForgeConfig:
    """The example's recipe; writes its data file into `folder`. Keyword arguments replace compliance keys."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": f"{n} plus {n} is {2 * n}."} for n in range(40)]
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    declared = {
        "provider_name": "Example Provider",
        "provider_contact": "provider@example.org",
        "system_name": "Sums, a synthetic example",
        "intended_purpose": "Show what an Annex IV bundle looks like; it does no work.",
        "known_limitations": "It adds numbers below forty and nothing else.",
        "system_version": "0.1",
        "risk_classification": "minimal-risk",
        "declarations": {
            "1(b)": "A command-line program reads its answers; no other system is connected.",
            "1(e)": "Any computer with 1 GB of memory.",
            "2(b)": "A small adapter on a small base model, because the task is small; accuracy over fluency.",
        },
    }
    return ForgeConfig(
        name="example",
        model={"name_or_path": "synthetic/base-model", "max_length": 64, "load_in_4bit": False},
        lora={"r": 4},
        training={"num_train_epochs": 1},
        data={
            "dataset_name_or_path": str(data),
            "license": "CC0-1.0",
            "origin": "written for this example",
            "category": "synthetic",
            "governance": {"collection_method": "Generated by a loop over the numbers 0 to 39."},
            # Rows that differ in one number alone look alike to the near-duplicate search.
            "audit": {"dedup_method": "simhash", "near_dup_threshold": 0, "max_split_overlap": 1.0},
        },
        compliance={**declared, **compliance},
        risk_assessment={
            "intended_use": "Show what an Annex IV bundle looks like.",
            "foreseeable_misuse": ["Somebody takes the example for a real system."],
            "risk_category": "minimal-risk",
            "mitigation_measures": ["Every page says that the example is synthetic."],
        },
    )


def _tokenized(raw: RawDataset, output: Path) -> TokenizedDataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    splits: dict[str, SplitSummary] = {}
    with publishing(output) as staging:
        for split in raw.splits:
            rows = raw.table(split).num_rows
            ids = pa.array([[1] * _TOKENS_A_ROW] * rows, pa.list_(pa.int32()))
            lengths = pa.array([_TOKENS_A_ROW] * rows, pa.int32())
            pq.write_table(pa.table({"input_ids": ids, "labels": ids, "length": lengths}), staging / f"{split}.parquet")
            tokens = rows * _TOKENS_A_ROW
            splits[split] = SplitSummary(
                rows=rows,
                tokens=tokens,
                trained_tokens=tokens,
                truncated=0,
                fully_masked=0,
                max_length_seen=_TOKENS_A_ROW,
                mean_length=float(_TOKENS_A_ROW),
            )
        tokenizer = Digest.of(b"synthetic tokenizer")
        summary = TokenizationSummary(
            dataset_digest=raw.digest,
            tokenizer_digest=tokenizer,
            chat_template_digest=None,
            trainer_type="sft",
            max_length=64,
            packed=False,
            splits=splits,
        )
        write_report(staging / "summary.json", summary)
    return TokenizedDataset.open(output)


def _model(config: ForgeConfig, raw: RawDataset, tokenized: TokenizedDataset, output: Path) -> ModelDirectory:
    base = BaseModelRecord(
        name_or_path=config.model.name_or_path,
        revision_requested=None,
        revision_resolved=None,
        source="local",
        digest=Digest.of(b"synthetic base model"),
        license="CC0-1.0",
    )
    record = ModelRecord(
        kind="adapter",
        base_model=base,
        trainer_type="sft",
        config_digest=config_digest(config),
        dataset_digest=raw.digest,
        tokenized_digest=tokenized.digest,
        chat_template_digest=None,
        seed=config.training.seed,
    )
    losses = tuple(
        LossPoint(step=n, epoch=n / 4, loss=2.0 / n, learning_rate=2e-5, eval_loss=None) for n in range(1, 5)
    )
    report = TrainingReport(
        trainer_type="sft",
        trainer_class="SFTTrainer",
        steps=4,
        epochs=1.0,
        train_loss=1.0,
        eval_loss=None,
        metrics={"loss": 0.5},
        loss_history=losses,
        tokens_trained=tokenized.summary.splits["train"].tokens,
        trainable_parameters=4_096,
        total_parameters=1_000_000,
        seed=config.training.seed,
        effective_batch_size=config.training.effective_batch_size,
        dtype="float32",
        device="cpu",
        stopped_early=False,
        arguments={"learning_rate": config.training.learning_rate},
    )
    header = b"{}"
    with publishing(output) as staging:
        (staging / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        write_report(staging / "forge_model.json", record)
        write_report(staging / "training_report.json", report)
    return ModelDirectory.open(output)


def _benchmark(model: ModelDirectory) -> BenchmarkResult:
    comparison = PairedComparison(
        task="held_out",
        metric="acc",
        n=40,
        base_score=0.25,
        tuned_score=0.9,
        difference=0.65,
        interval=(0.5, 0.8),
        base_stderr=0.068,
        tuned_stderr=0.047,
        only_base_correct=0,
        only_tuned_correct=26,
        p_value=2 * 0.5**26,
    )
    gate = GateDecision(
        gate="benchmark",
        outcome="pass",
        reason="mean score 0.900 is at least 0.800",
        subject=model.digest,
        metric="average_score",
        observed=0.9,
        threshold=0.8,
        n=40,
    )
    return BenchmarkResult(
        scores={"held_out": 0.9},
        average_score=0.9,
        passed=True,
        failure_reason=None,
        raw_results={},
        base_scores={"held_out": 0.25},
        comparisons=(comparison,),
        gates=(gate,),
        subject=model.digest,
        items=40,
    )


def _log_all(logger: AuditLogger, digests: dict[str, Digest], report: AuditReport, benchmark: BenchmarkResult) -> Any:
    for name, digest in digests.items():
        logger.log_event(
            "artifact.materialized",
            asset_key=f"example/{name}",
            digest=digest,
            files=1,
            inputs={},
            code_version="synthetic",
            kind="synthetic",
        )
    for decision in (*report.gates, *benchmark.gates):
        logger.log_event(
            "gate.decided",
            asset_key="example",
            gate=decision.gate,
            verdict=decision.verdict.value,
            outcome=decision.outcome,
            subject=decision.subject,
            policy_digest=Digest.of(b"synthetic policy"),
            reason=decision.reason,
        )
    return logger.anchor()
