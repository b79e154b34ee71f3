"""A log of eight entries in each mode, and an adversary who can write the files."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.log_attacks import LogCopy
from forge_pipeline.audit_log import AuditLogger, AuditSettings
from forge_pipeline.audit_log.keys import LogKeys

SECRET = "correct horse battery staple"
SUBJECT = "sha256:" + "5" * 64


class Clock:
    """A clock that ticks one second a reading."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is such a thing: for tests that say themselves what reached the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def signing_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def public_pem(signing_key: Ed25519PrivateKey) -> str:
    return (
        signing_key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


@pytest.fixture(scope="session")
def settings_for(signing_key: Ed25519PrivateKey) -> Callable[[str], AuditSettings]:
    def make(mode: str) -> AuditSettings:
        return AuditSettings(
            operator="alice@lab",
            hmac_secret=SECRET if mode == "hmac" else None,
            signing_key=signing_key if mode == "signed" else None,
            clock=Clock(),
        )

    return make


@pytest.fixture(scope="session")
def make_log(settings_for: Callable[[str], AuditSettings]) -> Callable[..., LogCopy]:
    """Write a real log of eight entries: its beginning, a run of six events, and the run's end."""

    def make(directory: Path, mode: str = "keyless", run_id: str = "run-1") -> LogCopy:
        settings = settings_for(mode)
        logger = AuditLogger.with_settings(directory, settings, run_id=run_id)
        for event, fields in RUN:
            logger.log_event(event, **fields)
        log_id = logger.anchor().log_id
        return LogCopy(directory, LogKeys.of(log_id, secret=settings.hmac_secret, private=settings.signing_key))

    return make


RUN: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("recipe.resolved", {"config_digest": SUBJECT, "policy_digest": SUBJECT, "line": "support_bot"}),
    ("training.started", {"trainer_type": "sft", "model": "base", "dataset": "rows"}),
    ("training.completed", {"loss": 0.43, "note": "Grüße, 世界"}),
    ("human_approval.required", {"subject": SUBJECT}),
    ("model.released", {"subject": SUBJECT}),
    ("pipeline.completed", {"success": True}),
    ("run.closed", {}),
)
