"""Planted data: keys and numbers that are well formed and belong to nobody."""

import json
import random
import string
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

WriteRows = Callable[..., Path]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Writes rows as JSONL and returns the path."""

    def write(rows: Iterable[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def sentences() -> Callable[[int], list[str]]:
    """Builds texts of thirty words, no two of them alike; the same ones each time."""

    def build(count: int) -> list[str]:
        draw = random.Random(7)
        words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 9))) for _ in range(3000)]
        return [" ".join(draw.choices(words, k=30)).capitalize() + "." for _ in range(count)]

    return build
