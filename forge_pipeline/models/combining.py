"""Several models of one architecture into one: linear, SLERP, TIES (arXiv 2306.01708), DARE (arXiv 2311.03099).

The arithmetic is mergekit's, in float32, tensor by tensor; what it writes is written again here, so that
equal parents and settings give equal bytes, without paths or times. Rules:

- an adapter is folded into its base model first (`merging`);
- parents have the same tensors, the same positions and the same vocabulary, or the merge is refused;
- one parent at least has a record, which the merged model's goes on from: recipe, base model, head, template.
  Every parent's digest, share, recipe and datasets stand beside it (`ModelRecord.merged_from`), so that whoever
  asks what a model has seen is told of all of it;
- weights count relative to one another: their sum is 1 in every method.
"""

import json
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.operation import MergeParentSection, MergeSection
from forge_pipeline.errors import ConfigError, IntegrityError, ModelError
from forge_pipeline.integrity import DirectoryArtifact
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.models.base import BaseModel, resolve_base_model
from forge_pipeline.models.directory import RECORD_FILE, ModelDirectory, ModelRecord, ParentRecord, write_record
from forge_pipeline.models.home import forge_home
from forge_pipeline.models.merging import keep_reports, merge
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.models.shards import ShardedTensors, TensorShape, write_shards
from forge_pipeline.models.writing import write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
_METHODS = {"linear": "linear", "slerp": "slerp", "ties": "ties", "dare": "dare_linear"}
_SHARD_BYTES = 256 * 2**20  # mergekit gathers this much before it writes
# What must agree beyond names and shapes, because it changes what equal weights compute.
_SAME = ("model_type", "rope_parameters", "sliding_window", "layer_types", "num_attention_heads", "hidden_act")

FindLine = Callable[[str], Path]


@dataclass(frozen=True)
class _Parent:
    section: MergeParentSection
    artifact: DirectoryArtifact
    record: ModelRecord | None

    @property
    def name(self) -> str:
        return self.section.line or self.artifact.path.name


def merge_models(
    config: ForgeConfig,
    output_dir: Path,
    *,
    tuned: ModelDirectory | None = None,
    base: BaseModel | None = None,
    find_line: FindLine | None = None,
) -> ModelDirectory:
    """Merge the models of the recipe's `merge` section.

    Args:
        config: Its `model` is the base model that ties and dare take differences from, and adapters belong on.
        output_dir: Must not exist, or be empty.
        tuned: What ``line: <the recipe's own name>`` means; None asks `find_line`.
        base: Instead of the recipe's base model.
        find_line: Where the released model of a line lies; raises what it likes where there is none.

    Raises:
        ConfigError: There is no such section, or it names a line that nobody can find.
        ModelError: A parent is missing, or the parents do not fit one another.
        IntegrityError: A parent has another digest than the recipe gives.
        OptionalDependencyError: ``mergekit`` is not installed.
        FileExistsError: `output_dir` holds something.
    """
    section = config.merge
    if section is None or len(section.models) < 2:
        raise ConfigError("merge.models: name two models or more, each with path or line")
    require("mergekit", extra="merge", purpose="Model merges")
    output_dir = Path(output_dir)
    base = base or resolve_base_model(config)
    parents = [_opened(config, each, tuned, find_line) for each in section.models]
    record = _record(section, parents)
    with (
        publishing(output_dir) as staging,
        quiet_libraries(),
        tempfile.TemporaryDirectory(prefix=".merge.", dir=output_dir.parent) as work,
    ):
        whole = [_whole(config, each, base, Path(work, f"parent{at}")) for at, each in enumerate(parents)]
        names = [parent.name for parent in parents]
        if section.method in ("ties", "dare"):
            whole, names = [*whole, _local(config, base)], [*names, base.name_or_path]
        _check_alike(names, whole)
        tokenizer = _common_tokenizer(names, whole)
        merged = Path(work, "merged")
        _run_mergekit(section, whole, merged)
        _write(merged, whole[0], staging, section.dtype)
        write_tokenizer(tokenizer, staging)
        keep_reports(next(each for each in parents if each.record).artifact.path, staging)
        write_record(staging, record)
    return ModelDirectory.open(output_dir)


