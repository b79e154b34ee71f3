"""Every row and token that is left out, cut, made one or unknown is counted, and a person is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.data import TokenizedDataset
from forge_pipeline.errors import DataError

Run = Callable[..., TokenizedDataset]
Make = Callable[..., Any]
Rows = list[dict[str, Any]]

PREFERENCE: Rows = [{"prompt": f"Pick {i}", "chosen": "yes", "rejected": f"no {i}"} for i in range(20)]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def learnt(tokenizer: Any, row: dict[str, Any]) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != -100]))


def test_answers_with_a_label_are_not_paired_by_us(tokenized: Run) -> None:
    rows = [{"prompt": f"{i}", "completion": "a", "label": True} for i in range(12)]
    with pytest.raises(DataError, match=r"Answers with a label are not paired .*trainer_type: kto"):
        tokenized(rows, training={"trainer_type": "dpo"})


def test_steps_are_named_and_no_trainer_type_is_offered_for_them(tokenized: Run) -> None:
    rows = [{"prompt": f"{i}", "completions": ["a"], "labels": [True]} for i in range(12)]
    with pytest.raises(DataError, match=r"this is stepwise supervision data .*no trainer type learns from it yet"):
        tokenized(rows)


def test_kto_learns_from_preference_pairs_taken_apart(tokenized: Run) -> None:
    dataset = tokenized(PREFERENCE, training={"trainer_type": "kto"}, split={"validation": 0})
    rows = dataset.table("train").to_pylist()
    assert sorted((row["prompt"], row["completion"], row["label"]) for row in rows) == sorted(
        (row["prompt"], row[name], name == "chosen") for row in PREFERENCE for name in ("chosen", "rejected")
    )
    assert dataset.summary.splits["train"].rows_added == 20
    assert any("20 pairs were taken apart" in note for note in dataset.summary.notes)


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def test_tools_reach_trl_and_count_in_the_length(tokenized: Run, make_tokenizer: Make) -> None:
    with_tools = make_tokenizer("{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{i}"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
            "tools": TOOLS,
        }
        for i in range(12)
    ]
    row = tokenized(rows, training={"trainer_type": "dpo"}, tokenizer=with_tools).table("train").to_pylist()[0]
    assert json.loads(row["tools"]) == TOOLS
    text = with_tools.apply_chat_template([*row["prompt"], *row["chosen"]], tools=TOOLS, tokenize=False)
    assert row["length"] == len(with_tools(text, add_special_tokens=False)["input_ids"])


def test_calls_that_arrow_would_change_are_refused_for_trl(tokenized: Run, make_tokenizer: Make) -> None:
    def answer(name: str) -> list[dict[str, Any]]:
        call = {"function": {"name": "f", "arguments": {name: 1}}}
        return [{"role": "assistant", "content": "", "tool_calls": [call]}]

    rows = [
        {"prompt": [{"role": "user", "content": f"{i}"}], "chosen": answer("ab"[i % 2]), "rejected": answer("c")}
        for i in range(12)
    ]
    tokenizer = make_tokenizer(
        CHATML.replace("m.content +", "m.content + (m.tool_calls | tojson if m.tool_calls else '') +")
    )
    with pytest.raises(DataError, match="columns chosen hold values of different kinds"):
        tokenized(rows, training={"trainer_type": "dpo"}, tokenizer=tokenizer)


def test_a_prompt_that_changes_once_it_is_answered_is_refused_for_preferences_too(
    tokenized: Run, make_tokenizer: Make
) -> None:
    rows = [{"question": f"{i}", "chosen": "a", "rejected": "b"} for i in range(12)]
    with pytest.raises(DataError, match="renders the prompt differently once an answer follows"):
        tokenized(rows, training={"trainer_type": "dpo"}, tokenizer=make_tokenizer("{{ messages | length }}" + CHATML))


def test_a_few_rows_that_the_template_refuses_are_left_out_and_named(
    tokenized: Run, make_tokenizer: Make, dialogues: Rows
) -> None:
    refuses = "{% if 'drawer 7?' in messages[0].content %}{{ raise_exception('no sevens') }}{% endif %}"
    dataset = tokenized(dialogues, tokenizer=make_tokenizer(refuses + CHATML), split={"validation": 0}, shuffle=False)
    summary = dataset.summary
    assert summary.unused_count == summary.splits["train"].unused == 1
    assert [(each.split, each.row) for each in summary.unused] == [("train", 7)]
    assert "no sevens" in summary.unused[0].reason
    assert (summary.splits["train"].rows_in, summary.splits["train"].rows) == (40, 39)


def test_more_than_a_tenth_of_such_rows_is_an_error(tokenized: Run, make_tokenizer: Make, dialogues: Rows) -> None:
    refuses = "{% if '7' in messages[0].content or '3' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    with pytest.raises(DataError, match=r"\d+ of 40 rows cannot be tokenized.*more than a tenth; for example split"):
        tokenized(dialogues, tokenizer=make_tokenizer(refuses + CHATML))


def test_turns_that_a_template_renders_differently_later_are_rows_of_their_own(
    tokenized: Run, make_tokenizer: Make
) -> None:
    forgetful = make_tokenizer(
        CHATML.replace(
            "m.content +", "('<think></think>' if m.role == 'assistant' and loop.last else '') + m.content +"
        )
    )
    turns = [{"role": ("user", "assistant")[i % 2], "content": "abcdef"[i]} for i in range(6)]
    rows = [{"messages": [{"role": "system", "content": f"{i}"}, *turns]} for i in range(12)]
    dataset = tokenized(rows, tokenizer=forgetful, split={"validation": 0})
    summary = dataset.summary
    assert (summary.splits["train"].rows, summary.splits["train"].rows_added) == (36, 24)
    assert {learnt(forgetful, row) for row in dataset.table("train").to_pylist()} == {
        f"<think></think>{word}<|im_end|>" for word in "bdf"
    }
    assert any("24 turns are learnt in rows of their own" in note for note in summary.notes)


def test_tool_results_are_never_learnt(tokenized: Run, make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer(
        CHATML.replace("m.content +", "m.content + (m.tool_calls | tojson if m.tool_calls else '') +")
    )
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"Weather {i}?"},
                {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"day": i}})},
                {"from": "observation", "value": "secretly sunny"},
                {"from": "gpt", "value": "Sunny."},
            ]
        }
        for i in range(12)
    ]
    for row in tokenized(rows, tokenizer=tokenizer).table("train").to_pylist():
        text = learnt(tokenizer, row)
        assert '"name": "weather"' in text
        assert text.endswith("Sunny.<|im_end|>")
        assert "secretly" not in text


def test_lengths_before_and_after_are_told_with_what_was_lost(tokenized: Run) -> None:
    rows = [{"prompt": f"{i:02}", "completion": "abc"} for i in range(10)]
    rows += [{"prompt": "short", "completion": "x" * 50}, {"prompt": "p" * 30, "completion": "never seen"}]
    summary = tokenized(rows, max_length=12, split={"validation": 0}).summary
    train = summary.splits["train"]
    assert train.length_histogram == ((8, 10), (64, 2))
    assert train.truncated_tokens == (56 - 12) + (41 - 12)
    assert (train.max_length_kept, train.mean_length_kept) == (12, (10 * 6 + 12) / 11)
    assert any("2 rows are longer than 12 tokens and lost 73 tokens" in note for note in summary.notes)


def test_special_tokens_are_told_and_a_doubled_end_is_made_one(tokenized: Run, tokenizer: Any, dialogues: Rows) -> None:
    for row in dialogues[:5]:
        row["messages"][1]["content"] += "<|im_end|>"
    dataset = tokenized(dialogues, split={"validation": 0})
    summary = dataset.summary
    assert summary.splits["train"].repeated_special_tokens == 5
    assert all(learnt(tokenizer, row).count("<|im_end|>") == 1 for row in dataset.table("train").to_pylist())
    assert summary.special_tokens is not None
    assert summary.special_tokens.end_of_turn == ("<|im_end|>",)
    assert (summary.special_tokens.eos, summary.special_tokens.embedding_rows) == ("<|im_end|>", None)
    assert any("5 special tokens stood twice" in note for note in summary.notes)


def test_a_turn_that_does_not_end_with_the_end_of_sequence_is_told(
    tokenized: Run, make_tokenizer: Make, dialogues: Rows
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    notes = " ".join(tokenized(dialogues, tokenizer=tokenizer).summary.notes)
    assert "turns end with <|im_end|>, but the tokenizer's end-of-sequence token is <|endoftext|>" in notes
    assert "<|endoftext|> is the padding token and the end-of-sequence token" in notes


def test_a_beginning_that_row_and_tokenizer_both_write_is_made_one(tokenized: Run, make_tokenizer: Make) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    dataset = tokenized([{"text": f"<|im_start|>line {i}"} for i in range(12)], tokenizer=tokenizer)
    assert all(row["input_ids"][:2].count(begin) == 1 for row in dataset.table("train").to_pylist())


def test_tokens_without_a_row_in_the_models_embedding_are_refused(
    tokenized: Run, dialogues: Rows, make_tokenizer: Make, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"vocab_size": len(tokenizer)}))
    tokenizer.name_or_path = str(tmp_path / "model")
    special = tokenized(dialogues, "fits", tokenizer=tokenizer).summary.special_tokens
    assert special is not None
    assert special.embedding_rows == special.vocabulary == len(tokenizer)
    tokenizer.add_tokens(["<|extra|>"])
    with pytest.raises(DataError, match=r"the model's embedding has \d+ rows: <\|extra\|> would be beyond its end"):
        tokenized(dialogues, "beyond", tokenizer=tokenizer)


def test_unknown_tokens_are_counted(tokenized: Run) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    rows = [{"text": f"a b word{i}"} for i in range(12)]
    summary = tokenized(rows, tokenizer=words, split={"validation": 0}).summary
    assert summary.splits["train"].unknown_tokens == 12
    assert any("12 tokens (25.00%) are unknown" in note for note in summary.notes)


def test_packing_says_how_full_rows_are_and_whether_they_see_each_other(tokenized: Run, dialogues: Rows) -> None:
    bfd, wrapped = (
        tokenized(dialogues, name, max_length=400, training={"packing": True, "packing_strategy": name}).summary
        for name in ("bfd", "wrapped")
    )
    assert (bfd.packing_strategy, bfd.cross_contamination) == ("bfd", "none")
    assert (wrapped.packing_strategy, wrapped.cross_contamination) == ("wrapped", "none")
    for summary in (bfd, wrapped):
        train = summary.splits["train"]
        assert train.packing_fill == train.tokens / (train.rows * 400)
    assert tokenized(dialogues, "plain").summary.cross_contamination is None


WORK: dict[str, tuple[str, dict[str, Any]]] = {
    "conversations": (
        "sft",
        {"messages": [{"role": "user", "content": "%d?"}, {"role": "assistant", "content": "%s"}]},
    ),
    "preferences": ("dpo", {"prompt": "%d?", "chosen": "%s", "rejected": "no"}),
}


@pytest.mark.parametrize("kind", WORK)
def test_the_result_is_the_same_for_any_number_of_workers(kind: str, tokenized: Run) -> None:
    trainer_type, row = WORK[kind]
    pattern = json.dumps(row)
    rows = [json.loads(pattern.replace("%d", str(i)).replace("%s", "ab" * (i % 40 + 1))) for i in range(1200)]
    options: dict[str, Any] = {
        "training": {"trainer_type": trainer_type},
        "split": {"keep_together": "same_words"},
        "max_length": 150,
    }
    assert tokenized(rows, "one", **options).digest == tokenized(rows, "two", workers=2, **options).digest


def test_a_broken_row_far_down_is_named_by_its_number(tokenized: Run, make_tokenizer: Make) -> None:
    refuses = "{% if messages[0].content == '700' %}{{ raise_exception('no') }}{% endif %}"
    rows = [{"question": f"{i}", "answer": "a"} for i in range(900)]
    summary = tokenized(
        rows,
        tokenizer=make_tokenizer(refuses + CHATML),
        split={"validation": 0, "keep_together": "same_words"},
    ).summary
    assert [(each.split, each.row) for each in summary.unused] == [("train", 700)]


def test_repeats_of_a_row_do_not_stand_side_by_side_in_training(tokenized: Run) -> None:
    rows = [{"text": "again"}] * 30 + [{"text": f"row {i}"} for i in range(30)]
    dataset = tokenized(rows, split={"validation": 0, "keep_together": "same_words"})
    ids = dataset.table("train").column("input_ids").to_pylist()
    assert len(ids) == 60
    again = [i for i, row in enumerate(ids) if ids.count(row) > 1]
    assert len(again) == 30
    assert again[-1] - again[0] > 40
