"""Where a person's data can lie: corpora, the artefact store, run folders, logs with their vaults, registry, scratch.

What is looked through is every plain file under FORGE_HOME and the run folders, and the data files that recipes
name. Links are not followed: what they lead to is either under the same roots, or somebody else's. Weights are not
looked through; nobody can say what they remember (EDPB Opinion 28/2024), which is why lineage is followed instead.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from forge_pipeline.audit_log import LOG_FILE, VAULT_FILE
from forge_pipeline.data.local_files import files_with_rows
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

Place = Literal["corpus", "artifact", "record", "run", "work", "progress", "cache", "log", "vault", "registry", "other"]
ERASURE = "erasure"
"""The folder of FORGE_HOME with the erasure log, the register, the deny-list and the requests under way."""

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_HOME_FOLDERS: dict[str, Place] = {"work": "work", "progress": "progress", "cache": "cache"}


@dataclass(frozen=True)
class Located:
    """A file and what it belongs to.

    Attributes:
        unit: The folder that stands or falls as a whole: an artefact, a stage's folder in a run; else None.
        artifact: The digest that a unit of the store is kept under.
    """

    path: Path
    place: Place
    unit: Path | None = None
    artifact: Digest | None = None

    @property
    def holds_weights(self) -> bool:
        return self.path.suffix in _WEIGHTS


@dataclass(frozen=True)
class Places:
    """Everything that is looked through.

    Attributes:
        home: FORGE_HOME.
        store: The artefact store on this machine; ``<home>/store`` unless it is elsewhere.
        corpora: Data files outside of it.
        runs: `training.output_dir` of recipes that `ForgeTrainer` runs.
        elsewhere: Datasets that recipes name and that are not files here, each with the reason.
    """

    home: Path
    store: Path
    corpora: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()
    elsewhere: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def of(
        cls,
        home: Path,
        *,
        recipes: Iterable["ForgeConfig"] = (),
        corpora: Iterable[Path] = (),
        runs: Iterable[Path] = (),
        store: Path | None = None,
    ) -> "Places":
        """The places of a deployment.

        Args:
            recipes: Whose datasets, synthetic rows and run folders count.
            corpora: More data files, or folders of them.
            runs: More run folders.

        Raises:
            DataError: A corpus that is named here is not there.
        """
        files: list[Path] = []
        for corpus in corpora:
            files += corpus_files(corpus)
        elsewhere: dict[str, str] = {}
        folders = list(runs)
        for recipe in recipes:
            folders.append(Path(recipe.training.output_dir).expanduser())
            for name in _named_files(recipe):
                try:
                    files += corpus_files(Path(name).expanduser())
                except DataError:
                    elsewhere[name] = "no file of this machine; ask whoever keeps it"
        home = home.resolve()
        return cls(
            home,
            (store or home / "store").resolve(),
            tuple(dict.fromkeys(path.resolve() for path in files)),
            tuple(dict.fromkeys(path.resolve() for path in folders if path.is_dir())),
            tuple(elsewhere.items()),
        )

    def logs(self) -> list[Path]:
        """The audit logs, by path."""
        under = [*self.home.glob(f"audit_log/*/{LOG_FILE}"), self.home / ERASURE / LOG_FILE]
        return sorted({path for path in (*under, *(run / LOG_FILE for run in self.runs)) if path.is_file()})

    def files(self) -> Iterator[Located]:
        """Every file that is looked through, once, by path."""
        seen: set[Path] = set()
        for path in self.corpora:
            if path not in seen:
                seen.add(path)
                yield Located(path, "corpus")
        for root in dict.fromkeys((self.home, self.store, *self.runs)):
            for path in plain_files(root):
                if path not in seen:
                    seen.add(path)
                    yield self.locate(path)

    def locate(self, path: Path) -> Located:
        """What a file under one of the roots belongs to."""
        if path.name == VAULT_FILE:
            return Located(path, "vault")
        if path.name.startswith(LOG_FILE):
            return Located(path, "log")
        if path.is_relative_to(self.store):
            return self._in_store(path)
        run = next((run for run in self.runs if path.is_relative_to(run)), None)
        if run is not None:
            parts = path.relative_to(run).parts
            return Located(path, "run", run / parts[0] / parts[1] if len(parts) > 2 else None)
        parts = path.relative_to(self.home).parts if path.is_relative_to(self.home) else ()
        place = _HOME_FOLDERS.get(parts[0] if parts else "", "other")
        if parts and parts[0].startswith("registry.sqlite"):
            place = "registry"
        unit = self.home.joinpath(*parts[:4]) if parts[:2] == ("cache", "tokenized") and len(parts) > 4 else None
        return Located(path, place, unit)

    def shown(self, path: Path) -> str:
        """A path for people: from FORGE_HOME on where it lies there."""
        return path.relative_to(self.home).as_posix() if path.is_relative_to(self.home) else str(path)

    def _in_store(self, path: Path) -> Located:
        parts = path.relative_to(self.store).parts
        if parts[0] == "sha256" and len(parts) > 3 and (digest := as_digest(parts[2])):
            return Located(path, "artifact", self.store.joinpath(*parts[:3]), digest)
        return Located(path, "record" if parts[0] == "records" else "other")


def corpus_files(path: Path) -> list[Path]:
    """The data files that a corpus is made of.

    Raises:
        DataError: There is no such file or folder.
    """
    if path.is_dir():
        rows, documents = files_with_rows(path)
        return [*rows, *documents]
    if not path.is_file():
        raise DataError(f"{path}: there is no such corpus; name a data file, or a folder of them")
    return [path]


def plain_files(root: Path) -> Iterator[Path]:
    """The plain files under a folder, links and special files left out, by path."""
    for parent, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def as_digest(name: str) -> Digest | None:
    """The digest that a folder of the store is named after."""
    try:
        return Digest(f"sha256:{name}")
    except ValueError:
        return None


def _named_files(recipe: "ForgeConfig") -> Iterator[str]:
    yield from recipe.data.names
    if recipe.synthetic is not None:
        yield from (name for name in (recipe.synthetic.seed_file, recipe.synthetic.output_file) if Path(name).is_file())