def _opened(
    config: ForgeConfig, section: MergeParentSection, tuned: ModelDirectory | None, find_line: FindLine | None
) -> _Parent:
    if section.line == config.name and tuned is not None:
        artifact: DirectoryArtifact = tuned
    else:
        if section.path is not None:
            path = Path(section.path).expanduser()
        elif find_line is not None:
            path = find_line(str(section.line))
        else:
            raise ConfigError(f"merge.models: line {section.line!r}: there is no registry here; give its path instead")
        if not path.is_dir():
            raise ModelError(f"merge.models: {path} is not a directory; expected a model directory")
        artifact = DirectoryArtifact.open(path)
    if section.digest is not None and artifact.digest != section.digest:
        raise IntegrityError(f"merge.models: {artifact.path}: expected {section.digest}, found {artifact.digest}")
    recorded = (artifact.path / RECORD_FILE).is_file()
    return _Parent(section, artifact, ModelDirectory(artifact.path, artifact.digest).record if recorded else None)


def _record(section: MergeSection, parents: Sequence[_Parent]) -> ModelRecord:
    first = next((each.record for each in parents if each.record), None)
    if first is None:
        raise ModelError(
            f"merge.models: none of {', '.join(each.name for each in parents)} has a {RECORD_FILE}; at least one must "
            "be a model directory that fine-tuning or a merge wrote, because the merged model's record goes on from it"
        )
    for each in parents:
        if each.record and (each.record.head, each.record.task) != (first.head, first.task):
            raise ModelError(f"merge.models: {each.name} is a model for {each.record.task}, not for {first.task}")
    total = sum(each.section.weight for each in parents)
    merged_from = tuple(
        ParentRecord(
            name=each.name,
            digest=each.artifact.digest,
            weight=each.section.weight / total,
            density=section.density_of(each.section),
            config_digest=each.record.config_digest if each.record else None,
            dataset_digests=each.record.dataset_digests if each.record else (),
        )
        for each in parents
    )
    return replace(first, kind="full", quantization=None, merged_from=merged_from, merge_method=section.method)


def _whole(config: ForgeConfig, parent: _Parent, base: BaseModel, scratch: Path) -> Path:
    """Where all of a parent's weights lie."""
    if parent.record is None or parent.record.kind == "full":
        return parent.artifact.path
    return merge(config, ModelDirectory(parent.artifact.path, parent.artifact.digest), scratch, base=base).path


def _local(config: ForgeConfig, base: BaseModel) -> Path:
    if base.source != "hub":
        return Path(base.path)
    from huggingface_hub import snapshot_download

    from forge_pipeline.models.hub import hub_token, is_offline

    wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    token, offline = hub_token(config), is_offline(config)
    try:
        return Path(
            snapshot_download(
                base.path, revision=base.revision, token=token, local_files_only=offline, allow_patterns=wanted
            )
        )
    except OSError as error:
        raise ModelError(f"model.name_or_path: {base.name_or_path} cannot be fetched for the merge: {error}") from error


def _check_alike(names: Sequence[str], directories: Sequence[Path]) -> None:
    """Refuse parents of different architectures, with the first thing that differs."""
    tables = []
    for name, directory in zip(names, directories, strict=True):
        tensors = ShardedTensors.of_directory(directory)
        if tensors is None or not (directory / "config.json").is_file():
            raise ModelError(f"merge.models: {name} ({directory}) has no config.json with weights in safetensors")
        tables.append((name, tensors, json.loads((directory / "config.json").read_text("utf-8"))))
    first_name, first, first_config = tables[0]
    for name, tensors, found in tables[1:]:
        for key in _SAME:
            if found.get(key) != first_config.get(key):
                raise ModelError(
                    f"merge.models: {name} and {first_name} differ in {key}: {found.get(key)} and "
                    f"{first_config.get(key)}; only models of one architecture can be merged"
                )
        apart = sorted(set(first) ^ set(tensors)) or sorted(x for x in first if first.shape(x) != tensors.shape(x))
        if apart:
            shapes = [str(each.shape(apart[0])) if apart[0] in each else "none" for each in (first, tensors)]
            raise ModelError(
                f"merge.models: {first_name} and {name} differ in {len(apart)} weights, the first {apart[0]} "
                f"({shapes[0]} and {shapes[1]}); only models of one architecture can be merged"
            )


def _common_tokenizer(names: Sequence[str], directories: Sequence[Path]) -> "PreTrainedTokenizerBase":
    """The first parent's tokenizer, if every other one means the same tokens by the same ids."""
    from transformers import AutoTokenizer

    loaded = [AutoTokenizer.from_pretrained(str(each), local_files_only=True) for each in directories]
    first: PreTrainedTokenizerBase = loaded[0]
    wanted = first.get_vocab()
    for name, tokenizer in zip(names[1:], loaded[1:], strict=True):
        found = tokenizer.get_vocab()
        if found != wanted:
            apart = min({token for token in found.keys() | wanted.keys() if found.get(token) != wanted.get(token)})
            raise ModelError(
                f"merge.models: {name} and {names[0]} have different vocabularies: {apart!r} is "
                f"{found.get(apart, 'no token')} and {wanted.get(apart, 'no token')}; merge models of one tokenizer"
            )
        if tokenizer.chat_template and tokenizer.chat_template != first.chat_template:
            _log.warning("%s has another chat template than %s, whose template the merge has", name, names[0])
    return first


