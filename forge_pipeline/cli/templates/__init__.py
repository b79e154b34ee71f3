"""Templates of `forge quickstart`: a commented recipe each, and sample rows to run it on.

Every template lies here as ``<name>.yaml``; its sample rows lie in ``data/`` and are shared between templates. The
rows were written for this package and stand under its licence (Apache-2.0).
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from forge_pipeline.errors import ConfigError

_HERE = files("forge_pipeline.cli") / "templates"


@dataclass(frozen=True)
class Template:
    """One template.

    Attributes:
        what: One line for a list.
        data: Names of its sample files in ``data/``.
        needs: What it cannot run without, beyond the package and a CPU; empty where there is nothing.
    """

    name: str
    what: str
    data: tuple[str, ...]
    needs: str = ""

    @property
    def recipe(self) -> bytes:
        return (_HERE / f"{self.name}.yaml").read_bytes()

    def sample(self, name: str) -> bytes:
        return (_HERE / "data" / name).read_bytes()


def templates() -> dict[str, Template]:
    """Every template by its name, in the order in which they are listed."""
    import yaml

    index = yaml.safe_load((_HERE / "index.yaml").read_text(encoding="utf-8"))
    return {
        name: Template(name, entry["what"], tuple(entry["data"]), entry.get("needs", ""))
        for name, entry in index.items()
    }


def write_template(template: Template, directory: Path) -> list[Path]:
    """Write the recipe and its sample rows; returns the files, the recipe first.

    Nothing is overwritten: every name is looked at before the first file is written.

    Raises:
        ConfigError: `directory` is a file.
        FileExistsError: One of the files is there already.
    """
    from forge_pipeline.integrity.atomic import write_file

    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is a file; name a directory for the template {template.name}")
    recipe = directory / f"{template.name.replace('-', '_')}.yaml"
    contents = {recipe: template.recipe}
    contents |= {directory / "data" / name: template.sample(name) for name in template.data}
    for path in contents:
        if path.exists():
            raise FileExistsError(f"{path} already exists and is not overwritten; give another directory")
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    return list(contents)
