"""Request and response bodies, field for field as the REST contract names them.

Unknown keys of a request are errors, numbers are never taken from text, and every
field states its range. Responses may carry more keys than the contract asks for.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator

Task = Literal["text-generation", "summarization", "extractive-question-answering"]
Provider = Literal["huggingface", "unsloth"]
Strategy = Literal["sft", "qlora", "rlhf", "dpo", "kto", "orpo", "simpo", "grpo", "reward", "pretraining"]
Precision = Literal["float16", "bfloat16", "float32"]
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "adamw_bnb_8bit",
]
JobStatus = Literal["idle", "queued", "starting", "training", "running", "completed", "failed", "stopped"]
"""Only a push or an export is ever ``running``; only a training job ``starting`` or ``training``."""


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


# JSON numbers: 3 is a fine learning rate, "3" and true are not.
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]


def _plain_digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,30}", value, re.ASCII):
        raise ValueError("Input should be an integer written in plain digits")
    return value


# An id in an address: one model has one spelling, so "1_0", "+10" and "10.0" name none.
ModelId = Annotated[int, BeforeValidator(_plain_digits)]
StopText = Annotated[str, Field(strict=True, min_length=1, max_length=256)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=4096), BeforeValidator(_stripped)]


class RequestBody(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class StartTraining(RequestBody):
    """A training job to start. Only `task`, `model_name` and `dataset` are required."""

    task: Task
    model_name: Text
    """A Hub id, a local path under an allowed root, or a model that an installed package ships."""
    provider: Provider = "huggingface"
    strategy: Strategy = "sft"
    dataset: Text
    """The name of an uploaded file, or a path under an allowed root."""
    compute_specs: Literal["low_end", "mid_range", "high_end"] | None = None
    """A label that is kept with the job; it changes nothing."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    lora_r: StrictInt = Field(default=16, ge=1, le=256)
    lora_alpha: StrictInt = Field(default=32, ge=1, le=1024)
    lora_dropout: Number = Field(default=0.1, ge=0, lt=1)
    use_4bit: StrictBool | None = None
    """Quantize the frozen base model to 4 bits. Unset: true for qlora, false for the others."""
    use_8bit: StrictBool = False
    bnb_4bit_compute_dtype: Precision | None = None
    """Unset: what the device computes in."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    use_nested_quant: StrictBool = False
    fp16: StrictBool = False
    bf16: StrictBool = False
    num_train_epochs: StrictInt = Field(default=1, ge=1, le=10_000)
    per_device_train_batch_size: StrictInt = Field(default=1, ge=1, le=4096)
    per_device_eval_batch_size: StrictInt = Field(default=1, ge=1, le=4096)
    gradient_accumulation_steps: StrictInt = Field(default=4, ge=1, le=4096)
    gradient_checkpointing: StrictBool | None = None
    """Unset: where it pays, on a GPU."""
    max_grad_norm: Number = Field(default=0.3, gt=0, le=1000)
    learning_rate: Number = Field(default=2e-4, gt=0, le=1)
    weight_decay: Number = Field(default=0.001, ge=0, le=1)
    optim: Optimizer = "adamw_torch"
    lr_scheduler_type: Literal["linear", "cosine", "constant", "polynomial"] = "cosine"
    max_steps: StrictInt = Field(default=-1, ge=-1, le=100_000_000)
    """Optimizer updates; -1 lets `num_train_epochs` decide."""
    warmup_ratio: Number = Field(default=0.03, ge=0, le=1)
    group_by_length: StrictBool | None = None
    """Batch rows of like length. Unset: where the strategy can."""
    packing: StrictBool = False
    max_seq_length: StrictInt | None = Field(default=2048, ge=-1, le=1_048_576)
    """Tokens; longer rows are truncated and counted. null and -1 mean the default."""
    use_chat_template: StrictBool = False
    eval_split: Number = Field(default=0.2, ge=0, lt=1)
    """Share of the rows that is held out for evaluation."""
    eval_steps: StrictInt = Field(default=100, ge=1, le=100_000_000)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        for first, second in (("use_4bit", "use_8bit"), ("fp16", "bf16")):
            if getattr(self, first) and getattr(self, second):
                raise ValueError(f"{first} and {second} exclude each other; set one of them")
        if self.max_steps == 0 or self.max_seq_length == 0:
            raise ValueError(
                f"{'max_steps' if self.max_steps == 0 else 'max_seq_length'}: found 0; expected -1 or at least 1"
            )
        if self.strategy not in ("sft", "qlora") and self.task != "text-generation":
            raise ValueError(f"strategy {self.strategy!r} trains text-generation only; found task {self.task!r}")
        if self.strategy == "qlora" and (self.use_4bit is False or self.use_8bit):
            raise ValueError("strategy 'qlora' is a 4-bit base model; leave out use_4bit and use_8bit, or choose 'sft'")
        if self.provider == "unsloth":
            self._fits_unsloth()
        return self

    def _fits_unsloth(self) -> None:
        if self.task != "text-generation":
            raise ValueError(f"provider 'unsloth' trains text-generation only; found task {self.task!r}")
        if self.max_seq_length is None or self.max_seq_length < 1:
            raise ValueError(f"provider 'unsloth' needs max_seq_length of at least 1; found {self.max_seq_length!r}")


class QueueJob(StartTraining):
    """A training job that waits for its turn: a start body, and how urgent it is."""

    priority: StrictInt = Field(default=0, ge=-100, le=100)
    """Higher goes first; equal ones in the order they came."""


class Generate(RequestBody):
    """A prompt for one of the trained models."""

    model_id: StrictInt
    prompt: str = Field(strict=True, min_length=1, max_length=200_000)
    """A turn to answer, a document to summarize, or a question about `context`."""
    context: str | None = Field(default=None, strict=True, min_length=1, max_length=200_000)
    """Extractive question answering only, and required there: the text that holds the answer."""
    completion: str | None = Field(default=None, strict=True, min_length=1, max_length=200_000)
    """Reward models only, and required there: the answer to `prompt` that is to be scored."""
    max_new_tokens: StrictInt = Field(default=100, ge=1, le=4096)
    temperature: Number = Field(default=0.7, ge=0, le=5)
    """0 is greedy, and repeatable; so is all below 0.0001. Summaries and extracted answers are always greedy."""
    top_p: Number = Field(default=0.9, gt=0, le=1)
    stream: StrictBool = False
    """Answer with server-sent events, piece by piece."""
    base: StrictBool = False
    """Ask the model's base model instead: the adapter is switched off. Not of reward models and span heads."""
    system: str | None = Field(default=None, strict=True, min_length=1, max_length=200_000)
    """The system message. This, `stop` and `seed` are for models that write text freely."""
    stop: list[StopText] = Field(default=[], max_length=4)
    """Strings that end the text; it ends before them."""
    seed: StrictInt | None = Field(default=None, ge=0, le=2**63 - 1)
    """The same seed gives the same text on this server. Unset: another one each time."""


