"""`forge synthesize`: rows from a recipe's teacher, and the code it ends with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Forge = Callable[..., Any]


@pytest.fixture
def recipe(forge: Forge, tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe whose teacher is a file with answers to "One?" and "Two?"."""
    (tmp_path / "answers.jsonl").write_text(
        '{"prompt": "One?", "response": "1"}\n{"prompt": "Two?", "response": "2"}\n'
    )

    def write(**keys: Any) -> Path:
        section = {"enabled": True, "teacher_backend": "file", "teacher_model": "answers.jsonl"}
        sections: dict[str, Any] = {"model": {"name_or_path": "b"}, "lora": {}, "training": {}}
        sections |= {
            "data": {"dataset_name_or_path": "x"},
            "synthetic": section | {"seed_prompts": ["One?", "Two?"]} | keys,
        }
        file = tmp_path / "taught.yaml"
        file.write_text(yaml.safe_dump(sections))
        return file

    return write


def test_rows_are_written_where_the_recipe_or_the_caller_says(
    forge: Forge, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    done = forge("synthesize", recipe(output_file="from_recipe.jsonl"))
    assert (done.code, done.out.splitlines()[0]) == (0, "from_recipe.jsonl  2 rows")
    assert "2 of 2 prompts answered" in done.out
    assert "synthetic  2/2  2 answered, 0 failed" in done.err
    assert forge("synthesize", recipe(), "--output", "asked/for.jsonl", "--quiet").err == ""
    assert (tmp_path / "asked" / "for.jsonl").read_bytes() == (tmp_path / "from_recipe.jsonl").read_bytes()


def test_json_holds_the_whole_result(forge: Forge, recipe: Callable[..., Path]) -> None:
    done = forge("synthesize", recipe(seed_prompts=["One?", "Six?"]), "--json")
    result = json.loads(done.out)
    assert (done.code, result["successful"], result["failed"], result["rows"]) == (0, 1, 1, 1)
    assert result["errors"] == ["prompt 2: the file holds no response to this prompt; add one, or take the prompt out"]


def test_failures_are_named(forge: Forge, recipe: Callable[..., Path]) -> None:
    done = forge("synthesize", recipe(seed_prompts=["One?", *(f"{n}?" for n in range(30))], sanity_failure_rate=1.0))
    assert done.code == 0
    assert "failed: prompt 2: the file holds no response" in done.out
    assert "and 10 more" in done.out
    assert "run again to ask those that failed" in done.out


CODES: dict[str, tuple[dict[str, Any], int, str]] = {
    "not enabled": ({"enabled": False}, 1, "synthetic.enabled is false"),
    "no such file": ({"teacher_model": "nowhere.jsonl"}, 1, "there is no file 'nowhere.jsonl'"),
    "an unknown key": ({"concurency": 3}, 1, "did you mean 'concurrency'?"),
    "too few answers": ({"seed_prompts": ["One?", "Six?"], "min_success_rate": 1.0}, 1, "1 of 2 prompts are answered"),
    "no answer": ({"seed_prompts": ["Six?"]}, 2, ""),
}


@pytest.mark.parametrize("case", CODES)
def test_codes(case: str, forge: Forge, recipe: Callable[..., Path]) -> None:
    keys, code, words = CODES[case]
    done = forge("synthesize", recipe(**keys), "-q")
    assert done.code == code
    assert words in done.err
