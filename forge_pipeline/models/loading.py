"""Base and tuned models in memory, each with its tokenizer.

Everything that is loaded comes through here, so that training, evaluation, export and
the playground see the same weights in the same precision, the same padding token and
the same chat template.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.models.adapters import lora_config, settle_adapter
from forge_pipeline.models.architecture import Changes, planned_changes, read_architecture
from forge_pipeline.models.base import BaseModel, resolve_base_model
from forge_pipeline.models.devices import Device, choose_dtype, pick_device
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.models.heads import HEADS, Head, adapted_to_head, head_for, load_with_head
from forge_pipeline.models.hub import hub_token, is_offline
from forge_pipeline.models.quantization import dequantized, keep_packing, quantization_config, settings_of
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(config: ForgeConfig) -> "PreTrainedTokenizerBase":
    """The base model's tokenizer with a padding token, and the recipe's chat template where it has one.

    Raises:
        ModelError: There is no such model, no tokenizer in it, or no token to pad with.
    """
    return _tokenizer_at(config, resolve_base_model(config))


def token_counter(config: ForgeConfig) -> Callable[[str], int]:
    """Counts the tokens of a text, without special tokens. The tokenizer is loaded at the first call.

    The call raises:
        ModelError: As `load_tokenizer`.
    """

    @cache
    def tokenizer() -> "PreTrainedTokenizerBase":
        return load_tokenizer(config)

    return lambda text: len(tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"])


def load_base(config: ForgeConfig, *, dtype: str = "auto") -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The recipe's base model in evaluation mode on the best device, unquantized.

    Args:
        dtype: A torch dtype's name, or ``auto`` for `model.dtype` and the device's own rule.

    Raises:
        ModelError: There is no such model, or it cannot be loaded as asked.
    """
    base = resolve_base_model(config)
    device = pick_device()
    model = load_weights(config, base, device=device, dtype=choose_dtype(config, device, dtype))
    return model.to(device).eval(), _tokenizer_at(config, base)


def load_tuned(
    config: ForgeConfig, model: ModelDirectory, *, dtype: str = "auto", base: BaseModel | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A fine-tuned model in evaluation mode: the adapter applied on its base, or all its weights.

    Args:
        config: The recipe that the model was trained with.
        dtype: As in `load_base`; it holds for the base weights, an adapter stays in float32.
        base: What an adapter belongs on; None: the recipe's base model.

    Raises:
        ModelError: The adapter was trained on another base model than the recipe names now.
    """
    record = model.record
    device = pick_device()
    name = choose_dtype(config, device, dtype)
    if record.kind == "full":
        tuned = _from_pretrained(config, str(model.path), dtype=name, head=record.head)
        return tuned.to(device).eval(), load_saved_tokenizer(model)
    if base is None and record.earlier:
        raise ModelError(
            f"{model.path} holds an adapter for the model of the stage {record.earlier[-1].name!r}, not for "
            f"{record.base_model.name_or_path}; load the merged model of its line"
        )
    base = base or resolve_base_model(config)
    check_same_base(model, base)
    rounding = record.quantization
    weights = load_weights(
        config,
        base,
        device=device,
        dtype=rounding.dtype if rounding else name,
        quantization=settings_of(rounding) if rounding else None,
        head=record.head,
        changes=record.architecture,
    )
    if rounding:
        weights = dequantized(weights, name)
    peft = require("peft", extra="train", purpose="Adapters")
    with quiet_libraries():
        tuned = peft.PeftModel.from_pretrained(weights, str(model.path))
    return tuned.to(device).eval(), load_saved_tokenizer(model)


def get_model_and_tokenizer(config: ForgeConfig) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The recipe's base model ready to train: quantized and wrapped in a fresh adapter as the recipe says.

    The adapter's random start follows `training.seed`.

    Raises:
        ModelError: There is no such model, or it cannot be loaded as asked.
    """
    base = resolve_base_model(config)
    model = load_for_training(config, base)
    adapter = lora_config(config, model)
    if adapter is not None:
        adapter = adapted_to_head(adapter, head_for(config, base))
        from peft import get_peft_model, prepare_model_for_kbit_training
        from transformers import set_seed

        set_seed(config.training.seed)
        with quiet_libraries():
            if getattr(model, "is_loaded_in_4bit", False):
                model = prepare_model_for_kbit_training(model)
            model = get_peft_model(model, adapter)
        settle_adapter(config, model)
    return model, _tokenizer_at(config, base)


def load_for_training(config: ForgeConfig, base: BaseModel) -> "PreTrainedModel":
    """The base weights to train on, in 4 bits where that is asked for and possible, without an adapter."""
    device = pick_device()
    return load_weights(
        config,
        base,
        device=device,
        dtype=choose_dtype(config, device, training=True),
        quantization=quantization_config(config, device),
        changes=changes_for_training(config, base),
    )


def changes_for_training(config: ForgeConfig, base: BaseModel) -> Changes | None:
    """What the recipe changes in the base model's configuration; None for nothing, and then nothing is read.

    Raises:
        ModelError, ConfigError: As `read_architecture` and `planned_changes`.
    """
    if config.training.rope_scaling is None and config.training.sliding_window_attention is None:
        return None
    return planned_changes(config, read_architecture(config, base))


def load_weights(
    config: ForgeConfig,
    base: BaseModel,
    *,
    device: Device,
    dtype: str,
    quantization: Any = None,
    head: Head | None = None,
    changes: Changes | None = None,
) -> "PreTrainedModel":
    """`base` as transformers loads it. Quantized weights lie on the device already, others on the CPU.

    `head` is what stands on its last layer; None takes what the recipe needs. `changes` are set in its configuration.
    """
    placement = {"quantization_config": quantization, "device_map": {"": device}} if quantization is not None else {}
    source = _from_hub(config, base) if base.source == "hub" else {}
    head = head or head_for(config, base)
    if quantization is not None and HEADS[head].modules:
        quantization.llm_int8_skip_modules = list(HEADS[head].modules)  # it starts from noise, and is trained whole
    model = _from_pretrained(config, base.path, head=head, dtype=dtype, **placement, **source, **(changes or {}))
    return model if quantization is None else keep_packing(model)


def load_saved_tokenizer(model: ModelDirectory) -> "PreTrainedTokenizerBase":
    """The tokenizer that lies in a model directory, with the chat template it was trained with."""
    transformers = require("transformers", extra="train", purpose="Tokenizers")
    tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
        str(model.path), local_files_only=True
    )
    return tokenizer


