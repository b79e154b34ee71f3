"""A log of eight entries in each mode, and an adversary who can write the files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.audit_log import AuditLogger, AuditSettings, Checkpoint, Entry, merkle
from forge_pipeline.audit_log.chain import Anchor, as_digest
from forge_pipeline.audit_log.keys import LogKeys

SECRET = "correct horse battery staple"
SUBJECT = "sha256:" + "5" * 64


@dataclass(frozen=True)
class LogCopy:
    """A log as its adversary sees it: two files in a directory, and its keys for the thief among adversaries."""

    directory: Path
    keys: LogKeys = field(default_factory=LogKeys)

    @property
    def path(self) -> Path:
        return self.directory / "audit_log.jsonl"

    @property
    def checkpoint_path(self) -> Path:
        return self.directory / "audit_log.jsonl.checkpoint"

    @property
    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines()

    @property
    def entries(self) -> list[Entry]:
        return [Entry.parse(line) for line in self.lines]

    def write_lines(self, lines: Iterable[bytes]) -> None:
        self.path.write_bytes(b"".join(line + b"\n" for line in lines))

    def rebuild(self, entries: Sequence[Entry], keys: LogKeys | None = None) -> None:
        """Write `entries` as a log that is right in itself: numbers, links and checkpoint made anew.

        Without keys, what tags and signatures there are stay as they were.
        """
        lines: list[bytes] = []
        tree = merkle.RangeBuilder()
        last = None
        for seq, entry in enumerate(entries):
            linked = replace(entry, seq=seq, prev_hash=last)
            line = (keys.authenticate(linked) if keys else linked).to_bytes()
            leaf = merkle.leaf_hash(line)
            last = as_digest(leaf)
            tree.append(leaf)
            lines.append(line)
        self.write_lines(lines)
        self.write_checkpoint(tree, entries[0].log_id, keys)

    def rebuild_checkpoint(self) -> None:
        tree = merkle.RangeBuilder()
        for line in self.lines:
            tree.append(merkle.leaf_hash(line))
        log_id = Checkpoint.parse(self.checkpoint_path.read_text()).anchor.log_id
        self.write_checkpoint(tree, log_id, None)

    def write_checkpoint(self, tree: merkle.RangeBuilder, log_id: str, keys: LogKeys | None) -> None:
        anchor = Anchor(log_id, tree.size, as_digest(tree.root))
        self.checkpoint_path.write_text(Checkpoint.make(anchor, keys or LogKeys()).text)


class Clock:
    """A clock that ticks one second a reading."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


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
