"""Names of optimizers against the installed transformers, and what is refused before anything is loaded."""

from collections.abc import Callable
from typing import Any

import pytest

from forge_pipeline.errors import ConfigError, OptionalDependencyError
from forge_pipeline.training.arguments import check_training
from forge_pipeline.training.optimizers import OPTIMIZERS, optimizer_arguments

# Those that are not offered: GaLore has keys of its own; the others are for devices or packages that are not maintained.
ELSEWHERE = {"adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision"}


def test_the_table_names_what_transformers_knows_and_nothing_else() -> None:
    from transformers.training_args import OptimizerNames

    known = {each.value for each in OptimizerNames if not each.value.startswith("galore_")}
    assert set(OPTIMIZERS) - {"auto"} == known - ELSEWHERE


def test_the_galore_names_of_a_recipe_are_those_of_transformers() -> None:
    from typing import get_args

    from transformers.training_args import OptimizerNames

    from forge_pipeline.config.training import TrainingSection

    ours = get_args(TrainingSection.model_fields["galore_optim"].annotation)
    assert set(ours) == {each.value for each in OptimizerNames if each.value.startswith("galore_")}


GALORE = {"galore_enabled": True}
FULL = {"lora": {"method": "none"}}
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a name that is none": ({"training": {"optim": "adam"}}, ConfigError, r"training.optim: found 'adam'; expected one of auto, adamw_torch"),
    "galore by its bare name": ({"training": {"optim": "galore_adamw"}}, ConfigError, r"write galore_enabled: true and galore_optim: galore_adamw"),
    "galore on an adapter": ({"training": GALORE}, ConfigError, r"GaLore trains every weight.*lora.method: none"),
    "galore and another optimizer": (FULL | {"training": GALORE | {"optim": "sgd"}}, ConfigError, r"found 'sgd' beside galore_enabled"),
    "galore in eight bits": (
        FULL | {"training": GALORE | {"galore_optim": "galore_adamw_8bit"}}, ConfigError, r"galore_adamw_8bit does not work with today's bitsandbytes",
    ),
    "layer by layer with sums": (
        FULL | {"training": GALORE | {"galore_optim": "galore_adamw_layerwise", "gradient_accumulation_steps": 2}}, ConfigError,
        r"gradient_accumulation_steps: galore_adamw_layerwise updates each layer at once",
    ),
    "apollo on an adapter": ({"training": {"optim": "apollo_adamw"}}, ConfigError, r"apollo_adamw projects the gradients of whole weights"),
    "a package that is not there": ({"training": {"optim": "grokadamw"}}, OptionalDependencyError, r"needs the module 'grokadamw'.*pip install"),
    "no padding in a preference trainer": ({"training": {"trainer_type": "dpo", "padding_free": True}}, ConfigError, r"padding_free: only sft takes it"),
}  # fmt: skip


@pytest.mark.parametrize(("sections", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_step_is_refused(
    sections: dict, error: type[Exception], words: str, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "grokadamw" else find_spec(name))
    with pytest.raises(error, match=words):
        check_training(recipe(**sections))


@pytest.mark.parametrize("missing", ["galore_torch", "bitsandbytes"])
def test_galore_names_the_package_that_it_lacks(
    missing: str, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """galore-torch imports bitsandbytes, whichever of its optimizers is asked for."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(OptionalDependencyError, match=rf"needs the module '{missing}'.*pip install 'forge-pipeline\["):
        check_training(recipe(**FULL, training=GALORE))


def test_auto_is_fused_where_that_is_one_kernel(recipe: Callable) -> None:
    assert optimizer_arguments(recipe(), "cpu") == {"optim": "adamw_torch"}
    assert optimizer_arguments(recipe(), "cuda") == {"optim": "adamw_torch_fused"}
