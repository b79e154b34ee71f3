"""The sections about running and delivering: synthetic data, webhook, distribution, export, release, automation."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from forge_pipeline.config._base import Section

Quantization = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m"]


class AuthSection(Section):
    """Hub credentials. Prefer the environment variable HF_TOKEN."""

    hf_token: str | None = Field(default=None, repr=False)


class SyntheticSection(Section):
    """Rows written by a teacher model."""

    enabled: bool = False
    teacher_model: str = ""
    teacher_backend: Literal["api", "local", "file"] = "api"
    teacher_revision: str | None = None
    api_base: str = ""
    api_key: str | None = Field(default=None, repr=False)
    api_key_env: str | None = None
    api_delay: float = Field(default=0.5, ge=0.0)
    """Least seconds between the starts of two requests, however many run at a time."""
    api_timeout: int = Field(default=60, ge=10)
    """Seconds a request may take, from connecting to the last byte."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests to the endpoint at a time."""
    batch_size: int = Field(default=8, ge=1)
    """Prompts that a local teacher answers at a time."""
    seed_file: str = ""
    seed_prompts: list[str] = []
    system_prompt: str = ""
    max_new_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.7, ge=0.0)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Of the sampling. A local teacher takes 0 where there is none; an endpoint gets it plus the sample's number."""
    samples_per_prompt: int = Field(default=1, ge=1, le=1000)
    """Answers asked for each prompt. Equal answers to one prompt become one row."""
    output_file: str = "synthetic_data.jsonl"
    output_format: Literal["messages", "instruction", "chatml", "prompt_response"] = "messages"
    license: str | None = None
    """Licence of the answers, as the teacher's terms give it: SPDX expression, or the licence's name."""
    mix_weight: float | None = Field(default=None, ge=0.0)
    """Weight of these rows where `data.mix_ratio` gives the others theirs; needed then."""
    min_success_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Smallest share of prompts that must be answered, with all their samples."""
    sanity_failure_rate: float = Field(default=0.2, ge=0.0, le=1.0)
    """After ten requests, no more are made once a larger share of them has failed."""

    @model_validator(mode="after")
    def _has_a_teacher(self) -> "SyntheticSection":
        if self.teacher_revision and self.teacher_backend != "local":
            raise ValueError("teacher_revision needs teacher_backend: local")
        if self.enabled and self.teacher_backend != "file" and not self.teacher_model:
            raise ValueError("enabled is true but teacher_model is empty")
        if self.enabled and not (self.seed_file or self.seed_prompts):
            raise ValueError("enabled is true but there are no seeds; set seed_file or seed_prompts")
        if self.samples_per_prompt > 1 and not self.temperature and self.teacher_backend != "file":
            raise ValueError("samples_per_prompt above 1 with temperature 0 asks for equal answers; raise temperature")
        return self


class WebhookSection(Section):
    """Where people are told. Secrets only by the name of an environment variable."""

    url: str | None = None
    url_env: str | None = None
    notify_on_start: bool = True
    notify_on_success: bool = True
    notify_on_failure: bool = True
    timeout: int = Field(default=10, ge=1)
    """Seconds a delivery may take."""
    allow_private_destinations: bool = False
    require_https: bool = False
    tls_ca_bundle: str | None = None


class DistributedSection(Section):
    """More than one accelerator."""

    strategy: Literal["deepspeed", "fsdp"] | None = None
    deepspeed_config: str | None = None
    fsdp_strategy: Literal["full_shard", "shard_grad_op", "no_shard", "hybrid_shard"] = "full_shard"
    fsdp_auto_wrap: bool = True
    fsdp_offload: bool = False
    fsdp_backward_prefetch: Literal["backward_pre", "backward_post"] = "backward_pre"
    fsdp_state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = "FULL_STATE_DICT"


class MergeSection(Section):
    """Several fine-tuned models into one."""

    enabled: bool = False
    method: Literal["ties", "dare", "slerp", "linear"] = "ties"
    models: list[dict[str, Any]] = []
    output_dir: str = "./merged_model"
    ties_trim_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    dare_drop_rate: float = Field(default=0.3, ge=0.0, le=1.0)
    dare_seed: int = 42


class FidelitySection(Section):
    """How near an exported file must come to the merged model, on held-out rows."""

    enabled: bool = True
    prompts: int = Field(default=8, ge=1)
    """Rows compared."""
    max_tokens: int = Field(default=128, ge=8)
    """Tokens taken of each row."""
    max_mean_kl: dict[Quantization, float] = {"f32": 1e-4, "f16": 1e-4, "bf16": 5e-3, "q8_0": 2e-2}
    """Largest mean KL divergence, in nats per token, of a quantization; those not named are reported only."""
    min_top1: dict[Quantization, float] = {"f32": 0.995, "f16": 0.995}
    """Smallest share of positions where the most likely token is the same."""


class ExportSection(Section):
    """Which files are made for llama.cpp and its kin."""

    enabled: bool = True
    quantizations: list[Quantization] = Field(default=["f16"], min_length=1)
    pre_tokenizer: str | None = None
    """llama.cpp's name of the tokenizer's splitting rules, for a tokenizer that is not recognized."""
    fidelity: FidelitySection = FidelitySection()


class ReleaseSection(Section):
    """Who must agree before a model is released."""

    approvals: int = Field(default=0, ge=0)
    """Distinct approvers needed; `evaluation.require_human_approval` raises it to at least 1."""
    approval_ttl_days: int = Field(default=7, ge=1)


class AutomationSection(Section):
    """What starts this line without a person."""

    cron: str | None = None
    timezone: str = "UTC"
    on_new_data: bool = False
    """Retrain when the dataset's files change."""
    check_interval_seconds: int = Field(default=60, ge=10)

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5 and not value.startswith("@"):
            raise ValueError("expected five cron fields, for example '0 3 * * 1'")
        return value
