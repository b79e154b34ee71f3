"""Lines that go on from each other's models: what follows what, and rings of them, which no run could begin."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import dagster as dg

from assets.line import Line
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError


def rings(configs: Iterable[ForgeConfig]) -> Mapping[str, str]:
    """Line -> why it cannot be built, for each line whose base model is, over however many lines, its own."""
    follows = {config.name: config.model.base_line.line for config in configs if config.model.base_line}
    found = {}
    for name in follows:
        path = list(_path(name, follows))
        if follows.get(path[-1]) == name:
            words = " -> ".join([*path, name])
            found[name] = (
                f"model.name_or_path: the lines {words} each go on from the next one's model, so none can be the "
                "first; give one of them a published model"
            )
    return found


def build_refused_line(name: str, file: Path, reason: str) -> dg.Definitions:
    """A recipe that loads and cannot be built: one asset that says why, so that the other lines still do."""
    line = Line(name, file)

    @line.stage(io_manager="report_io", kinds={"yaml"}, sections=())
    def recipe(context: dg.AssetExecutionContext) -> ForgeConfig:
        """A recipe that this code location cannot build; materializing it says why."""
        raise ConfigError(f"{file}: {reason}")

    return dg.Definitions(assets=[recipe])


def _path(start: str, follows: Mapping[str, str]) -> Iterator[str]:
    """From a line to the line whose model it goes on from, and so on; ends before a line comes twice."""
    seen: set[str] = set()
    name: str | None = start
    while name is not None and name not in seen:
        yield name
        seen.add(name)
        name = follows.get(name)
