"""What a fine-tune is made of: two runs with equal identities give equal weights on one machine.

A checkpoint carries the identity of its run, and a run resumes only from one with its own.
Keys of the recipe that say what is shown, kept or paid for, and not what is learned, are
left out, so that they may change between a crash and the resume.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from forge_pipeline.config import ForgeConfig, resolved
from forge_pipeline.integrity import Digest, json_digest

# Everything in the model:, lora:, training: and distributed: sections counts but these.
HARMLESS = frozenset(
    {
        "model.offline",
        "training.output_dir",
        "training.final_model_dir",
        "training.merge_adapters",
        "training.logging_steps",
        "training.save_steps",
        "training.save_total_limit",
        "training.report_to",
        "training.logging_dir",
        "training.gpu_cost_currency",
        "training.run_name",
        "training.gpu_cost_per_hour",
        "training.fit_check",
        "training.oom_recovery",
        "training.oom_recovery_min_batch_size",
        "training.divergence_factor",
        "training.divergence_window",
        "distributed.timeout",
        # How many processes there are is in the identity itself.
        "distributed.processes",
        "distributed.hosts",
        "distributed.launcher",
    }
)
_SECTIONS = ("model", "lora", "training", "distributed")
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


def weights_recipe(config: ForgeConfig) -> dict[str, Any]:
    """The keys of a recipe that decide the weights, dotted, with their values as JSON.

    Rows count through the digest of the tokenized dataset; of `data:` only their order is here.
    """
    values = resolved(config)
    recipe = {key: value for section in _SECTIONS for key, value in _flat(section, values.get(section))}
    recipe["data.shuffle"] = values["data"]["shuffle"]
    return {key: value for key, value in sorted(recipe.items()) if key not in HARMLESS}


def run_identity(config: ForgeConfig, *, tokenized: Digest, base: str | None, world_size: int = 1) -> dict[str, Any]:
    """The identity of a run.

    Args:
        tokenized: Digest of the tokenized dataset, and so of the rows in their order.
        base: Digest of the weights that training starts from, or the commit of a Hub model; None if nobody knows.
        world_size: Processes that train together.
    """
    return {
        "recipe": weights_recipe(config),
        "tokenized_digest": str(tokenized),
        "base_model": base,
        "world_size": world_size,
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Version of each installed library that computes weights."""
    return {name: found for name in _LIBRARIES if (found := _version(name))}


def identity_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words; versions of libraries are not held against a run."""
    words = []
    old, new = then.get("tokenized_digest"), now["tokenized_digest"]
    if old != new:
        words.append(f"the dataset (it was {old}, this run uses {new}; a resumed run must see the same rows)")
    old, new = then.get("base_model"), now["base_model"]
    if old != new:
        words.append(f"the base model (it was {old}, this run uses {new})")
    if (old := then.get("world_size")) != (new := now["world_size"]):
        words.append(f"the number of processes (it was {old}, this run has {new})")
    before, after = then.get("recipe", {}), now["recipe"]
    for key in sorted(before.keys() | after.keys()):
        if key not in HARMLESS and before.get(key) != after.get(key):
            words.append(f"{key} (it was {before.get(key)!r}, this run has {after.get(key)!r})")
    return words


def version_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Libraries whose version differs between two identities, in words."""
    old, new = then.get("versions", {}), now["versions"]
    return [f"{name} {old.get(name)} then, {new.get(name)} now" for name in sorted(new) if old.get(name) != new[name]]


def work_key(config: ForgeConfig, *, tokenized: Digest, previous: Digest | None = None) -> str:
    """A folder name that a repeated run finds again: the same for equal recipes and rows, 24 hex digits."""
    values = {"recipe": weights_recipe(config), "tokenized": str(tokenized), "previous": previous and str(previous)}
    return json_digest(values).hex[:24]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists are values, empty sections are nothing."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    elif value is not None:
        yield path, value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
