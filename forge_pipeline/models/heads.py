"""What stands on a base model's last layer: a language model's head, a score, or the ends of an answer.

The recipe decides (`head_for`), the record of a model directory remembers. A fresh score or
span head has random weights until it is trained, so a loaded model may lack those and
nothing else: a base model of another architecture would otherwise be trained from noise
without a word.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from forge_pipeline.models.base import BaseModel

Head = Literal["causal-lm", "sequence-classification", "question-answering", "seq2seq-lm"]


@dataclass(frozen=True)
class HeadKind:
    """How one kind of head is loaded and trained.

    Attributes:
        auto_class: The class of transformers that puts it on a base model.
        task_type: PEFT's word for it.
        modules: What the head's own module may be called; an adapter saves it whole.
        options: Further arguments of `from_pretrained`.
        generates: Whether the model writes text.
    """

    auto_class: str
    task_type: str
    modules: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    generates: bool = True


HEADS: dict[Head, HeadKind] = {
    "causal-lm": HeadKind("AutoModelForCausalLM", "CAUSAL_LM"),
    "seq2seq-lm": HeadKind("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
    "sequence-classification": HeadKind(
        "AutoModelForSequenceClassification",
        "SEQ_CLS",
        ("score", "classifier"),
        {"num_labels": 1},
        generates=False,
    ),
    "question-answering": HeadKind("AutoModelForQuestionAnswering", "QUESTION_ANS", ("qa_outputs",), generates=False),
}


def head_for(config: ForgeConfig, base: "BaseModel") -> Head:
    """The head that the recipe's trainer and task need on this base model.

    Raises:
        ModelError: The base model's configuration cannot be read.
    """
    if config.training.trainer_type == "reward":
        return "sequence-classification"
    if config.model.task == "extractive-question-answering":
        return "question-answering"
    if config.model.task == "summarization" and _is_encoder_decoder(config, base):
        return "seq2seq-lm"
    return "causal-lm"


def load_with_head(path: str, head: Head, **options: Any) -> "PreTrainedModel":
    """`from_pretrained` of the head's class.

    Raises:
        ModelError: The weights at `path` are of another architecture: more than the head would start from noise.
        OSError, ValueError, ImportError, RuntimeError: As transformers raises them.
    """
    transformers = require("transformers", extra="train", purpose="Models")
    kind = HEADS[head]
    load = getattr(transformers, kind.auto_class).from_pretrained
    if head == "causal-lm":
        model: PreTrainedModel = load(path, **options)
        return model
    options = {**kind.options, **options}
    model, found = load(path, output_loading_info=True, **options)
    lacking = _lacking(model, found, kind)
    body = {name.partition(".")[0] for name in found["unexpected_keys"]} - {"lm_head", "score", "classifier"}
    if lacking and len(body) == 1:
        # Some classes call the same layers otherwise: LlamaForQuestionAnswering has `transformer`, its base `model`.
        renamed = {rf"^{body.pop()}\.": f"{model.base_model_prefix}."}
        model, found = load(path, output_loading_info=True, key_mapping=renamed, **options)
        lacking = _lacking(model, found, kind)
    if lacking:
        raise ModelError(
            f"model.name_or_path: {path} does not fit {type(model).__name__}: {len(lacking)} of its weights are not "
            f"there (first {lacking[0]}), and would be trained from noise; name a base model of that architecture"
        )
    return model


def adapted_to_head(adapter: "LoraConfig", head: Head) -> "LoraConfig":
    """`adapter`, changed to fit the head: PEFT's task type, by which it trains and saves the head itself whole."""
    from peft import TaskType

    kind = HEADS[head]
    adapter.task_type = TaskType(kind.task_type)
    if kind.modules and adapter.target_modules == "all-linear":
        adapter.exclude_modules = list(kind.modules)  # whole, not by two small matrices
    return adapter


def train_head_in_float32(model: Any, head: Head) -> None:
    """Keep an adapter's head in float32 over a base in half precision, where its updates would vanish in rounding."""
    import torch

    for name, module in model.named_modules():
        own = name.rpartition(".")[2]
        if own not in HEADS[head].modules:
            continue
        for copy in [part for part in module.modules() if isinstance(part, torch.nn.Linear)]:
            copy.float()
            copy.register_forward_pre_hook(_in_own_precision)


def _in_own_precision(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (arguments[0].to(module.weight.dtype), *arguments[1:])


def _lacking(model: "PreTrainedModel", found: dict[str, Any], kind: HeadKind) -> list[str]:
    """Weights that were not in the files, the head's own left out."""
    del model
    return sorted(name for name in found["missing_keys"] if not set(name.split(".")) & set(kind.modules))


def _is_encoder_decoder(config: ForgeConfig, base: "BaseModel") -> bool:
    from forge_pipeline.models.hub import hub_token, is_offline

    transformers = require("transformers", extra="train", purpose="Models")
    source: dict[str, Any] = {"local_files_only": True}
    if base.source == "hub":
        source = {"revision": base.revision, "token": hub_token(config), "local_files_only": is_offline(config)}
    try:
        found = transformers.AutoConfig.from_pretrained(
            base.path, trust_remote_code=config.model.trust_remote_code, **source
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{base.name_or_path}: its configuration cannot be read: {error}") from error
    return bool(found.is_encoder_decoder)