class ErrorBody(BaseModel):
    """Every error, whatever raised it."""

    error: str = Field(examples=["Bad Request"])
    detail: str = Field(examples=["learning_rate: found 1.5. Input should be less than or equal to 1"])
    status_code: int = Field(examples=[400])


class Offer(BaseModel):
    """Whether something that is listed can run here, and if not, what is missing."""

    available: bool
    reason: str | None = None


class Availability(BaseModel):
    providers: dict[str, Offer]
    strategies: dict[str, Offer]
    tasks: dict[str, Offer]


class Info(BaseModel):
    providers: list[str]
    strategies: list[str]
    tasks: list[str]
    version: str
    availability: Availability
    package_models: list[str]
    """Values of `model_name` that need no network: base models that installed packages ship."""


class Health(BaseModel):
    status: Literal["healthy"] = "healthy"
    version: str
    launcher: str
    """``ready``, or what it is waiting for; training can start when ready."""


class Started(BaseModel):
    status: Literal["started"] = "started"
    job_id: str
    message: str
    warnings: list[str] = []


class TrainingStatus(BaseModel):
    """The present job, or the last one."""

    status: JobStatus
    progress: float = Field(ge=0, le=100)
    """Percent, one decimal."""
    current_epoch: int
    """From 1."""
    total_epochs: int
    current_step: int
    """Optimizer updates done."""
    total_steps: int
    loss: float | None
    learning_rate: float | None
    job_id: str | None = None
    stage: str | None = None
    """The stage that reported last: tokenize, fine_tune."""
    message: str = ""
    error: str | None = None


class JobDetails(TrainingStatus):
    """One job: its status and figures as `training_status` has them, and what belongs to it alone."""

    job_id: str
    kind: Literal["train", "push", "export"] = "train"
    """A training, the push of a model to the Hub, or the making of its GGUF files and bundle."""
    position: int | None
    """Place in the queue, from 1; null when it does not wait."""
    priority: int
    created_at: str
    started_at: str | None
    """When its turn came."""
    ended_at: str | None
    run_id: str | None
    """The Dagster run that does it."""
    dagster_url: str | None = None
    """That run in Dagster's UI; null where a browser could not reach it."""
    retry_of: str | None
    """The job that this one does again."""
    model_id: int | None
    """The model that it made, or pushes, or exports."""
    request: dict[str, Any]
    """The body that it was asked for with, and its defaults."""


