"""A small deployment: corpora, a store with real datasets, records, logs with vaults, a model that was made from them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import ingest
from forge_pipeline.data.artifacts import RawDataset
from forge_pipeline.erasure import Places
from forge_pipeline.integrity import Digest, DirectoryArtifact, Manifest, write_report
from forge_pipeline.models.base import BaseModelRecord
from forge_pipeline.models.directory import ModelRecord, write_record
from forge_pipeline.training.report import REPORT_NAME, LossPoint, TrainingReport
from resources.store import ArtifactStore

LINE = "tiny"
Rows = list[dict[str, Any]]


@dataclass
class Deployment:
    """Builds what a run of a line leaves behind, without training anything."""

    root: Path
    corpora: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(str(self.home / "store"), self.home / "store")

    @property
    def log(self) -> AuditLogger:
        return AuditLogger(self.home / "audit_log" / LINE, run_id="run-1")

    @property
    def places(self) -> Places:
        return Places.of(self.home, corpora=self.corpora)

    def recipe(self, corpus: Path, **sections: Any) -> ForgeConfig:
        return ForgeConfig(
            name=LINE,
            model={"name_or_path": "none", "load_in_4bit": False},
            lora={},
            training={"trainer_type": "sft", "output_dir": str(self.root / "runs")},
            data={"dataset_name_or_path": str(corpus)},
            **sections,
        )

    def corpus(self, rows: Rows, name: str = "rows.jsonl") -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        self.corpora.append(path)
        return path

    def raw_dataset(self, corpus: Path) -> Digest:
        """Ingest a corpus and store it as the asset would."""
        dataset = ingest(self.recipe(corpus), self._work() / "raw_dataset")
        return self.publish("raw_dataset", dataset, {})

    def rows_of(self, digest: Digest) -> list[dict[str, Any]]:
        dataset = RawDataset.open(self.store.path(digest))
        return [row for split in dataset.splits for row in dataset.rows(split)]

    def model(self, dataset: Digest, tokenized: Digest | None = None) -> Digest:
        """A model directory whose record says what it was trained on."""
        folder = self._work() / "model"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"\0" * 64)
        write_report(folder / REPORT_NAME, _report())
        digest = Digest.of(b"nothing")
        base = BaseModelRecord("none", None, None, "local", None, None)
        write_record(folder, ModelRecord("full", base, "sft", digest, dataset, tokenized or digest, None, 1))
        inputs = {"raw_dataset": dataset} | ({"tokenized_dataset": tokenized} if tokenized else {})
        return self.publish("fine_tuned_model", DirectoryArtifact.open(folder), inputs, kind="ModelDirectory")

    def publish(
        self,
        stage: str,
        artifact: DirectoryArtifact,
        inputs: Mapping[str, Digest],
        *,
        kind: str | None = None,
        at: datetime | None = None,
    ) -> Digest:
        """Store an artefact with its record and log entry, as an IO manager does."""
        files = len(Manifest.of_directory(artifact.path).entries)
        digest = self.store.publish(artifact.path)
        key, made_from = f"{LINE}/{stage}", {f"{LINE}/{name}": value for name, value in inputs.items()}
        facts = {"asset_key": key, "digest": digest, "inputs": made_from, "run_id": "run-1"}
        facts |= {"artifact_type": kind or type(artifact).__name__}
        facts |= {"recorded_at": (at or datetime.now(UTC)).isoformat(timespec="milliseconds")}
        self.store.append_record(LINE, lambda previous: {**facts, "previous": previous})
        self.log.log_event(
            "artifact.materialized",
            asset_key=key,
            digest=digest,
            files=files,
            inputs=made_from,
            code_version="1",
            kind=facts["artifact_type"],
        )
        return digest

    def _work(self) -> Path:
        number = len(list((self.home / "work").glob("*"))) if (self.home / "work").exists() else 0
        folder = self.home / "work" / f"run-{number}"
        folder.mkdir(parents=True)
        return folder


def _report() -> TrainingReport:
    points = tuple(LossPoint(step, 1.0, 1.0 / step, 0.1, None) for step in (1, 2))
    return TrainingReport(
        "sft", "SFTTrainer", 2, 1.0, 0.75, None, {}, points, 8, 16, 16, 1, 2, "float32", "cpu", False, {}
    )
