"""The `model:` section: which base model, how it is loaded."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from forge_pipeline.config._base import Section
from forge_pipeline.config.base_line import BaseLine, check_pin, parse_base_line

Dtype = Literal["auto", "bfloat16", "bf16", "float16", "fp16", "float32", "fp32"]

Task = Literal["text-generation", "summarization", "extractive-question-answering"]


def check_revision(value: str | None) -> str | None:
    """A Hub revision that git and the Hub accept, or None."""
    if value is None:
        return None
    if not value.strip() or value.startswith("-") or len(value) > 255 or any(ord(c) < 33 for c in value):
        raise ValueError(
            "expected a commit SHA, tag or branch: 1 to 255 printable characters, no space, no leading '-'"
        )
    return value


class MoeSection(Section):
    """Mixture-of-experts base models: adapters on the experts too, not on the attention layers alone."""

    quantize_experts: bool = False
    """Only false is possible: bitsandbytes quantizes linear layers, and experts are fused into one weight each."""
    experts_to_train: str = "all"
    """``all``, ``none``, or numbers such as ``0,3,5``: the experts of every layer that learn."""

    @field_validator("experts_to_train")
    @classmethod
    def _are_experts(cls, value: str) -> str:
        if value not in ("all", "none") and not re.fullmatch(r"\d{1,4}( *, *\d{1,4})*", value):
            raise ValueError("expected all, none, or expert numbers with commas between them, for example '0,3,5'")
        return value

    @property
    def expert_numbers(self) -> tuple[int, ...] | None:
        """The experts that learn, ascending; None where all do."""
        if self.experts_to_train == "all":
            return None
        named = () if self.experts_to_train == "none" else self.experts_to_train.split(",")
        return tuple(sorted({int(number) for number in named}))


class MultimodalSection(Section):
    """Vision-language base models."""

    enabled: bool = False
    image_column: str = "image"
    text_column: str = "text"


class ModelSection(Section):
    """Which base model, and how it is loaded."""

    name_or_path: str = Field(min_length=1)
    """A Hub id, a local directory, ``package:<module>/<file>`` for weights that a Python package ships, or
    ``line:<name>`` for the model that another line has released; ``line:<name>@<alias>`` is what an alias means."""
    task: Task = "text-generation"
    """What the model is for. Summarization takes encoder-decoder or causal models, extractive question answering puts
    a span head on the base model; both are trained with ``training.trainer_type: sft``."""
    revision: str | None = None
    """Hub revision; resolved to a commit SHA and recorded. Of another line's model: the digest of its directory; a run
    that names none looks the alias up once, and its recipe holds the digest from then on."""
    allow_unreleased: bool = False
    """With ``line:``: also take a model that was not released. None that failed a gate is taken."""
    max_length: int = Field(default=2048, gt=0)
    """Longest row in tokens; longer ones are truncated and counted."""
    load_in_4bit: Literal["auto", True, False] = "auto"
    """Quantize the frozen base to 4 bits while training (QLoRA). auto: on CUDA devices, for adapters that can stand
    on it. true: also on a CPU, where it saves memory and costs time; without bitsandbytes it is an error."""
    dtype: Dtype = "auto"
    """Precision of the weights in memory; auto picks bfloat16 where the device computes in it, else float32."""
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    chat_template: str | None = None
    """A Jinja chat template, or the path of a ``.jinja`` file; None takes the tokenizer's own."""
    backend: Literal["transformers", "trl", "unsloth", "axolotl", "llama_factory"] = "transformers"
    """Who trains. ``transformers``: this library, on TRL and PEFT as installed beside it. The others
    run in an environment of their own and give an adapter; ``trl`` is a bare TRL script with what is found there."""
    backend_python: str | None = None
    """That environment's interpreter, ``DIR/bin/python``; None takes the variable FORGE_<BACKEND>_PYTHON."""
    trust_remote_code: bool = False
    offline: bool = False
    """Never ask the Hub, also where it could be reached."""
    moe: MoeSection | None = None
    multimodal: MultimodalSection | None = None
    bnb_4bit_use_double_quant: bool = True
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_compute_dtype: Dtype = "auto"

    _revision = field_validator("revision")(check_revision)

    @field_validator("name_or_path")
    @classmethod
    def _names_a_line_rightly(cls, value: str) -> str:
        parse_base_line(value)
        return value

    @model_validator(mode="after")
    def _line_is_pinned_by_digest(self) -> "ModelSection":
        if self.base_line is not None:
            check_pin(self.revision)
        elif self.allow_unreleased:
            raise ValueError("allow_unreleased is about name_or_path: line:<name>; remove it")
        return self

    @property
    def base_line(self) -> BaseLine | None:
        """The line whose model is the base model; None where it is no line's."""
        return parse_base_line(self.name_or_path)


class LoraSection(Section):
    """Low-rank adapters (PEFT)."""

    method: Literal["lora", "dora", "pissa", "rslora", "none"] = "lora"
    """``none`` fine-tunes every weight."""
    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.1, ge=0.0, le=1.0)
    bias: Literal["none", "all", "lora_only"] = "none"
    target_modules: list[str] = Field(default=["q_proj", "v_proj"], min_length=1)
    """Module names that get an adapter; ``[all-linear]`` takes every linear layer but the head."""
    modules_to_save: list[str] | None = None
    """Modules that are trained whole and saved beside the adapter, for example ``embed_tokens``."""
    rank_pattern: dict[str, int] = {}
    """Other ranks than `r`: end of a module's name, or a regular expression for it -> rank."""
    alpha_pattern: dict[str, int] = {}
    """Other scales than `alpha`, named as in `rank_pattern`."""
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    use_dora: bool = False
    """Older spelling of ``method: dora``."""
    use_rslora: bool = False
    """Older spelling of ``method: rslora``."""

    def model_post_init(self, context: Any) -> None:
        del context
        if self.use_dora and self.use_rslora:
            raise ValueError("use_dora and use_rslora exclude each other; write method: dora or method: rslora")
        for name, pattern in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            if any(value < 1 for value in pattern.values()):
                raise ValueError(f"{name}: ranks and scales are 1 or more; found {pattern}")
        for flag, method in ((self.use_dora, "dora"), (self.use_rslora, "rslora")):
            if flag and self.method not in ("lora", method):
                raise ValueError(f"use_{method}: true contradicts method: {self.method}; keep method only")

    @property
    def effective_method(self) -> str:
        """`method`, with the older flags folded in."""
        return "dora" if self.use_dora else "rslora" if self.use_rslora else self.method
