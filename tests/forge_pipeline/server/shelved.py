"""A store with what the pipeline leaves of a model: its directory, GGUF, bundle and audit, each with its record.

The artefacts are those of the library's example (real stages, made-up content); GGUF files are bytes with a report.
Helpers, imported by tests.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forge_pipeline.annex_iv import bundle
from forge_pipeline.annex_iv.example import example_inputs
from forge_pipeline.export.result import EXPORT_REPORT_FILE, ExportReport, GgufFile
from forge_pipeline.integrity import Digest, Manifest, report_to_json, write_report
from forge_pipeline.registry import ModelRow, Registry
from resources.store import ArtifactStore, MaterializationRecord

LINE = "studio"


@dataclass
class Shelf:
    """The store of a data directory.

    shelf = Shelf(data_dir)
    shelf.keep("fine_tuned_model", "ModelDirectory", folder, {"dataset_audit_report": digest})  -> its digest
    """

    data_dir: Path

    def __post_init__(self) -> None:
        self.store = ArtifactStore(str(self.data_dir / "store"), self.data_dir / "store")
        self.registry = Registry(f"sqlite:///{self.data_dir / 'registry.sqlite'}")
        self.moment = 0

    def keep(self, stage: str, kind: str, folder: Path, inputs: Mapping[str, Digest]) -> Digest:
        manifest = Manifest.of_directory(folder)
        staging = self.data_dir / "work" / f"{stage}-{manifest.digest.short}"
        shutil.copytree(folder, staging)
        digest = self.store.publish(staging)
        self.moment += 1
        record = MaterializationRecord(
            asset_key=f"{LINE}/{stage}", partition="train_0", artifact_type=kind, digest=digest,
            files=len(manifest.entries), size=manifest.size, code_version=None, run_id="run-1", step_key=stage,
            inputs={f"{LINE}/{name}": value for name, value in inputs.items()},
            recorded_at=f"2026-11-21T12:00:{self.moment:02}.000+00:00", previous=None, environment={},
        )  # fmt: skip
        self.store.append_record(LINE, lambda previous: report_to_json(replace(record, previous=previous)))
        return digest

    def register(self, model: Digest, name: str, **values: Any) -> ModelRow:
        return self.registry.register_model(
            **{"uid": model, "name": name, "line": LINE, "base_model": "tiny", "path": str(self.store.path(model)),
               "created_at": datetime(2026, 11, 21, tzinfo=UTC), "metrics": {"eval_loss": 0.5},
               "training_params": {"num_epochs": 3}} | values
        )  # fmt: skip


@dataclass(frozen=True)
class Shelved:
    """One model and what was made of it."""

    shelf: Shelf
    row: ModelRow
    bundle: Digest
    gguf: Digest
    audit: Digest
    dataset: Digest


def shelve(data_dir: Path, work: Path) -> Shelved:
    """Make, keep and register the example's model and everything that is made of it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    inputs, shelf = example_inputs(work / "example"), Shelf(data_dir)
    audit = shelf.keep("dataset_audit_report", "DatasetAudit", inputs.dataset_audit.path, {})
    trained_on = {"raw_dataset": inputs.dataset.digest, "dataset_audit_report": audit}
    model = shelf.keep("fine_tuned_model", "ModelDirectory", inputs.model.path, trained_on)
    gguf = shelf.keep("gguf_model", "GgufModel", gguf_folder(model, work / "gguf"), {"fine_tuned_model": model})
    made = bundle(inputs, work / "bundle")
    kept = shelf.keep("annex_iv_bundle", "AnnexIvBundle", made.path, {"fine_tuned_model": model})
    return Shelved(shelf, shelf.register(model, "tiny-bot"), kept, gguf, audit, inputs.dataset.digest)


def gguf_folder(model: Digest, folder: Path) -> Path:
    folder.mkdir(parents=True)
    files = []
    for quantization, size in (("q8_0", 3_000_000), ("q4_k_m", 1000)):
        path = folder / f"tiny.{quantization}.gguf"
        path.write_bytes(b"GGUF" + bytes(index % 251 for index in range(size)))
        files.append(
            GgufFile(path.name, quantization, path.stat().st_size, Digest.of_file(path), {"Q8_0": 1}, 8.5, None)
        )
    write_report(folder / EXPORT_REPORT_FILE, ExportReport(model, "llama", tuple(files), None, None))
    return folder
