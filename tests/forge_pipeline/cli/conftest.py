"""The command line, run in this process with its own FORGE_HOME."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from forge_pipeline.annex_iv import build_example_bundle
from forge_pipeline.cli.main import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs one command in a directory of its own; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORGE_OPERATOR", "ann")
    for name in ("FORGE_REGISTRY_URL", "FORGE_APPROVER_KEY", "FORGE_AUDIT_SECRET", "FORGE_AUDIT_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str | Path) -> Done:
        code = main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def example_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_example_bundle(tmp_path_factory.mktemp("cli") / "bundle").parent
