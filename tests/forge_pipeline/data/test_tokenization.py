"""Raw datasets become what each trainer reads, and every lost token is counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import TokenizedDataset, ingest, tokenize
from forge_pipeline.data.tokenization import tokenizer_digest
from forge_pipeline.errors import DataError

Recipe = Callable[..., ForgeConfig]
Write = Callable[..., Path]
Rows = list[dict[str, Any]]

PREFERENCE: Rows = [{"prompt": f"Pick {i}", "chosen": "yes", "rejected": f"no {i}"} for i in range(20)]


@pytest.fixture
def run(tokenized: Callable[..., TokenizedDataset]) -> Callable[..., TokenizedDataset]:
    return tokenized


def learnt(tokenizer: Any, row: dict[str, Any]) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != -100]))


def test_a_conversation_learns_the_answer_and_its_end(
    run: Callable[..., TokenizedDataset], dialogues: Rows, tokenizer: Any
) -> None:
    dataset = run(dialogues)
    table = dataset.table("train")
    assert [str(table.schema.field(n).type) for n in ("input_ids", "labels", "length")] == [
        "list<element: int32>",
        "list<element: int32>",
        "int32",
    ]
    for row in table.to_pylist():
        assert len(row["input_ids"]) == len(row["labels"]) == row["length"]
        assert learnt(tokenizer, row).startswith("Pull handle ")
        assert learnt(tokenizer, row).endswith("\n\n    twice()<|im_end|>")
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    summary = dataset.summary.splits["train"]
    assert summary.rows == len(table)
    assert summary.tokens == sum(table.column("length").to_pylist())
    assert summary.trained_tokens == sum(label != -100 for row in table.to_pylist() for label in row["labels"])
    assert (summary.truncated, summary.fully_masked) == (0, 0)
    assert dataset.summary.chat_template_digest is not None


STANDARD = {
    "text": ({"text": "def f():\n\treturn  %d\n"}, "def f():\n\treturn  7\n<|im_end|>"),
    "prompt and completion": ({"prompt": "2 + %d =", "completion": " 9"}, " 9<|im_end|>"),
    "question and answer": ({"question": "2 + %d?", "answer": "9"}, "9<|im_end|>"),
}


@pytest.mark.parametrize("name", STANDARD)
def test_text_is_learnt_whole_and_a_completion_without_its_prompt(
    name: str, run: Callable[..., TokenizedDataset], tokenizer: Any
) -> None:
    row, expected = STANDARD[name]
    rows = [{key: value.replace("%d", str(i)) for key, value in row.items()} for i in range(12)]
    dataset = run(rows, split={"validation": 0})
    assert expected in [learnt(tokenizer, row) for row in dataset.table("train").to_pylist()]
    assert (dataset.summary.chat_template_digest is None) == (name != "question and answer")


def test_the_loss_settings_widen_what_is_learnt(run: Callable[..., TokenizedDataset], dialogues: Rows) -> None:
    everything = run(dialogues, "all", training={"assistant_only_loss": False}).summary.splits["train"]
    assert everything.trained_tokens == everything.tokens
    pairs = [{"prompt": f"{i}", "completion": "b"} for i in range(12)]
    whole = run(pairs, "pairs", training={"completion_only_loss": False}).summary.splits["train"]
    assert whole.trained_tokens == whole.tokens


def test_the_end_of_sequence_is_added_only_where_asked(run: Callable[..., TokenizedDataset], tokenizer: Any) -> None:
    dataset = run([{"text": f"line {i}"} for i in range(12)], add_eos=False)
    assert all(row["input_ids"][-1] != tokenizer.eos_token_id for row in dataset.table("train").to_pylist())


def test_long_rows_are_cut_and_counted_and_fully_masked_ones_left_out_and_counted(
    run: Callable[..., TokenizedDataset],
) -> None:
    rows = [{"prompt": f"{i:02}", "completion": "abc"} for i in range(10)]
    rows += [{"prompt": "short", "completion": "x" * 50}, {"prompt": "p" * 30, "completion": "never seen"}]
    dataset = run(rows, max_length=12, split={"validation": 0})
    summary = dataset.summary.splits["train"]
    assert (summary.rows, summary.truncated, summary.fully_masked) == (11, 2, 1)
    assert (summary.max_length_seen, max(dataset.table("train").column("length").to_pylist())) == (56, 12)


def test_a_dataset_of_which_nothing_would_be_learnt_is_refused(
    run: Callable[..., TokenizedDataset], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"nothing is left to learn: all \d+ training rows .*model.max_length"):
        run([{"prompt": "p" * 30 + str(i), "completion": "x"} for i in range(12)], max_length=12)
    assert not (tmp_path / "tokenized").exists()


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_packing_fills_rows_and_keeps_every_token(
    strategy: str, run: Callable[..., TokenizedDataset], dialogues: Rows
) -> None:
    plain = run(dialogues, "plain", max_length=400)
    packed = run(dialogues, "packed", max_length=400, training={"packing": True, "packing_strategy": strategy})
    before, after = plain.summary.splits["train"], packed.summary.splits["train"]
    assert packed.summary.packed
    assert after.rows < before.rows
    assert after.tokens == before.tokens
    for row in packed.table("train").to_pylist():
        assert sum(row["seq_lengths"]) == row["length"] == len(row["input_ids"]) <= 400
    assert after.trained_tokens == sum(x != -100 for row in packed.table("train").to_pylist() for x in row["labels"])


def test_training_rows_are_shuffled_by_content_and_only_when_asked(
    run: Callable[..., TokenizedDataset], dialogues: Rows
) -> None:
    shuffled, again = run(dialogues, "a"), run(dialogues, "b")
    assert shuffled.digest == again.digest
    other_seed, unshuffled = run(dialogues, "c", training={"seed": 1}), run(dialogues, "d", shuffle=False)
    tables = [dataset.table("train").column("input_ids").to_pylist() for dataset in (shuffled, other_seed, unshuffled)]
    assert tables[0] != tables[1] != tables[2]
    assert sorted(tables[0]) == sorted(tables[1]) == sorted(tables[2])


TRAINERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "dpo": ({"prompt": "Pick %d", "chosen": "yes", "rejected": "no"}, {"prompt", "chosen", "rejected", "length"}),
    "orpo": ({"question": "Pick %d", "chosen": "yes", "rejected": "no"}, {"prompt", "chosen", "rejected", "length"}),
    "simpo": (
        {"chosen": [{"role": "user", "content": "%d"}, {"role": "assistant", "content": "a"}],
         "rejected": [{"role": "user", "content": "%d"}, {"role": "assistant", "content": "b"}]},
        {"prompt", "chosen", "rejected", "length"},
    ),
    "kto": ({"prompt": "Pick %d", "completion": "yes", "label": True}, {"prompt", "completion", "label", "length"}),
    "grpo": ({"question": "%d + 1?", "answer": "2"}, {"prompt", "question", "answer", "length"}),
}  # fmt: skip


@pytest.mark.parametrize("trainer_type", TRAINERS)
def test_other_trainers_get_trls_own_columns(trainer_type: str, run: Callable[..., TokenizedDataset]) -> None:
    import json

    row, columns = TRAINERS[trainer_type]
    rows = [json.loads(json.dumps(row).replace("%d", str(i))) for i in range(12)]
    dataset = run(rows, training={"trainer_type": trainer_type}, max_length=8)
    table = dataset.table("train")
    assert set(table.column_names) == columns
    assert str(table.schema.field("length").type) == "int32"
    summary = dataset.summary.splits["train"]
    assert summary.trained_tokens is None
    assert summary.truncated == sum(length > 8 for length in table.column("length").to_pylist())


def test_the_length_of_a_preference_row_is_its_prompt_and_longest_answer(
    run: Callable[..., TokenizedDataset],
) -> None:
    dataset = run(PREFERENCE, training={"trainer_type": "dpo"})
    for row in dataset.table("train").to_pylist():
        assert row["length"] == len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"]))


WRONG = {
    "sft": PREFERENCE,
    "dpo": [{"text": f"{i}"} for i in range(12)],
    "kto": [{"text": f"{i}"} for i in range(12)],
    "grpo": [{"text": f"{i}"} for i in range(12)],
}


@pytest.mark.parametrize("trainer_type", WRONG)
def test_the_wrong_dataset_type_is_refused_with_the_columns_found_and_expected(
    trainer_type: str, run: Callable[..., TokenizedDataset]
) -> None:
    with pytest.raises(DataError) as refused:
        run(WRONG[trainer_type], training={"trainer_type": trainer_type})
    message = str(refused.value)
    assert f"trainer_type '{trainer_type}' learns from" in message
    assert f"(columns {', '.join(WRONG[trainer_type][0])})" in message
    assert "training.trainer_type: " in message


def test_a_template_error_names_split_and_row(
    run: Callable[..., TokenizedDataset], dialogues: Rows, make_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=r"\d+ of 40 rows .*for example split train, row 0: .* end-of-turn token"):
        run(dialogues, tokenizer=make_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}"))


def test_a_tokenizer_keeps_its_digest_when_it_is_used_or_saved_and_loses_it_when_it_changes(
    make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = make_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer("text", truncation=True, max_length=2, padding="max_length")
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(tokenizer) == before
    assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path)) == before
    assert tokenizer_digest(make_tokenizer(merges=(("Ċ", "Ċ"),))) != before


def test_the_real_dialogues_are_tokenized(recipe: Recipe, tokenizer: Any, tmp_path: Path) -> None:
    config = recipe("package:chatterbot_corpus/data/english/conversations.yml", max_length=1024)
    dataset = tokenize(config, ingest(config, tmp_path / "raw"), tokenizer, tmp_path / "tokenized")
    assert sum(split.rows for split in dataset.summary.splits.values()) == 23
    assert all(split.fully_masked == 0 for split in dataset.summary.splits.values())
