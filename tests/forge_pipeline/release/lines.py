"""A model line up to its bundle, in a folder of its own: real log, real registry, real bundle. Helpers for tests."""

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.annex_iv import AnnexIvBundle, BundleInputs, bundle
from forge_pipeline.audit_log import AuditLogger, AuditSettings, read_entries
from forge_pipeline.audit_log.keys import public_key_fingerprint
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import AwaitingApprovalError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import Registry
from forge_pipeline.release import ReleaseRecord, promote
from forge_pipeline.release.requests import read_requests

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WHY = "Looked at the bundle and the samples."


@dataclass
class Line:
    """One model line up to its bundle, in a folder of its own."""

    inputs: BundleInputs
    config: ForgeConfig
    bundle: AnnexIvBundle
    registry: Registry
    log: AuditLogger

    def promote(self, **changes: Any) -> ReleaseRecord:
        arguments: dict[str, Any] = {
            "model": self.inputs.model,
            "decisions": (),
            "bundle": self.bundle,
            "registry": self.registry,
            "log": self.log,
            "at": NOW,
        }
        return promote(changes.pop("config", self.config), **{**arguments, **changes})

    @property
    def subject(self) -> Digest:
        return self.inputs.model.digest

    @property
    def directory(self) -> Path:
        return self.log.log_path.parent

    def ask(self, **changes: Any) -> str:
        """Ask for approval; returns the request's id."""
        with pytest.raises(AwaitingApprovalError):
            self.promote(**changes)
        return list(read_requests(read_entries(self.log.log_path)))[-1]  # the registry's clock stands still here

    def events(self) -> list[str]:
        return [entry.event for entry in read_entries(self.log.log_path)]

    def another_model(self, folder: Path, name: str) -> Digest:
        """A second model of the line, registered, whose bytes differ."""
        shutil.copytree(self.inputs.model.path, folder / name)
        (folder / name / "note.txt").write_text(name)
        model = type(self.inputs.model).open(folder / name)
        self.registry.register_model(
            uid=model.digest, name=name, line="example", base_model="tiny", path=str(model.path), created_at=NOW
        )
        return model.digest


def logger_in(folder: Path, operator: str = "ci", **settings: Any) -> AuditLogger:
    return AuditLogger.with_settings(folder / "log", AuditSettings(operator, **settings), run_id="run-release")


def inputs_of(template: BundleInputs, config: ForgeConfig, folder: Path, log: AuditLogger) -> BundleInputs:
    model = type(template.model).open(folder / "model")
    return replace(template, config=config, model=model, audit_log_path=log.log_path, anchor=log.anchor())


def make_bundled(template: BundleInputs, config: ForgeConfig, folder: Path) -> None:
    """A folder with the log, the model and their bundle for a recipe."""
    assert template.audit_log_path is not None
    shutil.copytree(template.audit_log_path.parent, folder / "log")
    shutil.copytree(template.model.path, folder / "model")
    bundle(inputs_of(template, config, folder, logger_in(folder)), folder / "bundle")


def open_line(template: BundleInputs, config: ForgeConfig, folder: Path) -> Line:
    """The line whose parts lie in `folder`."""
    log = logger_in(folder)
    inputs = inputs_of(template, config, folder, log)
    registry = Registry(f"sqlite:///{folder}/registry.sqlite")
    return Line(inputs, config, AnnexIvBundle.open(folder / "bundle"), registry, log)


def key_file(folder: Path, name: str) -> tuple[Path, Digest]:
    private = Ed25519PrivateKey.generate()
    path = folder / f"{name}.pem"
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem)
    return path, public_key_fingerprint(private.public_key())
