"""Batched generation: conversations in, answers out. Shared by safety, judge and playground.

Prompts are rendered through the tokenizer's chat template and padded on the left, so
that every row's last token is the one the answer follows. Equal input gives equal
output on the same machine and libraries; sampling draws from a generator seeded here
and leaves the caller's random state as it was. The model and tokenizer are returned
as they came: mode, padding side and generation config are not changed, and the
sampling settings and penalties of the model's own generation config do not apply.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from forge_pipeline.errors import EvaluationError
from forge_pipeline.models.allocator import keeping_freed_memory
from forge_pipeline.models.devices import pick_device

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Conversation = list[dict[str, str]]
T = TypeVar("T")


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int = 8,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """The model's answer to each conversation, in order, without special tokens.

    Args:
        model: A causal language model, on whatever device it lies.
        tokenizer: Its tokenizer, with a chat template.
        conversations: Messages with role and content; the last one is usually the user's.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 is greedy; above 0 samples.
        top_p: Nucleus of the sampling distribution, in (0, 1]; unused when greedy.
        batch_size: Conversations per forward pass.
        seed: Of the sampling; unused when greedy.
        on_batch: Called after each batch with the number of conversations done so far.

    Raises:
        EvaluationError: There is no chat template or it refuses a conversation, or a
            prompt leaves no room for `max_new_tokens` in the model's context.
    """
    import torch

    if not conversations:
        return []
    prompts = [render(tokenizer, conversation) for conversation in conversations]
    lengths = [len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    _check_room(model, lengths, max_new_tokens)
    # Longest first: neighbours are alike, so little is padded, and a batch that does not fit fails at once.
    order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
    settings = _settings(model, tokenizer, max_new_tokens, temperature, top_p)
    answers = [""] * len(prompts)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), _evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, answer in zip(rows, _answers(model, tokenizer, [prompts[i] for i in rows], settings), strict=True):
                answers[row] = answer
            if on_batch:
                on_batch(start + len(rows))
    return answers


def render(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> str:
    """The prompt text whose continuation is the assistant's next turn.

    Raises:
        EvaluationError: There is no chat template, or it refuses this conversation.
    """
    if not tokenizer.chat_template:
        raise EvaluationError(
            "the tokenizer has no chat template; set model.chat_template to a Jinja template or its path"
        )
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program and may raise anything
        roles = [message.get("role") for message in conversation]
        raise EvaluationError(f"the chat template refuses a conversation with the roles {roles}: {error}") from error
    return str(text)


def with_loaded(
    load: Callable[[], tuple["PreTrainedModel", "PreTrainedTokenizerBase"]],
    use: Callable[["PreTrainedModel", "PreTrainedTokenizerBase"], T],
) -> T:
    """Load, use, let go: base and tuned model never share the memory."""
    import torch

    with keeping_freed_memory(pick_device()):
        model, tokenizer = load()
        try:
            return use(model, tokenizer)
        finally:
            del model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _answers(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: list[str], settings: "GenerationConfig"
) -> list[str]:
    # The template has already written the special tokens. input_ids, attention_mask: (B, T).
    batch = tokenizer(
        prompts,
        add_special_tokens=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        return_token_type_ids=False,
    )
    batch = batch.to(model.device)
    output: torch.Tensor = model.generate(**batch, generation_config=settings)  # (B, T + at most max_new_tokens)
    # An encoder-decoder writes into a row of its own, which begins with the decoder's start token.
    new = output if model.config.is_encoder_decoder else output[:, batch["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def _settings(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> "GenerationConfig":
    """What was asked for, spelled out, because transformers fills what is left open from the model's own config."""
    from transformers import GenerationConfig

    # Greedy decoding wants the sampling fields at the library's defaults, or it warns that they have no effect.
    sampling: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_length=0,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        typical_p=1.0,
        use_cache=True,
        eos_token_id=_stop_tokens(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        **sampling,
    )


def _stop_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int] | None:
    """The model's own stop tokens and the tokenizer's: a chat model's end of turn may stand in either."""
    own: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stops = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    return sorted(stops) or None


def _check_room(model: "PreTrainedModel", lengths: list[int], max_new_tokens: int) -> None:
    room = getattr(model.config, "max_position_embeddings", None)
    if room is None:
        return
    for index, length in enumerate(lengths):
        if length + max_new_tokens > room:
            raise EvaluationError(
                f"conversation {index} has {length} tokens, which with max_new_tokens {max_new_tokens} exceeds "
                f"the model's context of {room}; shorten it or lower max_new_tokens"
            )


@contextmanager
def _evaluating(model: "PreTrainedModel") -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