class QueuedJob(JobDetails):
    warnings: list[str] = []


class JobList(BaseModel):
    jobs: list[JobDetails]
    """Newest first."""
    has_more: bool
    """Whether there are older ones; ask again with `after` set to the last job's id."""


class JobEventBody(BaseModel):
    number: int
    """Grows; give the last one as `after` to get what is new."""
    at: str
    status: JobStatus
    message: str


class JobEvents(BaseModel):
    events: list[JobEventBody]
    """Oldest first."""


class JobLogLine(BaseModel):
    at: str
    source: Literal["stage", "run"]
    """``stage``: progress of the work itself; ``run``: Dagster's log of the run."""
    level: str
    stage: str | None
    message: str
    metrics: dict[str, float | None] = {}


class JobLogs(BaseModel):
    lines: list[JobLogLine]
    """Oldest first; of a long log the end."""
    warnings: list[str] = []
    """What could not be read just now."""


class Stopped(BaseModel):
    status: Literal["stopped"] = "stopped"
    message: str
    job_id: str


class ModelMetrics(BaseModel):
    """What was measured on the validation split; a metric that is not the task's is null."""

    final_loss: float | None
    """Evaluation loss where there is a validation split, else the training loss."""
    perplexity: float | None
    """exp(final_loss) after sft, qlora and pretraining; null after the others, whose loss is no cross-entropy."""
    rouge1: float | None = None
    rouge2: float | None = None
    rougeL: float | None = None  # noqa: N815, its name everywhere
    rougeLsum: float | None = None  # noqa: N815
    exact_match: float | None = None
    f1: float | None = None
    reward_accuracy: float | None = None
    """Share of the held-out pairs whose chosen answer the reward model scores higher (reward, rlhf), or the policy
    prefers (dpo, orpo, simpo)."""
    mean_reward: float | None = None
    """Of the completions that grpo and rlhf sampled last."""


class ModelSummary(BaseModel):
    id: int
    uid: str
    """Digest of the model's content."""
    name: str
    base_model: str
    task: str
    created_at: str
    size_mb: float
    """Bytes / 10^6."""
    metrics: ModelMetrics


class ModelList(BaseModel):
    models: list[ModelSummary]


class ModelPage(ModelList):
    """What `limit` asks for."""

    has_more: bool
    """Whether there are more; ask again with `after` set to the last model's id."""


class TrainingParams(BaseModel):
    num_epochs: int | None
    batch_size: int | None
    learning_rate: float | None


class ModelDetails(ModelSummary):
    provider: str | None
    strategy: str | None
    training_params: TrainingParams
    job_id: str | None


class Deleted(BaseModel):
    status: Literal["deleted"] = "deleted"
    message: str


class Validation(BaseModel):
    valid: bool
    errors: list[str]
    """One for each offending line, the first 100."""
    error_count: int
    dataset_schema: str | None
    """The fields that the rows have, for example ``prompt, completion``."""


class Uploaded(BaseModel):
    status: Literal["uploaded"] = "uploaded"
    filename: str
    """The name to give as `dataset`; it may differ from the name that was sent."""
    num_examples: int
    validation: Validation


class DatasetSummary(BaseModel):
    filename: str
    num_examples: int
    size_mb: float
    """Bytes / 10^6."""
    uploaded_at: str


class DatasetList(BaseModel):
    datasets: list[DatasetSummary]


class Span(BaseModel):
    """Where an extracted answer stands: characters [start, stop) of the context; both 0 where there is no answer."""

    start: int
    stop: int


class Piece(BaseModel):
    """What a stream sends as the text is made."""

    text: str


class Generated(BaseModel):
    generated_text: str
    """The continuation, the summary or the extracted answer; empty from a reward model."""
    tokens_generated: int
    """Tokens that the model made, its end of turn included."""
    generation_time_ms: int
    finish_reason: Literal["stop", "length"] = "stop"
    """``length``: `max_new_tokens` cut the text off."""
    prompt_tokens: int | None = None
    """Tokens that a model which writes text freely has read."""
    span: Span | None = None
    """Of an extracted answer."""
    score: float | None = None
    """Of an extracted answer: by how much the model prefers it to no answer, in logits. Of a completion: its reward."""