def _run_mergekit(section: MergeSection, directories: Sequence[Path], output: Path) -> None:
    configs = require("mergekit.config", extra="merge", purpose="Model merges")
    merging = require("mergekit.merge", extra="merge", purpose="Model merges")

    plan = configs.MergeConfiguration.model_validate(_plan(section, [str(each.resolve()) for each in directories]))
    options = merging.MergeOptions(
        random_seed=section.dare_seed, out_shard_size=_SHARD_BYTES, copy_tokenizer=False, write_model_card=False,
        quiet=True, num_threads=None, trust_remote_code=False,
    )  # fmt: skip
    with _own_random_state():
        try:
            merging.run_merge(plan, str(output), options)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise ModelError(f"mergekit cannot merge these models ({type(error).__name__}): {error}") from error


def _plan(section: MergeSection, paths: Sequence[str]) -> Mapping[str, Any]:
    """What mergekit is told. Paths are given in parts, because its short form gives ``@`` and ``+`` a meaning."""

    def at(path: str) -> dict[str, Any]:
        return {"model": {"path": path}}

    total = sum(each.weight for each in section.models)
    plan: dict[str, Any] = {"merge_method": _METHODS[section.method], "dtype": "float32"}
    if section.method == "slerp":
        plan |= {
            "base_model": at(paths[0]),
            "models": [{"model": at(path)} for path in paths[:2]],
            "parameters": {"t": section.models[1].weight / total},
        }
        return plan
    models = []
    for each, path in zip(section.models, paths, strict=False):  # the base model may follow them
        parameters = {"weight": each.weight / total}
        if (density := section.density_of(each)) is not None:
            parameters["density"] = density
        models.append({"model": at(path), "parameters": parameters})
    plan["models"] = models
    if section.method in ("ties", "dare"):
        plan |= {"base_model": at(paths[-1]), "parameters": {"normalize": True}}
    return plan


def _write(merged: Path, first: Path, staging: Path, dtype: str) -> None:
    """What mergekit wrote, as every other model is written; the settings are the first parent's."""
    import torch
    from transformers import AutoConfig, GenerationConfig

    tensors = ShardedTensors.of_directory(merged)
    if tensors is None:
        raise ModelError(f"mergekit left no weights in {merged}")
    kind = getattr(torch, dtype)
    shapes = [TensorShape(name, tensors.shape(name), kind) for name in tensors]

    def finite(name: str) -> "torch.Tensor":
        value = tensors.read(name)
        if not torch.isfinite(value).all():
            raise ModelError(f"merge.models: the merged weight {name} is not finite; a parent's weights are broken")
        return value

    write_shards(staging, shapes, finite)
    config = AutoConfig.from_pretrained(str(first), local_files_only=True)
    config.dtype = dtype
    config.save_pretrained(str(staging))
    if (first / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(str(first)).save_pretrained(str(staging))


@contextmanager
def _own_random_state() -> Iterator[None]:
    """mergekit seeds every generator there is; the caller's go on as they were."""
    import numpy as np
    import torch

    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def deliver(
    config: ForgeConfig,
    tuned: ModelDirectory,
    output_dir: Path,
    *,
    base: BaseModel | None = None,
    find_line: FindLine | None = None,
) -> ModelDirectory:
    """What the recipe delivers of a trained model: merged with others, or folded into its base.

    Args:
        base: What an adapter was trained on; None: the recipe's base model.

    Raises:
        ForgeError, FileExistsError: As `merge_models` and `merge`.
    """
    if config.merges_models:
        return merge_models(config, output_dir, tuned=tuned, base=base, find_line=find_line)
    return merge(config, tuned, output_dir, base=base)


def find_released(environ: Mapping[str, str] = os.environ, *, alias: str = "released") -> FindLine:
    """Finds what a line's alias means, in the registry of FORGE_REGISTRY_URL, FORGE_DATABASE_URL, or under FORGE_HOME.

    The function raises:
        ModelError: The line has released no model.
        StoreError: The registry cannot be opened.
    """

    def find(line: str) -> Path:
        from forge_pipeline.database import registry_url
        from forge_pipeline.registry import Registry

        registry = Registry(registry_url(environ, forge_home()))
        try:
            row = registry.resolve_alias(line, alias)
        finally:
            registry.close()
        if row is None:
            raise ModelError(f"merge.models: the line {line!r} has released no model; give a path, or release one")
        return Path(row.path)

    return find
