"""The card of a model that has no bundle: what its own record and the registry say, and that nothing more is known.

A model with a bundle has the bundle's card, which says what was measured and decided. Like that one, this says no
language and no licence of the result, and nothing that would change with time or place.
"""

from typing import Any

from forge_pipeline.annex_iv.model_card import PIPELINE_TAGS
from forge_pipeline.errors import ForgeError
from forge_pipeline.models.directory import ModelDirectory, ModelRecord
from forge_pipeline.registry import ModelRow


def plain_card(row: ModelRow, model: ModelDirectory, name: str) -> str:
    """Markdown with the front matter that the Hugging Face Hub reads.

    Args:
        row: The registry's row.
        model: Its directory.
        name: What the model is called.
    """
    import yaml

    record = _record(model)
    front = yaml.safe_dump(_front_matter(row, record), sort_keys=False, allow_unicode=True)
    trained = [f"- {key.replace('_', ' ')}: {value}" for key, value in sorted(row.training_params.items())]
    measured = [f"- {key}: {value:.6g}" for key, value in sorted(row.metrics.items())]
    facts = [f"- model: `{row.uid}`", *([] if record is None else _digests(record))]
    return "\n".join(
        [
            f"---\n{front.strip()}\n---",
            f"# {name}",
            "",
            f"Fine-tuned from {_base(row, record)} for {row.task} by {row.strategy}. No gate beyond those of its "
            "training was decided about it, and its provider has stated no purpose, limits or licence.",
            *(["", "## Training", "", *trained] if trained else []),
            *(["", "## Measured while training", "", *measured] if measured else []),
            *["", "## Digests", "", *facts, ""],
        ]
    )


def _record(model: ModelDirectory) -> ModelRecord | None:
    """None for a directory that this library did not write."""
    try:
        return model.record
    except ForgeError:
        return None


def _front_matter(row: ModelRow, record: ModelRecord | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if record is not None:
        values["library_name"] = "peft" if record.kind == "adapter" else "transformers"
        values["pipeline_tag"] = PIPELINE_TAGS[record.head]
        if (
            record.base_model.source == "hub"
        ):  # the field holds Hub ids; a path of this machine would mean nothing there
            values["base_model"] = record.base_model.name_or_path
            values["base_model_relation"] = "adapter" if record.kind == "adapter" else "finetune"
    return values | {"tags": [row.strategy]}


def _base(row: ModelRow, record: ModelRecord | None) -> str:
    """Of a local base model its folder's name alone: a card tells nobody how this machine's disk is laid out."""
    base = record.base_model if record else None
    name = base.name_or_path if base else row.base_model
    if base is None or base.source == "local":
        name = name.rstrip("/").rsplit("/", 1)[-1]
    revision = f" at revision `{base.revision_resolved}`" if base and base.revision_resolved else ""
    return f"{name}{revision}"


def _digests(record: ModelRecord) -> list[str]:
    return [
        f"- recipe: `{record.config_digest}`",
        f"- dataset: `{record.dataset_digest}`",
        f"- tokenized dataset: `{record.tokenized_digest}`",
    ]
