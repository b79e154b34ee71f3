"""Which database is meant: for the registry, for the jobs, by every caller alike."""

from pathlib import Path

import pytest

from forge_pipeline.cli.surroundings import open_registry
from forge_pipeline.database import registry_url
from forge_pipeline.server.settings import ServerSettings

# What is set -> whose file the registry is, and whose the job table.
NAMED = {
    "nothing": ((), "home/registry", "home/jobs"),
    "one database": (("FORGE_DATABASE_URL",), "one", "one"),
    "a registry apart": (("FORGE_REGISTRY_URL",), "apart", "home/jobs"),
    "both": (("FORGE_DATABASE_URL", "FORGE_REGISTRY_URL"), "apart", "one"),
}
FILES = {"FORGE_DATABASE_URL": "one", "FORGE_REGISTRY_URL": "apart"}


@pytest.mark.parametrize(("variables", "registry", "jobs"), NAMED.values(), ids=NAMED)
def test_command_line_and_server_mean_the_same_registry(
    variables: tuple[str, ...], registry: str, jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: f"sqlite:///{tmp_path / FILES[name]}.sqlite" for name in variables}
    for name, value in {"FORGE_HOME": str(home), **environment}.items():
        monkeypatch.setenv(name, value)
    expected = f"sqlite:///{tmp_path / registry}.sqlite"
    assert registry_url(environment, home) == expected
    settings = ServerSettings.read({**environment, "FORGE_HOME": str(home)})
    assert (settings.registry, settings.jobs_database) == (expected, f"sqlite:///{tmp_path / jobs}.sqlite")
    opened = open_registry(environment)
    opened.list_models()
    opened.close()
    assert (tmp_path / f"{registry}.sqlite").is_file()
