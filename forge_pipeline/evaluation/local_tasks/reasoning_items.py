"""Questions that the package reasoning-gym makes from a seed, and its own scores of the answers."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = ("chain_sum", "simple_equations", "syllogism", "leg_counting", "number_sequence", "gcd")
_OF_EACH = 20
_SEED = 20240


def dataset(**_: Any) -> "dict[str, Dataset]":
    """The rows, as lm-eval asks for them: kind, question, answer, and the package's own entry as JSON.

    Raises:
        OptionalDependencyError: reasoning-gym is not installed.
    """
    from datasets import Dataset

    rows = []
    for entries in zip(*map(_generator, KINDS), strict=True):  # in turn, so that the first few are of every kind
        for kind, entry in zip(KINDS, entries, strict=True):
            row = {"kind": kind, "question": entry["question"], "answer": str(entry["answer"])}
            rows.append({**row, "entry": json.dumps(entry, default=str, sort_keys=True)})
    return {"test": Dataset.from_list(rows)}


def process_results(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """The package's score of the first line of the answer, from 0 to 1."""
    lines = results[0].strip().splitlines()
    answer = lines[0].strip() if lines else None
    score = float(_generator(doc["kind"]).score_answer(answer, json.loads(doc["entry"])))
    return {"reasoning_score": min(1.0, max(0.0, score))}


@cache
def _generator(kind: str) -> Any:
    gym = require("reasoning_gym", extra="rewards", purpose="Procedural reasoning tasks")
    return gym.create_dataset(kind, size=_OF_EACH, seed=_SEED)