def check_same_base(model: ModelDirectory, base: BaseModel) -> None:
    """Refuse to put an adapter on another base model than it was trained on.

    Raises:
        ModelError: Digest (local) or commit (Hub) are known for both and differ, or the sources differ in kind.
    """
    trained_on = model.record.base_model
    pairs = ((trained_on.digest, base.digest), (trained_on.revision_resolved, base.revision_resolved))
    if any(then and now and then != now for then, now in pairs) or bool(trained_on.digest) != bool(base.digest):
        raise ModelError(
            f"{model.path} holds an adapter for {trained_on.name_or_path} "
            f"({trained_on.digest or trained_on.revision_resolved}), but the recipe's base model is now "
            f"{base.name_or_path} ({base.digest or base.revision_resolved}); train again, or restore the base model"
        )


def _tokenizer_at(config: ForgeConfig, base: BaseModel) -> "PreTrainedTokenizerBase":
    transformers = require("transformers", extra="train", purpose="Tokenizers")
    try:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            base.path,
            trust_remote_code=config.model.trust_remote_code,
            **(_from_hub(config, base) if base.source == "hub" else {"local_files_only": True}),
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{base.name_or_path}: its tokenizer cannot be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"{base.name_or_path}: its tokenizer has neither a padding nor an end-of-sequence token; "
                "set pad_token in its tokenizer_config.json"
            )
        # Labels are masked before rows are padded, so the real end of a turn is still learned.
        tokenizer.pad_token = tokenizer.eos_token
    if config.model.chat_template is not None:
        tokenizer.chat_template = _chat_template(config.model.chat_template)
    return tokenizer


def _chat_template(value: str) -> str:
    """The recipe's template: Jinja text, or what the named file holds."""
    if not value.endswith((".jinja", ".j2")):
        return value
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model.chat_template: {value} cannot be read as UTF-8 text: {error}") from error


def _from_hub(config: ForgeConfig, base: BaseModel) -> dict[str, Any]:
    """How a Hub id is fetched: at the commit that was recorded, with the token, or from the cache alone."""
    return {"revision": base.revision, "token": hub_token(config), "local_files_only": is_offline(config)}


def _from_pretrained(config: ForgeConfig, path: str, *, head: Head = "causal-lm", **options: Any) -> "PreTrainedModel":
    attention = config.model.attn_implementation
    with quiet_libraries():
        try:
            model = load_with_head(
                path,
                head,
                trust_remote_code=config.model.trust_remote_code,
                attn_implementation=None if attention == "auto" else attention,
                **({"local_files_only": True} | options),
            )
        except ModelError:
            raise
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise ModelError(f"model.name_or_path: {path} cannot be loaded: {error}") from error
    return model
