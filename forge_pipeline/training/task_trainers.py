"""What transformers' own trainers need beside TRL's: the adapter put on before, collators, metrics of the task.

Extractive question answering measures exact match and F1 at each evaluation, over whole
questions, however many windows each has. Summaries are written after training, for a part
of the validation documents, because that costs more than all the losses.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.models.answer_scores import exact_match, f1, rouge
from forge_pipeline.models.answering import best_answer, continued
from forge_pipeline.models.heads import Head, train_head_in_float32
from forge_pipeline.training.methods import QUESTION_ANSWERING, SUMMARIZATION, Method

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


def own_keywords(
    config: ForgeConfig, method: Method, keywords: dict[str, Any], validation: "pa.Table | None"
) -> dict[str, Any]:
    """A TRL trainer's keyword arguments, changed for the trainers of transformers.

    Args:
        keywords: With `model`, `processing_class` and `peft_config`, which transformers does not know.
        validation: The tokenized validation split, where there is one.
    """
    if method not in (QUESTION_ANSWERING, SUMMARIZATION):
        return keywords
    keywords = dict(keywords)
    adapter, tokenizer = keywords.pop("peft_config"), keywords["processing_class"]
    if adapter is not None:
        keywords["model"] = _with_adapter(config, keywords["model"], adapter)
    pad = tokenizer.pad_token_id
    if method is SUMMARIZATION:
        from transformers import DataCollatorForSeq2Seq

        keywords["data_collator"] = DataCollatorForSeq2Seq(tokenizer, keywords["model"], label_pad_token_id=IGNORED)
        return keywords
    keywords["data_collator"] = _WindowCollator(0 if pad is None else pad)
    if validation is not None and keywords.get("eval_dataset") is not None:
        keywords["compute_metrics"] = _AnswerMetrics(validation, config.training.max_answer_length)
    return keywords


def prepare_head(model: Any, head: Head) -> None:
    """Let an adapter's head learn in float32, whatever its base is held in."""
    if hasattr(model, "peft_config"):
        train_head_in_float32(model, head)


def rouge_of(
    config: ForgeConfig, model: Any, tokenizer: "PreTrainedTokenizerBase", validation: "pa.Table | None"
) -> dict[str, float]:
    """ROUGE of the summaries that the model writes for the first validation documents; empty without any."""
    limit = config.training.summary_eval_rows
    if config.model.task != "summarization" or validation is None or not limit:
        return {}
    prompts, references = [], []
    for row in validation.slice(0, limit).select(["input_ids", "labels"]).to_pylist():
        ids, labels = row["input_ids"], row["labels"]
        learnt = [label for label in labels if label != IGNORED]
        references.append(str(tokenizer.decode(learnt, skip_special_tokens=True)).strip())
        prompts.append(ids if model.config.is_encoder_decoder else ids[: _first_learnt(labels)])
    summaries = continued(
        model,
        tokenizer,
        prompts,
        max_new_tokens=config.training.summary_max_length,
        batch_size=config.training.per_device_eval_batch_size,
    )
    return {f"eval_{name}": score for name, score in rouge(summaries, references).items()}


def _first_learnt(labels: list[int]) -> int:
    return next(at for at, label in enumerate(labels) if label != IGNORED)


def _with_adapter(config: ForgeConfig, model: Any, adapter: Any) -> Any:
    """As TRL's trainers do it: seeded, and fit to train on a quantized base."""
    from peft import get_peft_model, prepare_model_for_kbit_training
    from transformers import set_seed

    set_seed(config.training.seed)
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, adapter)


class _WindowCollator:
    """Windows of different lengths -> a batch: `input_ids`, `attention_mask` (B, T), positions (B,)."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        width = max(len(row["input_ids"]) for row in rows)

        def padded(values: list[list[int]], filler: int) -> Any:
            return torch.tensor([[*each, *[filler] * (width - len(each))] for each in values])

        ids = [row["input_ids"] for row in rows]
        batch = {"input_ids": padded(ids, self._pad), "attention_mask": padded([[1] * len(each) for each in ids], 0)}
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = padded([row["token_type_ids"] for row in rows], 0)
        for name in ("start_positions", "end_positions"):
            batch[name] = torch.tensor([row[name] for row in rows])
        return batch


class _AnswerMetrics:
    """Exact match and F1 over the questions of a validation split."""

    def __init__(self, validation: "pa.Table", max_answer_length: int) -> None:
        names = ["row", "starts", "stops", "context", "answers"]
        self._windows = validation.select(names).to_pylist()
        self._max_answer_length = max_answer_length

    def __call__(self, prediction: Any) -> dict[str, float]:
        starts, ends = prediction.predictions[:2]
        by_question: dict[int, list[int]] = defaultdict(list)
        for number, window in enumerate(self._windows):
            by_question[window["row"]].append(number)
        matches, overlaps = [], []
        for numbers in by_question.values():
            windows = [self._windows[number] for number in numbers]
            right = windows[0]["answers"]
            found = best_answer(
                windows[0]["context"],
                [list(zip(window["starts"], window["stops"], strict=True)) for window in windows],
                [starts[number] for number in numbers],
                [ends[number] for number in numbers],
                max_answer_length=self._max_answer_length,
            )
            matches.append(exact_match(found.text, right))
            overlaps.append(f1(found.text, right))
        return {"exact_match": sum(matches) / len(matches), "f1": sum(overlaps) / len(overlaps)}
