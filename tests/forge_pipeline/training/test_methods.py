"""The table of trainer types against the installed TRL, and against the recipe's own list."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from forge_pipeline.config.training import TrainerType
from forge_pipeline.data.schemas import TRAINER_DATASET_TYPES
from forge_pipeline.errors import OptionalDependencyError
from forge_pipeline.training.methods import METHODS, check_still_there, load_classes, method_for


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


def test_a_method_whose_module_trl_has_dropped_is_refused_before_anything_is_imported(tmp_path, monkeypatch) -> None:
    import sys

    package = tmp_path / "trlike"
    (package / "experimental" / "orpo").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_still_there(replace(METHODS["orpo"], module="trlike.experimental.orpo"))
    with pytest.raises(OptionalDependencyError, match=r"there is no trlike\.experimental\.cpo"):
        check_still_there(replace(METHODS["simpo"], module="trlike.experimental.cpo"))
    check_still_there(replace(METHODS["orpo"], module="not_installed_at_all.experimental"))
    assert "trlike" not in sys.modules


@pytest.mark.parametrize("trainer_type", METHODS)
def test_every_trainer_type_is_still_in_the_installed_trl(trainer_type: str) -> None:
    check_still_there(METHODS[trainer_type])


TASKS = {
    "summaries by an encoder-decoder": ({"model": {"task": "summarization"}}, True, "Seq2SeqTrainer"),
    "summaries by a causal model": ({"model": {"task": "summarization"}}, False, "SFTTrainer"),
    "extractive questions": ({"model": {"task": "extractive-question-answering"}}, False, "Trainer"),
    "rlhf": ({"training": {"trainer_type": "rlhf"}}, False, "RLOOTrainer"),
    "rlhf by grpo": ({"training": {"trainer_type": "rlhf", "rlhf_algorithm": "grpo"}}, False, "GRPOTrainer"),
}


@pytest.mark.parametrize(("sections", "encoder_decoder", "trainer"), TASKS.values(), ids=TASKS)
def test_a_recipe_finds_its_row_by_trainer_type_and_task(
    sections: dict, encoder_decoder: bool, trainer: str, recipe: Callable
) -> None:
    method = method_for(recipe(**sections), encoder_decoder=encoder_decoder)
    assert method.trainer == trainer
    load_classes(method)


@pytest.mark.parametrize("trainer_type", METHODS)
def test_the_dataset_type_of_each_row_is_one_that_tokenization_lets_through(trainer_type: str) -> None:
    allowed = TRAINER_DATASET_TYPES[trainer_type]
    named = METHODS[trainer_type].dataset_type.split(" or ")
    assert set(named) & set(allowed)
    assert set(TRAINER_DATASET_TYPES) == set(METHODS)
