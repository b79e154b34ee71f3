"""The ways to fine-tune: one row a `trainer_type`. Everything that differs between them is here.

TRL keeps SFT, DPO, KTO and GRPO stable; ORPO and SimPO (CPO with its loss) live in
`trl.experimental` and may move or go in any release, so a class that cannot be imported
is an error that names the version found.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from forge_pipeline.config.training import TrainerType, TrainingSection
from forge_pipeline.errors import OptionalDependencyError


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Attributes:
        module, trainer, config: Where TRL keeps the trainer and its arguments.
        dataset_type: In TRL's words.
        columns: What a row must have; further columns reach the rewards of GRPO and are dropped elsewhere.
        arguments: What this method's configuration takes beside the common arguments.
        limits_length: Whether it takes `max_length`.
        groups_by_length: Whether rows can be batched by length: KTO pairs neighbours, GRPO repeats prompts.
        needs_reference: Whether it compares with the base model, of which a full fine-tune needs a second copy.
        evaluates: Whether an evaluation loss means something.
    """

    module: str
    trainer: str
    config: str
    dataset_type: str
    columns: tuple[str, ...]
    arguments: Callable[[TrainingSection], dict[str, Any]] = field(default=lambda training: {})
    limits_length: bool = True
    groups_by_length: bool = False
    needs_reference: bool = False
    evaluates: bool = True


METHODS: dict[TrainerType, Method] = {
    "sft": Method(
        module="trl",
        trainer="SFTTrainer",
        config="SFTConfig",
        dataset_type="language modeling or prompt-completion",
        columns=("input_ids", "labels"),
        arguments=lambda training: {
            # Rows arrive tokenized, with the loss mask in their labels.
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "packing": training.uses_packing,
            "packing_strategy": training.packing_strategy,
            # Position ids that begin anew with each row keep packed rows apart; TRL makes them for "bfd" only.
            "padding_free": training.uses_packing,
        },
        groups_by_length=True,
    ),
    "dpo": Method(
        module="trl",
        trainer="DPOTrainer",
        config="DPOConfig",
        dataset_type="preference",
        columns=("prompt", "chosen", "rejected"),
        arguments=lambda training: {"beta": training.dpo_beta},
        groups_by_length=True,
        needs_reference=True,
    ),
    "kto": Method(
        module="trl",
        trainer="KTOTrainer",
        config="KTOConfig",
        dataset_type="unpaired preference",
        columns=("prompt", "completion", "label"),
        arguments=lambda training: {"beta": training.kto_beta},
        needs_reference=True,
    ),
    "orpo": Method(
        module="trl.experimental.orpo",
        trainer="ORPOTrainer",
        config="ORPOConfig",
        dataset_type="preference",
        columns=("prompt", "chosen", "rejected"),
        arguments=lambda training: {"beta": training.orpo_beta, "remove_unused_columns": False},
        groups_by_length=True,
    ),
    "simpo": Method(
        module="trl.experimental.cpo",
        trainer="CPOTrainer",
        config="CPOConfig",
        dataset_type="preference",
        columns=("prompt", "chosen", "rejected"),
        arguments=lambda training: {
            "loss_type": "simpo",
            "remove_unused_columns": False,
            "cpo_alpha": 0.0,
            "beta": training.simpo_beta,
            "simpo_gamma": training.simpo_gamma,
        },
        groups_by_length=True,
    ),
    "grpo": Method(
        module="trl",
        trainer="GRPOTrainer",
        config="GRPOConfig",
        dataset_type="prompt-only",
        columns=("prompt",),
        arguments=lambda training: {
            "num_generations": training.grpo_num_generations,
            "max_completion_length": training.grpo_max_completion_length,
        },
        limits_length=False,
        evaluates=False,
    ),
}


def load_classes(method: Method) -> tuple[type, type]:
    """Import a method's trainer class and configuration class.

    Raises:
        OptionalDependencyError: TRL is not installed, or the installed version has no such class.
    """
    # TRL warns at every import of an experimental trainer; the module docstring above is our word on it.
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        module = import_module(method.module)
        return getattr(module, method.trainer), getattr(module, method.config)
    except (ImportError, AttributeError, RuntimeError) as error:  # TRL's lazy modules wrap ImportError in RuntimeError
        raise OptionalDependencyError(
            f"{method.trainer} cannot be imported from {method.module} ({_trl_version()}): {error}. "
            "Install the versions this release was tested with: pip install 'forge-pipeline[train]'"
        ) from error


def _trl_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"trl {version('trl')}"
    except PackageNotFoundError:
        return "trl is not installed"
