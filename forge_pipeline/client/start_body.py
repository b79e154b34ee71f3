"""The start body as a type: what `start_training`, `queue_job` and `validate` take. The server states the ranges."""

from typing import Literal, Required, TypedDict


class StartBody(TypedDict, total=False):
    """A training. Only `task`, `model_name` and `dataset` are required."""

    task: Required[Literal["text-generation", "summarization", "extractive-question-answering"]]
    model_name: Required[str]
    dataset: Required[str]
    provider: Literal["huggingface", "unsloth"]
    strategy: Literal["sft", "qlora", "rlhf", "dpo", "kto", "orpo", "simpo", "grpo", "reward", "pretraining"]
    compute_specs: Literal["low_end", "mid_range", "high_end"] | None
    device: Literal["auto", "cuda", "mps", "cpu"]
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    use_4bit: bool | None
    use_8bit: bool
    bnb_4bit_compute_dtype: Literal["float16", "bfloat16", "float32"] | None
    bnb_4bit_quant_type: Literal["nf4", "fp4"]
    use_nested_quant: bool
    fp16: bool
    bf16: bool
    num_train_epochs: int
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool | None
    max_grad_norm: float
    learning_rate: float
    weight_decay: float
    optim: str
    lr_scheduler_type: Literal["linear", "cosine", "constant", "polynomial"]
    max_steps: int
    warmup_ratio: float
    group_by_length: bool | None
    packing: bool
    max_seq_length: int | None
    use_chat_template: bool
    eval_split: float
    eval_steps: int


class GenerateOptions(TypedDict, total=False):
    """How to generate; all of it may be left out."""

    context: str
    completion: str
    max_new_tokens: int
    temperature: float
    top_p: float
    base: bool
    system: str
    stop: list[str]
    seed: int


class ChatOptions(TypedDict, total=False):
    """How to continue a conversation; all of it may be left out."""

    max_completion_tokens: int
    temperature: float
    top_p: float
    stop: str | list[str]
    seed: int
