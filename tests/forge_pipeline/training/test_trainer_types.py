"""Every trainer type and task from rows to a model directory that loads again, in two steps on models of two layers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, TokenizedDataset, ingest, tokenize
from forge_pipeline.errors import ConfigError, DataError, ModelError
from forge_pipeline.integrity import Manifest
from forge_pipeline.models import load_tokenizer, load_tuned
from forge_pipeline.models.answering import answer, summarize
from forge_pipeline.progress import Progress
from forge_pipeline.training import fine_tune
from forge_pipeline.training.fine_tune import FineTune
from forge_pipeline.training.methods import method_for

Rows = list[dict[str, Any]]

COLORS = ["red", "green", "blue", "white", "black", "brown", "gray", "pink", "gold", "cyan", "teal", "navy"]
PREFERENCES: Rows = [
    {"prompt": f"Name the color {i}.", "chosen": f"It is {color}.", "rejected": f"No idea {i}"}
    for i, color in enumerate(COLORS)
]
CHAT_PREFERENCES: Rows = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in PREFERENCES
]
TEXTS: Rows = [{"text": f"The house number {i} is {color}. " * (1 + i % 5)} for i, color in enumerate(COLORS)]
DOCUMENTS: Rows = [
    {
        "document": f"The house {i} is painted {color}. It stands by a river and has {i} windows.",
        "summary": f"A {color} house.",
    }
    for i, color in enumerate(COLORS)
]
QUESTIONS: Rows = [
    {
        "question": "What color is it?",
        "context": f"The house {i} stands by the river. It is {color}. It has {i} windows.",
        "answers": {"text": [color], "answer_start": [len(f"The house {i} stands by the river. It is ")]},
    }
    for i, color in enumerate(COLORS)
]
QA_WORDS = [text for row in QUESTIONS for text in (row["question"], row["context"])]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a word-piece tokenizer that puts [CLS] and [SEP] around two texts, and types them."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words.train_from_iterator(QA_WORDS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("tiny-bert")
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def t5(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder that was taught a prefix, with the llama's tokenizer and no chat template."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template, tokenizer.pad_token = None, "<|endoftext|>"
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        task_specific_params={"summarization": {"prefix": "summarize: "}},
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("tiny-t5")
    T5ForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., tuple[RawDataset, TokenizedDataset]]:
    """Ingests and tokenizes rows as the pipeline does."""

    def build(config: ForgeConfig, rows: Rows, name: str = "rows") -> tuple[RawDataset, TokenizedDataset]:
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = config.model_copy(update={"data": config.data.model_copy(update={"dataset_name_or_path": str(file)})})
        raw = ingest(config, tmp_path / f"{name}-raw")
        return raw, tokenize(config, raw, load_tokenizer(config), tmp_path / f"{name}-tokens")

    return build


@pytest.fixture
def trained(prepared: Callable, tmp_path: Path) -> Callable[..., FineTune]:
    """Rows -> a fine-tune."""

    def train(config: ForgeConfig, rows: Rows, name: str = "model", **options: Any) -> FineTune:
        raw, tokens = prepared(config, rows, name)
        return fine_tune(config, tokens, raw.digest, tmp_path / name, **options)

    return train


SPLIT = {"split": {"validation": 0.25}}
WHOLE = {"split": {"validation": 0.0}}
SAMPLING = {"grpo_num_generations": 2, "grpo_max_completion_length": 4}
CASES: dict[str, tuple[Rows, dict[str, Any]]] = {
    "pretraining": (TEXTS, {"trainer_type": "pretraining"}),
    "pretraining, wrapped": (TEXTS, {"trainer_type": "pretraining", "packing_strategy": "wrapped"}),
    "reward": (PREFERENCES, {"trainer_type": "reward"}),
    "reward, conversational": (CHAT_PREFERENCES, {"trainer_type": "reward", "reward_center_coefficient": 0.01}),
    "rlhf": (PREFERENCES, {"trainer_type": "rlhf", "rlhf_reward_max_steps": 2} | SAMPLING),
    "rlhf by grpo": (
        CHAT_PREFERENCES,
        {"trainer_type": "rlhf", "rlhf_algorithm": "grpo", "rlhf_reward_max_steps": 2} | SAMPLING,
    ),
}


@pytest.mark.parametrize(("rows", "training"), CASES.values(), ids=CASES)
def test_a_trainer_type_learns_from_its_rows_and_its_model_loads_again(
    rows: Rows, training: dict[str, Any], recipe: Callable, trained: Callable
) -> None:
    config = recipe(training=training, data=SPLIT)
    done = trained(config, rows)
    assert done.report.steps == 2
    assert done.report.trainer_class == f"trl.{method_for(config).trainer}"
    assert done.report.train_loss is not None
    load_tuned(config, done.model)
    shown = set(done.report.metrics)
    assert set(method_for(config).metrics) <= shown, sorted(shown)


# -- reward models -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "none"])
def test_a_reward_model_learns_its_pairs_and_serves_as_the_reward_of_grpo(
    method: str, recipe: Callable, trained: Callable, tmp_path: Path
) -> None:
    from forge_pipeline.training.rewards import build_rewards

    training = {"trainer_type": "reward", "max_steps": 25, "learning_rate": 2e-2, "per_device_train_batch_size": 4}
    lora = {"method": method, "target_modules": ["all-linear"]}
    config = recipe(training=training, lora=lora, data=SPLIT, model={"dtype": "float32"})
    done = trained(config, CHAT_PREFERENCES)
    assert done.model.record.kind == ("full" if method == "none" else "adapter")
    assert done.model.record.head == "sequence-classification"
    assert done.report.metrics["eval_accuracy"] == 1.0

    policy = recipe(training={"trainer_type": "grpo", "grpo_reward_model": str(done.model.path)})
    (reward,) = build_rewards(policy, ["prompt"]).functions
    prompts = [row["prompt"] for row in CHAT_PREFERENCES]
    good, bad = (reward(prompts, [row[name] for row in CHAT_PREFERENCES]) for name in ("chosen", "rejected"))
    assert all(chosen > rejected for chosen, rejected in zip(good, bad, strict=True))


def test_the_score_is_trained_and_saved_whole_in_float32_whatever_the_base_is_held_in(
    recipe: Callable, trained: Callable
) -> None:
    from safetensors.torch import load_file

    config = recipe(training={"trainer_type": "reward", "warmup_ratio": 0}, model={"dtype": "bfloat16"})
    done = trained(config, PREFERENCES)
    weights = load_file(done.model.path / "adapter_model.safetensors")
    (score,) = [weight for name, weight in weights.items() if "score" in name]
    assert str(score.dtype) == "torch.float32"
    assert score.shape == (1, 32)
    adapter = json.loads((done.model.path / "adapter_config.json").read_text())
    assert (adapter["task_type"], adapter["modules_to_save"]) == ("SEQ_CLS", ["classifier", "score"])


def test_plain_text_is_scored_as_the_reward_model_was_trained_with_its_end_of_sequence(
    recipe: Callable, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    from forge_pipeline.training.reward_models import _ids

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = _ids(tokenizer, "Name a color.", " It is red.")
    assert ids[-1] == tokenizer.eos_token_id
    assert _ids(tokenizer, "Name a color.", " It is red." + tokenizer.eos_token) == ids


def test_a_model_without_a_trained_score_is_no_reward_model(
    recipe: Callable, trained: Callable, tiny_model: Path
) -> None:
    from forge_pipeline.training.rewards import build_rewards

    grpo = {"trainer_type": "grpo", "grpo_reward_model": str(tiny_model)}
    with pytest.raises(ModelError, match=r"is no reward model: score.weight is not among its weights"):
        build_rewards(recipe(training=grpo), ["prompt"])
    done = trained(recipe(), [{"prompt": f"{i}?", "completion": color} for i, color in enumerate(COLORS)])
    with pytest.raises(ModelError, match="trained with trainer_type sft and gives no scores"):
        build_rewards(recipe(training=grpo | {"grpo_reward_model": str(done.model.path)}), ["prompt"])


def test_grpo_weighs_its_rewards(recipe: Callable, trained: Callable) -> None:
    training = {
        "trainer_type": "grpo", "grpo_reward_functions": ["valid_json", "regex=(?i)color"],
        "grpo_reward_weights": [1.0, 0.25], "grpo_temperature": 0.7, "grpo_beta": 0.1,
    }  # fmt: skip
    rows = [{"prompt": row["prompt"], "answer": "x"} for row in PREFERENCES]
    done = trained(recipe(training=training | SAMPLING), rows)
    assert {"rewards/valid_json/mean", "rewards/regex_reward/mean", "kl"} <= set(done.report.metrics)
    assert done.report.arguments["reward_weights"] == [1.0, 0.25]
    assert (done.report.arguments["temperature"], done.report.arguments["beta"]) == (0.7, 0.1)


# -- rlhf ----------------------------------------------------------------------------------------

RLHF = {"trainer_type": "rlhf", "rlhf_reward_max_steps": 4, "save_steps": 1, "max_steps": 3} | SAMPLING


def test_rlhf_keeps_its_reward_model_beside_and_says_how_good_it_is(
    recipe: Callable, trained: Callable, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    work = tmp_path / "work"
    done = trained(recipe(training=RLHF, data=SPLIT), PREFERENCES, work_dir=work, progress=seen.append)
    from forge_pipeline.models import ModelDirectory

    reward = ModelDirectory.open(work / "reward_model")
    assert reward.record.trainer_type == "reward"
    assert done.model.record.trainer_type == "rlhf"
    assert done.model.record.head == "causal-lm"
    about = done.report.reward_model
    assert about is not None
    assert about.digest == reward.digest
    assert about.steps == 4
    assert about.held_out_pairs > 0
    assert about.accuracy is not None
    assert 0 <= about.accuracy <= 1
    assert "rewards/reward_model/mean" in done.report.metrics
    said = [moment.message for moment in seen]
    assert "reward model: training" in said
    assert "training" in said


def test_without_a_validation_split_a_tenth_of_the_prompts_is_held_out_with_all_their_pairs(
    recipe: Callable, trained: Callable, tmp_path: Path
) -> None:
    rows = [*PREFERENCES, *({**row, "rejected": "Nothing."} for row in PREFERENCES)]
    work = tmp_path / "work"
    done = trained(recipe(training=RLHF | {"max_steps": 1}, data=WHOLE), rows, work_dir=work)
    pairs = TokenizedDataset.open(work / "reward_pairs")
    learnt, held_out = ({row["prompt"] for row in pairs.table(split).to_pylist()} for split in ("train", "validation"))
    assert len(held_out) == 1
    assert not learnt & held_out
    assert done.report.reward_model is not None
    assert done.report.reward_model.held_out_pairs == 2


@pytest.mark.parametrize("stage", ["reward model: training", "training"], ids=["in the reward model", "in the policy"])
def test_rlhf_that_was_interrupted_and_resumed_gives_the_same_bytes(
    stage: str, recipe: Callable, prepared: Callable, tmp_path: Path
) -> None:
    config = recipe(training=RLHF)
    raw, tokens = prepared(config, PREFERENCES)

    def interrupt(moment: Progress) -> None:
        if moment.message == stage and moment.step == 2 and moment.metrics:
            raise KeyboardInterrupt

    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(config, tokens, raw.digest, tmp_path / "model", work_dir=work, progress=interrupt)
    assert (work / "reward_model").is_dir() == (stage == "training")
    resumed = fine_tune(config, tokens, raw.digest, tmp_path / "model", work_dir=work, resume_from_checkpoint=True)
    straight = fine_tune(config, tokens, raw.digest, tmp_path / "straight" / "model", work_dir=tmp_path / "work2")
    manifests = [Manifest.of_directory(done.model.path) for done in (resumed, straight)]
    assert manifests[0].differences(manifests[1]) == []


def test_a_changed_policy_setting_trains_no_new_reward_model_and_a_changed_base_setting_does(
    recipe: Callable, prepared: Callable, tmp_path: Path
) -> None:
    config, work = recipe(training=RLHF), tmp_path / "work"
    raw, tokens = prepared(config, PREFERENCES)
    trained_again = []
    for number, training in enumerate(({}, {"grpo_temperature": 0.5}, {"rlhf_reward_learning_rate": 1e-3})):
        seen: list[str] = []
        changed = recipe(training=RLHF | training | {"max_steps": 1})
        fine_tune(
            changed, tokens, raw.digest, tmp_path / str(number), work_dir=work,
            progress=lambda moment, seen=seen: seen.append(moment.message),
        )  # fmt: skip
        trained_again.append("reward model: training" in seen)
    assert trained_again == [True, False, True]


def test_rlhf_on_every_weight_compares_with_the_base_model(recipe: Callable, trained: Callable) -> None:
    done = trained(recipe(training=RLHF | {"max_steps": 1}, lora={"method": "none"}), PREFERENCES)
    assert done.model.record.kind == "full"
    assert "kl" in done.report.metrics


# -- pretraining ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_pretraining_learns_every_token_of_every_text_once_and_ends_each(
    strategy: str, recipe: Callable, prepared: Callable
) -> None:
    training = {"trainer_type": "pretraining", "packing_strategy": strategy}
    config = recipe(training=training, model={"max_length": 16}, data=WHOLE)
    _, tokens = prepared(config, TEXTS)
    tokenizer = load_tokenizer(config)
    wanted = sorted(token for row in TEXTS for token in [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id])
    rows = tokens.table("train").to_pylist()
    assert sorted(token for row in rows for token in row["input_ids"]) == wanted
    assert max(len(row["input_ids"]) for row in rows) <= 16
    for row in rows:
        starts = {sum(row["seq_lengths"][:number]) for number in range(len(row["seq_lengths"]))}
        expected = [-100 if at in starts else token for at, token in enumerate(row["input_ids"])]
        assert row["labels"] == expected
    summary = tokens.summary.splits["train"]
    assert (summary.truncated, summary.truncated_tokens, summary.unused) == (0, 0, 0)


# -- summarization -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "none"])
def test_an_encoder_decoder_learns_summaries_and_writes_them(
    method: str, t5: Path, recipe: Callable, trained: Callable
) -> None:
    config = recipe(
        model={"name_or_path": str(t5), "task": "summarization"},
        lora={"method": method, "target_modules": ["q", "v"]},
        training={"summary_max_length": 8},
        data=SPLIT,
    )
    done = trained(config, DOCUMENTS)
    assert done.report.trainer_class == "transformers.Seq2SeqTrainer"
    assert done.model.record.head == "seq2seq-lm"
    assert done.model.record.task == "summarization"
    assert {"eval_loss", "eval_rouge1", "eval_rouge2", "eval_rougeL", "eval_rougeLsum"} <= set(done.report.metrics)
    model, tokenizer = load_tuned(config, done.model)
    written = summarize(model, tokenizer, ["A red house.", "A blue house by a river."], max_length=64, max_new_tokens=4)
    assert len(written) == 2


def test_an_encoder_decoder_reads_documents_after_the_prefix_of_its_own_configuration(
    t5: Path, recipe: Callable, prepared: Callable
) -> None:
    config = recipe(
        model={"name_or_path": str(t5), "task": "summarization", "max_length": 24},
        training={"summary_max_length": 6},
        data=WHOLE,
    )
    _, tokens = prepared(config, DOCUMENTS)
    tokenizer = load_tokenizer(config)
    row = tokens.table("train").to_pylist()[0]
    assert tokenizer.decode(row["input_ids"]).startswith("summarize: The house")
    assert len(row["input_ids"]) == 24
    assert len(row["labels"]) == 6
    assert row["labels"][-1] == tokenizer.eos_token_id
    assert tokens.summary.splits["train"].truncated == len(DOCUMENTS)


@pytest.mark.parametrize("template", [True, False], ids=["chat template", "no template"])
def test_a_causal_model_learns_the_summary_alone_and_a_long_document_loses_its_end(
    template: bool, recipe: Callable, trained: Callable, prepared: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    if not template:
        (base / "chat_template.jinja").unlink()
    config = recipe(
        model={"name_or_path": str(base), "task": "summarization", "max_length": 60},
        training={"summary_max_length": 4},
        data=SPLIT,
    )
    rows = [{**row, "document": row["document"] * 3} for row in DOCUMENTS]
    _, tokens = prepared(config, rows, "tokens")
    tokenizer = load_tokenizer(config)
    assert (tokenizer.chat_template is not None) == template
    for row in tokens.table("train").to_pylist():
        learnt = tokenizer.decode([label for label in row["labels"] if label != -100], skip_special_tokens=True)
        assert learnt.strip() in {each["summary"] for each in DOCUMENTS}
        assert len(row["input_ids"]) <= 60
        read = tokenizer.decode(row["input_ids"], skip_special_tokens=False)
        assert ("\n\nSummary:\n" in read) == (not template)
    summary = tokens.summary.splits["train"]
    assert summary.truncated == summary.rows
    assert summary.max_length_seen > 60

    done = trained(config, rows)
    assert done.report.trainer_class == "trl.SFTTrainer"
    assert {"eval_rouge1", "eval_rougeL"} <= set(done.report.metrics)
    model, tokenizer = load_tuned(config, done.model)
    assert len(summarize(model, tokenizer, [rows[0]["document"]], max_length=60, max_new_tokens=4)) == 1


# -- extractive question answering ---------------------------------------------------------------


def test_a_span_head_learns_to_answer_from_the_context(bert: Path, recipe: Callable, trained: Callable) -> None:
    config = recipe(
        model={"name_or_path": str(bert), "task": "extractive-question-answering"},
        lora={"method": "none"},
        training={"max_steps": 60, "learning_rate": 5e-3, "per_device_train_batch_size": 6, "warmup_ratio": 0},
        data=SPLIT,
    )
    done = trained(config, QUESTIONS)
    assert done.model.record.head == "question-answering"
    assert done.report.metrics["eval_exact_match"] == 1.0
    assert done.report.metrics["eval_f1"] == 1.0
    model, tokenizer = load_tuned(config, done.model)
    context = "The house 3 stands by the river. It is gold. It has 3 windows."
    found = answer(model, tokenizer, "What color is it?", context, max_length=64)
    assert (found.text, context[found.start : found.stop]) == ("gold", "gold")
    assert found.score > 0


@pytest.mark.parametrize("base", ["bert", "llama"])
def test_an_adapter_learns_spans_over_windows_of_a_long_context(
    base: str, bert: Path, tiny_model: Path, recipe: Callable, trained: Callable
) -> None:
    config = recipe(
        model={"name_or_path": str(bert if base == "bert" else tiny_model), "task": "extractive-question-answering",
               "max_length": 24 if base == "bert" else 60},
        lora={"target_modules": ["all-linear"]},
        training={"doc_stride": 6},
        data=SPLIT,
    )  # fmt: skip
    rows = [{**row, "context": row["context"] + " And so on." * 8} for row in QUESTIONS]
    done = trained(config, rows)
    assert {"eval_exact_match", "eval_f1", "eval_loss"} <= set(done.report.metrics)
    adapter = json.loads((done.model.path / "adapter_config.json").read_text())
    assert adapter["task_type"] == "QUESTION_ANS"
    assert "qa_outputs" in adapter["modules_to_save"]
    model, tokenizer = load_tuned(config, done.model)
    found = answer(
        model, tokenizer, rows[0]["question"], rows[0]["context"], max_length=config.model.max_length, stride=6
    )
    assert found.text == rows[0]["context"][found.start : found.stop]


# -- bad input -----------------------------------------------------------------------------------

QA = {"task": "extractive-question-answering"}
REFUSED: dict[str, tuple[dict[str, Any], Rows, type[Exception], str]] = {
    "preferences for pretraining": (
        {"training": {"trainer_type": "pretraining"}}, PREFERENCES, DataError,
        r"'pretraining' learns from language modeling data .* but this is preference data",
    ),
    "a conversation for pretraining": (
        {"training": {"trainer_type": "pretraining"}},
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3, DataError,
        r"learns all of a plain text \(column text\), but this is conversational data \(columns messages\)",
    ),
    "texts for a reward model": (
        {"training": {"trainer_type": "reward"}}, TEXTS, DataError,
        r"'reward' learns from preference data \(columns prompt, chosen and rejected\)",
    ),
    "preferences without a chosen answer": (
        {"training": {"trainer_type": "rlhf"}}, [{**row, "chosen": None} for row in PREFERENCES], DataError,
        r"'rlhf' learns from preference data",
    ),
    "both answers the same": (
        {"training": {"trainer_type": "dpo"}}, [{**row, "rejected": row["chosen"]} for row in PREFERENCES], DataError,
        r"line 1: chosen and rejected are the same",
    ),
    "a label that is no verdict": (
        {"training": {"trainer_type": "kto"}},
        [{"prompt": "a", "completion": f"b{i}", "label": "perhaps"} for i in range(10)], DataError,
        r"'kto' learns from unpaired preference",
    ),
    "answers too long to be scored": (
        {"training": {"trainer_type": "reward"}, "model": {"max_length": 8}}, PREFERENCES, DataError,
        r"tokens long; a reward model scores whole answers: raise model.max_length",
    ),
    "questions without a context": (
        {"model": QA}, [{"question": "a?", "answer": f"b{i}"} for i in range(10)], DataError,
        r"learns from rows with context, question.* but these have the columns answer, question|columns question, answer",
    ),
    "answers that are not in their context": (
        {"model": QA}, [{"question": "a?", "context": "b c", "answer": f"d{i}"} for i in range(10)], DataError,
        r"the answer 'd0' does not stand in the context",
    ),
    "a conversation of many turns to summarize": (
        {"model": {"task": "summarization"}},
        [{"messages": [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]}] * 3,
        DataError, r"is no document with its summary",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sections", "rows", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_rows_that_do_not_fit_are_one_error_before_a_model_is_loaded(
    sections: dict[str, Any], rows: Rows, error: type[Exception], words: str, recipe: Callable, prepared: Callable
) -> None:
    with pytest.raises(error, match=words):
        prepared(recipe(**sections), rows)


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "a task and a trainer type that cannot learn it": (
        {"model": QA, "training": {"trainer_type": "dpo"}}, "is learnt with training.trainer_type sft, not dpo",
    ),
    "packed questions": ({"model": QA, "training": {"packing": True}}, "are not packed; remove it"),
}  # fmt: skip


@pytest.mark.parametrize(("sections", "words"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_that_contradicts_itself_is_refused(sections: dict[str, Any], words: str, recipe: Callable) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe(**sections)


def test_an_empty_training_split_is_named(recipe: Callable, prepared: Callable, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    config = recipe(training={"trainer_type": "reward"})
    raw, tokens = prepared(config, PREFERENCES)
    file = tokens.path / "train.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    summary = json.loads((tokens.path / "summary.json").read_text())
    summary["splits"]["train"]["rows"] = 0
    (tokens.path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="has no rows, so there is nothing to train on"):
        fine_tune(config, TokenizedDataset.open(tokens.path), raw.digest, tmp_path / "model")


def test_a_base_model_of_another_architecture_is_refused_by_the_weights_that_would_be_noise(
    bert: Path, tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    from forge_pipeline.models.heads import load_with_head

    mixed = tmp_path / "mixed"
    shutil.copytree(bert, mixed)
    shutil.copy(tiny_model / "model.safetensors", mixed / "model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit BertForQuestionAnswering: \d+ of its weights are not there"):
        load_with_head(str(mixed), "question-answering", local_files_only=True)


# -- what comes after training -------------------------------------------------------------------

MERGED: dict[str, tuple[str, Rows, dict[str, Any]]] = {
    "reward": ("llama", PREFERENCES, {"training": {"trainer_type": "reward"}}),
    "extractive questions": ("bert", QUESTIONS, {"model": QA, "lora": {"target_modules": ["query", "value"]}}),
    "extractive questions to a causal model": ("llama", QUESTIONS, {"model": QA}),
    "summaries": ("t5", DOCUMENTS, {"model": {"task": "summarization"}, "lora": {"target_modules": ["q", "v"]}}),
}


@pytest.mark.parametrize(("base", "rows", "sections"), MERGED.values(), ids=MERGED)
def test_a_merged_model_gives_what_the_adapter_on_its_base_gives(
    base: str, rows: Rows, sections: dict[str, Any], bert: Path, t5: Path, tiny_model: Path, recipe: Callable,
    trained: Callable, tmp_path: Path,
) -> None:  # fmt: skip
    import torch

    from forge_pipeline.models import merge

    path = {"bert": bert, "t5": t5, "llama": tiny_model}[base]
    model = {"name_or_path": str(path), "dtype": "float32", "max_length": 96} | sections.get("model", {})
    training = {"learning_rate": 5e-2, "warmup_ratio": 0, "summary_eval_rows": 0} | sections.get("training", {})
    config = recipe(**(sections | {"model": model, "training": training}))
    done = trained(config, rows)
    merged = merge(config, done.model, tmp_path / "merged")
    assert merged.record.kind == "full"
    assert merged.record.head == done.model.record.head
    inputs = {"input_ids": torch.arange(4, 20)[None]}
    if base == "t5":
        inputs["decoder_input_ids"] = torch.arange(4, 9)[None]
    outputs = []
    for directory in (done.model, merged):
        tuned, _ = load_tuned(config, directory)
        with torch.no_grad():
            found = tuned(**inputs)
        outputs.append(found.start_logits if "start_logits" in found else found.logits)
    assert torch.allclose(*outputs, atol=1e-4)


def test_two_runs_of_one_task_give_the_same_bytes(
    bert: Path, recipe: Callable, prepared: Callable, tmp_path: Path
) -> None:
    config = recipe(model=QA | {"name_or_path": str(bert)}, lora={"target_modules": ["query"]}, data=SPLIT)
    raw, tokens = prepared(config, QUESTIONS)
    runs = [fine_tune(config, tokens, raw.digest, tmp_path / name / "model") for name in ("a", "b")]
    manifests = [Manifest.of_directory(done.model.path) for done in runs]
    assert manifests[0].differences(manifests[1]) == []
