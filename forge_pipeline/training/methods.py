"""The ways to fine-tune: one row a `trainer_type` or task. Everything that differs between them is here.

TRL keeps SFT, DPO, KTO, Reward, RLOO and GRPO stable; ORPO and SimPO (CPO with its loss) live in
`trl.experimental` and may move or go in any release, so a class that cannot be imported
is an error that names the version found. The two tasks that no trainer of TRL knows are
transformers' own.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forge_pipeline.config import ForgeConfig
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
        packs: Whether rows can be packed.
        generates: Whether it learns from completions that it samples itself, from rewards.
        metrics: What its report shows beside the losses.
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
    packs: bool = False
    generates: bool = False
    metrics: tuple[str, ...] = ()


def _packing(training: TrainingSection) -> dict[str, Any]:
    return {
        # Rows arrive tokenized, with the loss mask in their labels.
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "packing": training.uses_packing,
        "packing_strategy": training.packing_strategy,
        # Position ids that begin anew with each row keep packed rows apart; TRL makes them for "bfd" only.
        "padding_free": training.uses_packing,
    }


def _sampling(training: TrainingSection, beta: float) -> dict[str, Any]:
    return {
        "num_generations": training.grpo_num_generations,
        "max_completion_length": training.grpo_max_completion_length,
        "temperature": training.grpo_temperature,
        "beta": beta,
    }


_REWARDS = ("reward", "reward_std", "kl", "entropy", "completions/mean_length")
_PAIRS = ("eval_rewards/accuracies", "eval_rewards/margins")

METHODS: dict[TrainerType, Method] = {
    "sft": Method(
        module="trl",
        trainer="SFTTrainer",
        config="SFTConfig",
        dataset_type="language modeling or prompt-completion",
        columns=("input_ids", "labels"),
        arguments=_packing,
        groups_by_length=True,
        packs=True,
        metrics=("eval_perplexity", "eval_mean_token_accuracy"),
    ),
    "pretraining": Method(
        module="trl",
        trainer="SFTTrainer",
        config="SFTConfig",
        dataset_type="language modeling",
        columns=("input_ids", "labels"),
        arguments=_packing,
        packs=True,
        metrics=("eval_perplexity", "eval_mean_token_accuracy"),
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
        metrics=_PAIRS,
    ),
    "kto": Method(
        module="trl",
        trainer="KTOTrainer",
        config="KTOConfig",
        dataset_type="unpaired preference",
        columns=("prompt", "completion", "label"),
        arguments=lambda training: {"beta": training.kto_beta},
        needs_reference=True,
        metrics=("eval_rewards/chosen", "eval_rewards/rejected", "eval_rewards/margins"),
    ),
    "orpo": Method(
        module="trl.experimental.orpo",
        trainer="ORPOTrainer",
        config="ORPOConfig",
        dataset_type="preference",
        columns=("prompt", "chosen", "rejected"),
        arguments=lambda training: {"beta": training.orpo_beta, "remove_unused_columns": False},
        groups_by_length=True,
        metrics=_PAIRS,
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
        metrics=_PAIRS,
    ),
    "grpo": Method(
        module="trl",
        trainer="GRPOTrainer",
        config="GRPOConfig",
        dataset_type="prompt-only",
        columns=("prompt",),
        arguments=lambda training: {
            **_sampling(training, training.grpo_beta),
            "reward_weights": training.grpo_reward_weights,
        },
        limits_length=False,
        evaluates=False,
        generates=True,
        metrics=_REWARDS,
    ),
    "reward": Method(
        module="trl",
        trainer="RewardTrainer",
        config="RewardConfig",
        dataset_type="preference",
        columns=("prompt", "chosen", "rejected"),
        arguments=lambda training: {"center_rewards_coefficient": training.reward_center_coefficient},
        groups_by_length=True,
        metrics=("eval_accuracy", "eval_margin", "eval_mean_reward"),
    ),
    # The policy; its reward model is the row above, trained first (see `rlhf`).
    "rlhf": Method(
        module="trl",
        trainer="RLOOTrainer",
        config="RLOOConfig",
        dataset_type="preference",
        columns=("prompt", "chosen", "rejected"),
        arguments=lambda training: _sampling(training, training.rlhf_beta),
        limits_length=False,
        evaluates=False,
        generates=True,
        metrics=_REWARDS,
    ),
}

SUMMARIZATION = Method(
    module="transformers",
    trainer="Seq2SeqTrainer",
    config="Seq2SeqTrainingArguments",
    dataset_type="prompt-completion",
    columns=("input_ids", "labels"),
    arguments=lambda training: {"label_names": ["labels"]},
    limits_length=False,
    groups_by_length=True,
    metrics=("eval_rouge1", "eval_rouge2", "eval_rougeL", "eval_rougeLsum"),
)
"""Encoder-decoder models; a causal model learns summaries as the row ``sft`` does, with the document masked."""

QUESTION_ANSWERING = Method(
    module="transformers",
    trainer="Trainer",
    config="TrainingArguments",
    dataset_type="prompt-completion",
    columns=("input_ids", "start_positions", "end_positions"),
    arguments=lambda training: {"label_names": ["start_positions", "end_positions"]},
    limits_length=False,
    groups_by_length=True,
    metrics=("eval_exact_match", "eval_f1"),
)


def method_for(config: ForgeConfig, *, encoder_decoder: bool = False) -> Method:
    """The row that a recipe trains by.

    Args:
        encoder_decoder: Whether the rows were tokenized for an encoder-decoder model.
    """
    training = config.training
    if config.model.task == "extractive-question-answering":
        return QUESTION_ANSWERING
    if config.model.task == "summarization":
        return SUMMARIZATION if encoder_decoder else replace(METHODS["sft"], metrics=SUMMARIZATION.metrics)
    if training.trainer_type == "rlhf" and training.rlhf_algorithm == "grpo":
        return replace(METHODS["rlhf"], trainer="GRPOTrainer", config="GRPOConfig")
    return METHODS[training.trainer_type]


def check_still_there(method: Method) -> None:
    """Refuse a method whose module the installed TRL has dropped; looks at files only, nothing is imported.

    Where TRL is not installed (a service that only starts training elsewhere) there is nothing to refuse.

    Raises:
        OptionalDependencyError: TRL is installed and lacks the module.
    """
    package, *parts = method.module.split(".")
    found = find_spec(package)
    places = (found.submodule_search_locations if found else None) or []
    if places and not any(_holds(Path(place, *parts)) for place in places):
        raise OptionalDependencyError(_gone(method, f"there is no {method.module}"))


def _holds(place: Path) -> bool:
    return place.is_dir() or place.with_suffix(".py").is_file()


def _gone(method: Method, reason: str) -> str:
    return (
        f"{method.trainer} cannot be imported from {method.module} ({_trl_version()}): {reason}. "
        "Install the versions this release was tested with: pip install 'forge-pipeline[train]'"
    )


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
        raise OptionalDependencyError(_gone(method, str(error))) from error


def _trl_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"trl {version('trl')}"
    except PackageNotFoundError:
        return "trl is not installed"
