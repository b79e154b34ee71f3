"""A folder of recipes: which are lines, and which are refused under which name, so that the others still load."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from assets.base_lines import rings
from forge_pipeline.config import ForgeConfig, load_config
from forge_pipeline.errors import ConfigError

STUDIO = "studio"
"""The line of REST jobs, which no recipe declares."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that loads.

    Attributes:
        refused: Why it cannot be built beside the others; None for a line.
    """

    file: Path
    config: ForgeConfig
    refused: str | None = None


@dataclass(frozen=True)
class BrokenFile:
    """A recipe that does not load: under a name that no line has. Its `recipe` asset reports the error."""

    file: Path
    name: str


def read_recipes(folder: Path) -> list[RecipeFile | BrokenFile]:
    """Every ``*.yaml`` in `folder`, broken ones first, with one `RecipeFile` a name."""
    loaded: dict[Path, ForgeConfig] = {}
    broken: list[Path] = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            loaded[file] = load_config(str(file))
        except ConfigError:
            broken.append(file)
    names = {config.name for config in loaded.values()}
    return [*_named(broken, names | {STUDIO}), *_judged(loaded)]


def _named(files: Iterable[Path], taken: set[str]) -> Iterator[BrokenFile]:
    """Each file's stem, with a number where a line or another file has it already."""
    for file in files:
        stem = re.sub(r"[^a-z0-9_]", "_", file.stem.lower())[:28]
        name = next(name for number in count(1) if (name := stem if number == 1 else f"{stem}_{number}") not in taken)
        taken.add(name)
        yield BrokenFile(file, name)


def _judged(loaded: Mapping[Path, ForgeConfig]) -> Iterator[RecipeFile]:
    """One of each name. Of files that share one none is built: which of them the line's history means, nobody knows."""
    ringed, times = rings(loaded.values()), Counter(config.name for config in loaded.values())
    told: set[str] = set()
    for file, config in loaded.items():
        if config.name in told:
            continue
        told.add(config.name)
        reason = ringed.get(config.name)
        if times[config.name] > 1:
            files = " and ".join(each.name for each, other in loaded.items() if other.name == config.name)
            reason = f"name: {config.name} is the name of {files}; give each recipe its own"
        yield RecipeFile(file, config, reason)
