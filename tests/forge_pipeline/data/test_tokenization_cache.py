"""The key covers what tokenization reads and nothing else, and the cache hands out what was put in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import TokenizedDataset, ingest, tokenize
from forge_pipeline.data.tokenization_cache import (
    TOKENIZATION_MODULES,
    TokenizationCache,
    tokenization_code,
    tokenization_key,
    tokenization_settings,
)
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest

Recipe = Callable[..., ForgeConfig]
Write = Callable[..., Path]
Rows = list[dict[str, Any]]

ROWS, TOKENIZER, TEMPLATE = (Digest.of(name) for name in (b"rows", b"tokenizer", b"template"))

# What a recipe says differently, and whether its rows come out differently.
CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "learning rate": ({"training": {"learning_rate": 1e-3}}, False),
    "epochs": ({"training": {"num_train_epochs": 9}}, False),
    "batch size": ({"training": {"per_device_train_batch_size": 1}}, False),
    "licence": ({"license": "MIT"}, False),
    "how packing would be done if it were": ({"training": {"packing_strategy": "wrapped"}}, False),
    "audit": ({"audit": {"enabled": False}}, False),
    "length": ({"max_length": 140}, True),
    "packing": ({"training": {"packing": True}}, True),
    "packing, the older word": ({"training": {"sample_packing": True}}, True),
    "wrapped packing": ({"training": {"packing": True, "packing_strategy": "wrapped"}}, True),
    "loss on everything": ({"training": {"assistant_only_loss": False}}, True),
    "seed": ({"training": {"seed": 1}}, True),
    "no shuffling": ({"shuffle": False}, True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_key_changes_exactly_when_the_rows_do(
    name: str, recipe: Recipe, write_jsonl: Write, tokenizer: Any, dialogues: Rows, tmp_path: Path
) -> None:
    options, matters = CHANGES[name]
    path = write_jsonl(dialogues)
    before, after = recipe(path), recipe(path, **options)
    keys = [tokenization_key(config, ROWS, TOKENIZER, TEMPLATE) for config in (before, after)]
    raw = ingest(before, tmp_path / "raw")
    made = [
        tokenize(config, raw, tokenizer, tmp_path / folder) for config, folder in ((before, "before"), (after, "after"))
    ]
    assert (keys[0] != keys[1]) is matters
    assert (made[0].digest != made[1].digest) is matters


OTHER: dict[str, dict[str, Any]] = {
    "add_eos": {"add_eos": False},
    "completion_only_loss": {"training": {"completion_only_loss": False}},
    "trainer type": {"training": {"trainer_type": "kto"}},
}


@pytest.mark.parametrize("name", OTHER)
def test_what_matters_to_other_rows_is_in_the_key_too(name: str, recipe: Recipe) -> None:
    before, after = recipe("rows.jsonl"), recipe("rows.jsonl", **OTHER[name])
    assert tokenization_key(before, ROWS, TOKENIZER) != tokenization_key(after, ROWS, TOKENIZER)


def test_rows_tokenizer_and_template_are_in_the_key(recipe: Recipe) -> None:
    config, other = recipe("rows.jsonl"), Digest.of(b"other")
    keys = {
        tokenization_key(config, ROWS, TOKENIZER, TEMPLATE),
        tokenization_key(config, other, TOKENIZER, TEMPLATE),
        tokenization_key(config, ROWS, other, TEMPLATE),
        tokenization_key(config, ROWS, TOKENIZER, other),
        tokenization_key(config, ROWS, TOKENIZER),
    }
    assert len(keys) == 5


def test_a_template_file_counts_by_its_content(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    config = recipe("rows.jsonl")
    config = config.model_copy(update={"model": config.model.model_copy(update={"chat_template": str(file)})})
    seen = []
    for text in ("a", "b", "a"):
        file.write_text(text)
        seen.append(tokenization_settings(config)["tokenizer"]["chat_template"])
    assert seen[0] == seen[2] != seen[1]


def test_every_module_whose_code_the_key_names_is_there() -> None:
    import forge_pipeline.data

    there = {path.stem for path in Path(forge_pipeline.data.__file__).parent.glob("*.py")}
    assert set(TOKENIZATION_MODULES) <= there
    assert tokenization_code() == tokenization_code()


@pytest.fixture
def made(tokenized: Callable[..., TokenizedDataset], dialogues: Rows) -> TokenizedDataset:
    return tokenized(dialogues)


def test_what_is_kept_is_handed_out_the_same(made: TokenizedDataset, tmp_path: Path) -> None:
    cache = TokenizationCache(tmp_path / "cache")
    assert not cache.holds(ROWS)
    cache.keep(ROWS, made)
    assert cache.holds(ROWS)
    assert cache.copy(ROWS, tmp_path / "copy").digest == made.digest
    with pytest.raises(FileExistsError):
        cache.copy(ROWS, tmp_path / "copy")


def test_several_that_keep_the_same_at_once_leave_one_whole_entry(made: TokenizedDataset, tmp_path: Path) -> None:
    cache = TokenizationCache(tmp_path / "cache")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.keep(ROWS, made), range(16)))
    assert cache.copy(ROWS, tmp_path / "copy").digest == made.digest
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.name == "digest"]) == 1


def test_an_entry_that_was_changed_is_refused_and_not_handed_out(made: TokenizedDataset, tmp_path: Path) -> None:
    cache = TokenizationCache(tmp_path / "cache")
    cache.keep(ROWS, made)
    (file,) = (tmp_path / "cache").rglob("train.parquet")
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(IntegrityError, match=r"was changed after it was made\. Delete the directory"):
        cache.copy(ROWS, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
