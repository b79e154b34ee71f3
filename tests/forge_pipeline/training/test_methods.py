"""The table of trainer types against the installed TRL, and against the recipe's own list."""

from dataclasses import replace
from typing import get_args

import pytest

from forge_pipeline.config.training import TrainerType
from forge_pipeline.errors import OptionalDependencyError
from forge_pipeline.training.methods import METHODS, load_classes


def test_every_trainer_type_of_the_recipe_has_a_row() -> None:
    assert set(METHODS) == set(get_args(TrainerType))


@pytest.mark.parametrize("trainer_type", METHODS)
def test_the_installed_trl_has_both_classes(trainer_type: str) -> None:
    trainer, config = load_classes(METHODS[trainer_type])
    assert (trainer.__name__, config.__name__) == (METHODS[trainer_type].trainer, METHODS[trainer_type].config)


@pytest.mark.parametrize(
    "changes", [{"module": "trl.experimental.gone"}, {"trainer": "GoneTrainer"}], ids=["module", "class"]
)
def test_what_trl_no_longer_has_is_an_error_with_the_version_and_the_pip_line(changes: dict) -> None:
    with pytest.raises(OptionalDependencyError, match=r"trl 1\..*pip install 'forge-pipeline\[train\]'"):
        load_classes(replace(METHODS["orpo"], **changes))
