"""Where a deployment keeps its things: `FORGE_HOME`, read once, handed down as paths."""

from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.models import forge_home


@dataclass(frozen=True)
class Home:
    """The folders under one FORGE_HOME."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        return cls(forge_home().resolve())

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def work(self) -> Path:
        """Scratch of running stages; on the store's file system, so that publishing is a rename."""
        return self.root / "work"

    @property
    def progress(self) -> Path:
        return self.root / "progress"

    def progress_file(self, run_id: str) -> Path:
        return self.progress / f"{run_id}.jsonl"

    def audit_log(self, line: str) -> Path:
        """The directory of one model line's audit log."""
        return self.root / "audit_log" / line

    def studio_recipe(self, job_id: str) -> Path:
        return self.root / "studio" / "jobs" / f"{job_id}.yaml"

    def latest(self, line: str, partition: str | None, stage: str) -> Path:
        """A link to the newest artefact of a stage, for people; nothing reads it back."""
        return Path(self.root, "latest", line, *([partition] if partition else []), stage)

    @property
    def registry_url(self) -> str:
        return f"sqlite:///{self.root / 'registry.sqlite'}"
