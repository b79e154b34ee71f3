"""The sections about running and delivering: synthetic data, webhook, distribution, export, release."""

from typing import Literal

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
    """More than one process. Batch sizes in `training:` count rows per process."""

    strategy: Literal["ddp", "deepspeed", "fsdp"] | None = None
    """``ddp`` copies the model to each process, ``deepspeed`` and ``fsdp`` (FSDP2) share its parts out. None: ``ddp``
    where there is more than one process."""
    processes: int | Literal["auto"] = "auto"
    """Processes on each host. auto: as many as the host has visible GPUs, one without a GPU."""
    hosts: int = Field(default=1, ge=1)
    """Hosts that train together; more than one needs launcher slurm or external, and a file system that all share."""
    launcher: Literal["local", "slurm", "external"] = "local"
    """Who starts the processes: ``torchrun`` on this machine, ``torchrun`` on each host of a Slurm allocation, or the
    command in the environment variable FORGE_LAUNCH_COMMAND."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """What the processes talk through. auto: nccl on GPUs, gloo on CPUs."""
    timeout: int = Field(default=1800, ge=10)
    """Seconds a process waits for the others before it gives up."""
    deepspeed_config: str | None = None
    """A DeepSpeed JSON file, or one of ours: zero1, zero2, zero2_offload, zero3, zero3_offload. None: zero2."""
    fsdp_strategy: Literal["full_shard", "shard_grad_op", "no_shard", "hybrid_shard"] = "full_shard"
    """``full_shard`` frees gathered weights after the forward pass, ``shard_grad_op`` keeps them for the backward."""
    fsdp_auto_wrap: bool = True
    """Share out each transformer layer by itself, as the model's own class names them."""
    fsdp_offload: bool = False
    """Keep weights and gradients in CPU memory."""
    fsdp_backward_prefetch: Literal["backward_pre", "backward_post"] = "backward_pre"
    """FSDP2 always gathers the next layer ahead, so there is nothing but ``backward_pre``."""
    fsdp_state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = "FULL_STATE_DICT"
    """Shape of checkpoints. The finished model is always written whole."""

    @field_validator("processes")
    @classmethod
    def _is_a_count(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number of processes from 1, or auto")
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> "DistributedSection":
        if self.deepspeed_config and self.strategy != "deepspeed":
            raise ValueError(f"deepspeed_config is set but strategy is {self.strategy}; write strategy: deepspeed")
        if self.strategy == "fsdp" and self.fsdp_strategy in ("no_shard", "hybrid_shard"):
            instead = "strategy: ddp, which is the same" if self.fsdp_strategy == "no_shard" else "full_shard"
            raise ValueError(f"fsdp_strategy: {self.fsdp_strategy} is not one that FSDP2 takes here; write {instead}")
        if self.strategy == "fsdp" and self.fsdp_backward_prefetch == "backward_post":
            raise ValueError("fsdp_backward_prefetch: FSDP2 has no backward_post; remove it")
        if self.hosts > 1 and self.launcher == "local":
            raise ValueError("hosts above 1 needs launcher: slurm or launcher: external")
        return self


class MergeParentSection(Section):
    """One of the models that are merged: a directory, or what a line has released."""

    path: str | None = None
    """A model directory (adapter or full) that fine-tuning or a merge wrote, or a Hugging Face model directory."""
    line: str | None = None
    """The model that this line's alias ``released`` means; the recipe's own name means the model being trained."""
    weight: float = Field(default=1.0, gt=0.0)
    """Its share; only how the weights compare with each other counts."""
    density: float | None = Field(default=None, gt=0.0, le=1.0)
    """ties, dare: share of its changes that are kept, instead of what the section says for all."""
    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    """Digest that the directory must have."""

    @model_validator(mode="after")
    def _names_one_model(self) -> "MergeParentSection":
        if (self.path is None) == (self.line is None):
            raise ValueError("expected path or line, and not both")
        return self


class MergeSection(Section):
    """Several models of one architecture into one: by ``forge merge``, or at the end of training."""

    enabled: bool = False
    """Deliver the merge instead of the trained model alone: what is judged, exported and released is the merge."""
    method: Literal["ties", "dare", "slerp", "linear"] = "ties"
    """``linear``: weighted mean. ``slerp``: along the arc between two models. ``ties`` (arXiv 2306.01708) and ``dare``
    (arXiv 2311.03099): on the differences from the base model."""
    models: list[MergeParentSection] = []
    output_dir: str = "./merged_model"
    """Where ``forge merge`` writes unless it is told."""
    ties_trim_fraction: float = Field(default=0.2, ge=0.0, lt=1.0)
    """ties: share of each tensor's changes, the smallest, that is dropped."""
    dare_drop_rate: float = Field(default=0.3, ge=0.0, lt=1.0)
    """dare: probability that a change is dropped; the others are scaled up."""
    dare_seed: int = Field(default=42, ge=0, lt=2**32)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights that are written; the merge is computed in float32."""

    @model_validator(mode="after")
    def _fields_agree(self) -> "MergeSection":
        if self.enabled and len(self.models) < 2:
            raise ValueError(f"models: a merge needs two models or more, and there are {len(self.models)}")
        if self.method == "slerp" and len(self.models) not in (0, 2):
            raise ValueError(f"method: slerp lies between two models, and there are {len(self.models)}; use linear")
        if self.method in ("slerp", "linear") and any(each.density is not None for each in self.models):
            raise ValueError(f"models: density is for ties and dare; remove it, or change method: {self.method}")
        return self

    def density_of(self, model: MergeParentSection) -> float | None:
        """Share of a model's changes that are kept; None where the method keeps them all."""
        kept = {"ties": 1 - self.ties_trim_fraction, "dare": 1 - self.dare_drop_rate}.get(self.method)
        return kept if kept is None or model.density is None else model.density


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
    max_p99_kl: dict[Quantization, float] = {}
    """Largest KL divergence that 99 % of the positions may have; those not named are reported only."""
    max_perplexity_rise: dict[Quantization, float] = {}
    """Largest share by which the perplexity on the held-out rows may exceed the merged model's: 0.01 is one percent."""


class ExportSection(Section):
    """Which files are made for llama.cpp and its kin."""

    enabled: bool = True
    quantizations: list[Quantization] = Field(default=["f16"], min_length=1)
    adapter: bool = False
    """Also write the adapter alone, to be loaded beside a GGUF file of its base model; held to the limits of f16."""
    pre_tokenizer: str | None = None
    """llama.cpp's name of the tokenizer's splitting rules, for a tokenizer that is not recognized."""
    fidelity: FidelitySection = FidelitySection()


class ApproverSection(Section):
    """A person who may approve, known by a key."""

    name: str = Field(min_length=1)
    key: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """Fingerprint of the person's Ed25519 key: SHA-256 of its SubjectPublicKeyInfo in DER, as ``forge approve`` prints
    it."""
    roles: list[str] = []
    """What the person may speak for: ml_lead, compliance, ..."""


class ReleaseSection(Section):
    """Who must agree before a model is released."""

    approvals: int = Field(default=0, ge=0)
    """Distinct approvers needed; `evaluation.require_human_approval` raises it to at least 1, `four_eyes` and a
    high-risk tier to at least 2."""
    approval_ttl_days: int = Field(default=7, ge=1)
    """Days until a request and the decisions about it expire."""
    four_eyes: bool = False
    """Only signed decisions count, by distinct keys, and none by whoever trained the model or asked for the release.
    A line of the high-risk tier has it on."""
    min_reason_length: int = Field(default=10, ge=1, le=2000)
    """Characters that a decision's reason has at least."""
    approvers: list[ApproverSection] = []
    """Whose decisions count: those signed with these keys. Empty: everybody's."""
    roles: list[str] = []
    """Each of these must be among the approvers' roles; needs `approvers`."""
    push_to: str | None = Field(default=None, pattern=r"^[^/\s]+/[^/\s]+$")
    """Hub repository, owner/name, that a released model and its card are pushed to; None: nowhere."""
    push_public: bool = False
    """Make that repository public where it is made; one that is there stays as it is."""

    @model_validator(mode="after")
    def _approvers_agree(self) -> "ReleaseSection":
        for what in ("name", "key"):
            if len({getattr(each, what) for each in self.approvers}) < len(self.approvers):
                raise ValueError(f"approvers: two have the same {what}; write each person once")
        held = {role for each in self.approvers for role in each.roles}
        if missing := [role for role in self.roles if role not in held]:
            raise ValueError(f"roles: no approver has the role {', '.join(missing)}; add it to one of approvers")
        if self.approvers and self.approvals > len(self.approvers):
            raise ValueError(f"approvals: {self.approvals} are more than the {len(self.approvers)} approvers named")
        return self
