"""Every field of `model:`, `lora:`, `training:`, `distributed:` and `data:` does something.

Three tables, and every field stands in one of them; a field that stands in none fails the first test.

- `SEEN`: the field gets a value of its own, a whole fine-tune is built, and what its TRL trainer
  holds at the moment it would start to train is that value, and is not without it.
- `ASKED`: the field belongs to another function, which is called and gives another answer.
- `READ_BY`: the field is read by the module named; what it does is that module's own tests' business.

To add a field: one line in one of the tables. Rows of one scenario are built together, so give a row that
would disturb others a scenario of its own: `SCENARIOS` says what a scenario starts from.
"""

import ast
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.data import DataSection
from forge_pipeline.config.model import LoraSection, ModelSection
from forge_pipeline.config.operation import DistributedSection
from forge_pipeline.config.training import TrainingSection
from forge_pipeline.errors import ConfigError, DataError, ModelError
from forge_pipeline.integrity import Digest
from forge_pipeline.training import fine_tune

SOURCES = Path(__file__).parents[3] / "forge_pipeline"
SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSection,
    "lora": LoraSection,
    "training": TrainingSection,
    "distributed": DistributedSection,
    "data": DataSection,
}


@dataclass(frozen=True)
class Seen:
    """One field, and where its value is seen.

    Attributes:
        value: The sentinel.
        look: From the trainer, about to train, to what the field decides there.
        expected: What `look` gives with the sentinel.
        scenario: Key of `SCENARIOS`.
    """

    value: Any
    look: Callable[[Any], Any]
    expected: Any
    scenario: str = "adapter"


@dataclass(frozen=True)
class Scenario:
    """What a fine-tune starts from: sections of its recipe, and the dataset's shape."""

    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    architecture: tuple[str, Mapping[str, Any]] | None = None
    validation: bool = True
    packed: bool = False
    keep: bool = False
    needs: str | None = None


def of_trainer(**training: Any) -> Scenario:
    return Scenario({"training": training})


SCENARIOS: dict[str, Scenario] = {
    "adapter": Scenario(),
    "other base": Scenario(),
    "dora": Scenario(),
    "old dora": Scenario(),
    "old rslora": Scenario(),
    "four bits": Scenario(needs="bitsandbytes"),
    "four bits otherwise": Scenario({"model": {"load_in_4bit": True}}, needs="bitsandbytes"),
    "experts": Scenario(
        {"model": {"moe": {}}, "lora": {"dropout": 0.0}},
        architecture=("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ),
    "window": Scenario(architecture=("MistralConfig", {"sliding_window": 64})),
    "epochs": of_trainer(max_steps=-1),
    "checkpoints": Scenario(validation=False, keep=True),
    "order": Scenario(),
    "rows in order": of_trainer(group_by_length=False),
    "packed": Scenario({"training": {"packing": True}}, packed=True),
    "packing": Scenario(packed=True),
    "old packing": Scenario(packed=True),
    "unpadded": Scenario(),
    "memory": Scenario(),
    "dpo": of_trainer(trainer_type="dpo"),
    "kto": of_trainer(trainer_type="kto"),
    "orpo": of_trainer(trainer_type="orpo"),
    "simpo": of_trainer(trainer_type="simpo"),
    "grpo": of_trainer(trainer_type="grpo", grpo_num_generations=2),
    "reward": of_trainer(trainer_type="reward"),
    "galore": Scenario({"lora": {"method": "none"}, "training": {"galore_enabled": True}}, needs="galore_torch"),
    "with galore": Scenario({"lora": {"method": "none"}}, needs="galore_torch"),
}


def argument(name: str) -> Callable[[Any], Any]:
    """A field of TRL's configuration; enums by their value."""

    def look(trainer: Any) -> Any:
        value = getattr(trainer.args, name)
        return getattr(value, "value", value)

    return look


def adapter(name: str) -> Callable[[Any], Any]:
    """A field of PEFT's configuration; sets as lists."""

    def look(trainer: Any) -> Any:
        value = getattr(trainer.model.peft_config["default"], name)
        return sorted(value) if isinstance(value, set) else value

    return look


def model_config(name: str) -> Callable[[Any], Any]:
    return lambda trainer: getattr(trainer.model.config, name)


def quantized(name: str) -> Callable[[Any], Any]:
    return lambda trainer: getattr(trainer.model.config.quantization_config, name)


def optimizer_option(name: str) -> Callable[[Any], Any]:
    """A setting of the optimizer's own groups, as the first step would use it."""
    return lambda trainer: next(group[name] for group in trainer.optimizer.param_groups if name in group)


def galore_layers(trainer: Any) -> set[str]:
    """Kinds of the layers whose gradients are projected."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    group = next(group for group in trainer.optimizer.param_groups if "rank" in group)
    return {names[parameter].split(".")[-2] for parameter in group["params"]}


def patience(trainer: Any) -> Any:
    from transformers import EarlyStoppingCallback

    found = [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    return found[0].early_stopping_patience if found else None


SEEN: dict[str, Seen] = {
    "model.name_or_path": Seen("one-layer", model_config("num_hidden_layers"), 1, "other base"),
    "model.max_length": Seen(48, argument("max_length"), 48),
    "model.load_in_4bit": Seen(True, lambda trainer: bool(getattr(trainer.model, "is_loaded_in_4bit", False)), True, "four bits"),
    "model.dtype": Seen("fp32", lambda trainer: str(next(trainer.model.parameters()).dtype), "torch.float32"),
    "model.attn_implementation": Seen("eager", model_config("_attn_implementation"), "eager"),
    "model.chat_template": Seen("{{ messages }}", lambda trainer: trainer.processing_class.chat_template, "{{ messages }}"),
    "model.moe.experts_to_train": Seen("none", adapter("target_parameters"), [], "experts"),
    "model.bnb_4bit_use_double_quant": Seen(False, quantized("bnb_4bit_use_double_quant"), False, "four bits otherwise"),
    "model.bnb_4bit_quant_type": Seen("fp4", quantized("bnb_4bit_quant_type"), "fp4", "four bits otherwise"),
    "model.bnb_4bit_compute_dtype": Seen("fp32", lambda trainer: str(quantized("bnb_4bit_compute_dtype")(trainer)), "torch.float32", "four bits otherwise"),
    "lora.method": Seen("dora", adapter("use_dora"), True, "dora"),
    "lora.r": Seen(3, adapter("r"), 3),
    "lora.alpha": Seen(7, adapter("lora_alpha"), 7),
    "lora.dropout": Seen(0.375, adapter("lora_dropout"), 0.375),
    "lora.bias": Seen("lora_only", adapter("bias"), "lora_only"),
    "lora.target_modules": Seen(["up_proj", "k_proj"], adapter("target_modules"), ["k_proj", "up_proj"]),
    "lora.modules_to_save": Seen(["model.norm"], adapter("modules_to_save"), ["model.norm"]),
    "lora.rank_pattern": Seen({"k_proj": 2}, adapter("rank_pattern"), {"k_proj": 2}),
    "lora.alpha_pattern": Seen({"up_proj": 5}, adapter("alpha_pattern"), {"up_proj": 5}),
    "lora.use_dora": Seen(True, adapter("use_dora"), True, "old dora"),
    "lora.use_rslora": Seen(True, adapter("use_rslora"), True, "old rslora"),
    "training.max_steps": Seen(97, argument("max_steps"), 97),
    "training.num_train_epochs": Seen(5, argument("num_train_epochs"), 5, "epochs"),
    "training.per_device_train_batch_size": Seen(3, argument("per_device_train_batch_size"), 3),
    "training.per_device_eval_batch_size": Seen(5, argument("per_device_eval_batch_size"), 5),
    "training.gradient_accumulation_steps": Seen(6, argument("gradient_accumulation_steps"), 6),
    "training.learning_rate": Seen(3e-3, lambda trainer: trainer.optimizer.param_groups[0]["initial_lr"], 3e-3),
    "training.lr_scheduler_type": Seen("cosine", argument("lr_scheduler_type"), "cosine"),
    "training.warmup_ratio": Seen(0.25, argument("warmup_steps"), 0.25),
    "training.weight_decay": Seen(0.125, optimizer_option("weight_decay"), 0.125),
    "training.max_grad_norm": Seen(0.75, argument("max_grad_norm"), 0.75),
    "training.optim": Seen("adafactor", lambda trainer: type(trainer.optimizer).__name__, "Adafactor"),
    "training.seed": Seen(1234, lambda trainer: (trainer.args.seed, trainer.args.data_seed), (1234, 1234)),
    "training.logging_steps": Seen(9, argument("logging_steps"), 9),
    "training.eval_steps": Seen(7, argument("eval_steps"), 7),
    "training.save_steps": Seen(13, argument("save_steps"), 13, "checkpoints"),
    "training.save_total_limit": Seen(2, argument("save_total_limit"), 2, "checkpoints"),
    "training.early_stopping_patience": Seen(17, patience, 17),
    "training.gradient_checkpointing": Seen(True, lambda trainer: trainer.args.gradient_checkpointing, True, "memory"),
    "training.group_by_length": Seen(False, lambda trainer: type(trainer._get_train_sampler()).__name__, "RandomSampler", "order"),
    "training.packing": Seen(True, argument("packing"), True, "packing"),
    "training.sample_packing": Seen(True, argument("packing"), True, "old packing"),
    "training.packing_strategy": Seen("wrapped", argument("packing_strategy"), "wrapped", "packed"),
    "training.neftune_noise_alpha": Seen(4.5, argument("neftune_noise_alpha"), 4.5),
    "training.padding_free": Seen(True, lambda trainer: trainer.padding_free, True, "unpadded"),
    "training.rope_scaling": Seen(
        {"type": "linear", "factor": 4.0}, lambda trainer: trainer.model.config.rope_parameters.get("factor"), 4.0
    ),
    "training.sliding_window_attention": Seen(12, model_config("sliding_window"), 12, "window"),
    "training.run_name": Seen("sentinel", argument("run_name"), "sentinel"),
    "training.dpo_beta": Seen(0.375, argument("beta"), 0.375, "dpo"),
    "training.kto_beta": Seen(0.375, argument("beta"), 0.375, "kto"),
    "training.orpo_beta": Seen(0.375, argument("beta"), 0.375, "orpo"),
    "training.simpo_beta": Seen(1.375, argument("beta"), 1.375, "simpo"),
    "training.simpo_gamma": Seen(0.875, argument("simpo_gamma"), 0.875, "simpo"),
    "training.reward_center_coefficient": Seen(0.0625, argument("center_rewards_coefficient"), 0.0625, "reward"),
    "training.grpo_num_generations": Seen(4, argument("num_generations"), 4, "grpo"),
    "training.grpo_max_completion_length": Seen(6, argument("max_completion_length"), 6, "grpo"),
    "training.grpo_beta": Seen(0.0625, argument("beta"), 0.0625, "grpo"),
    "training.grpo_temperature": Seen(0.625, argument("temperature"), 0.625, "grpo"),
    "training.grpo_reward_functions": Seen(
        ["valid_json", "answer_format"], lambda trainer: trainer.reward_func_names, ["valid_json", "answer_format"], "grpo"
    ),
    "training.grpo_reward_weights": Seen([0.25, 0.75], argument("reward_weights"), [0.25, 0.75], "grpo"),
    "training.galore_enabled": Seen(True, argument("optim"), "galore_adamw", "with galore"),
    "training.galore_optim": Seen("galore_adafactor", argument("optim"), "galore_adafactor", "galore"),
    "training.galore_rank": Seen(3, optimizer_option("rank"), 3, "galore"),
    "training.galore_update_proj_gap": Seen(11, optimizer_option("update_proj_gap"), 11, "galore"),
    "training.galore_scale": Seen(0.75, optimizer_option("scale"), 0.75, "galore"),
    "training.galore_proj_type": Seen("reverse_std", optimizer_option("proj_type"), "reverse_std", "galore"),
    "training.galore_target_modules": Seen(["mlp"], galore_layers, {"gate_proj", "up_proj", "down_proj"}, "galore"),
    "data.shuffle": Seen(False, lambda trainer: type(trainer._get_train_sampler()).__name__, "SequentialSampler", "rows in order"),
}  # fmt: skip

# What the sentinels above would not fit beside, so that one fine-tune shows many of them.
BESIDE: dict[str, dict[str, dict[str, Any]]] = {
    "adapter": {"model": {"dtype": "fp32"}},
    "grpo": {"training": {"per_device_train_batch_size": 4}},
}


class AboutToTrainError(BaseException):
    """Raised where training would start; nothing catches it."""


@pytest.fixture(scope="module")
def trainers() -> dict[tuple[str, bool], Any]:
    """The trainers that were built already, by scenario, with and without its sentinels."""
    return {}


@pytest.fixture
def trainer_of(
    trainers: dict[tuple[str, bool], Any],
    tokenized: Callable,
    recipe: Callable,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, bool], Any]:
    """Runs `fine_tune` to where it would train, and returns the trainer with its optimizer."""
    import transformers

    def stop(trainer: Any, *arguments: Any, **keywords: Any) -> None:
        trainer.create_optimizer_and_scheduler(100)
        state = transformers.TrainerState(), transformers.TrainerControl()
        trainer.callback_handler.optimizer = trainer.optimizer
        for callback in trainer.callback_handler.callbacks:
            if type(callback).__name__ == "GaloreGroups":
                callback.on_train_begin(trainer.args, *state, optimizer=trainer.optimizer)
        raise AboutToTrainError(trainer)

    monkeypatch.setattr(transformers.Trainer, "train", stop)

    def build(name: str, sentinels: bool) -> Any:
        if (name, sentinels) in trainers:
            return trainers[name, sentinels]
        scenario = SCENARIOS[name]
        if scenario.needs:
            pytest.importorskip(scenario.needs)
        sections: dict[str, dict[str, Any]] = {"training": {"max_steps": 40}}
        layers = [scenario.sections, *([BESIDE.get(name, {}), _sentinels(name)] if sentinels else [])]
        for layer in layers:
            for section, values in layer.items():
                sections.setdefault(section, {})
                for key, value in values.items():
                    old = sections[section].get(key)
                    sections[section][key] = (
                        {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
                    )
        model = sections.setdefault("model", {})
        if scenario.architecture or model.get("name_or_path"):
            model["name_or_path"] = str(_base(scenario, tiny_model, tmp_path / f"base-{sentinels}"))
        config = recipe(**sections)
        kind = config.training.trainer_type
        dataset = tokenized(
            kind,
            validation=scenario.validation,
            packed=scenario.packed and config.training.uses_packing,
            name=f"{sentinels}",
        )
        with pytest.raises(AboutToTrainError) as caught:
            fine_tune(
                config, dataset, Digest.of(b"raw"), tmp_path / f"model-{sentinels}",
                work_dir=tmp_path / f"work-{sentinels}" if scenario.keep else None,
            )  # fmt: skip
        trainers[name, sentinels] = caught.value.args[0]
        return trainers[name, sentinels]

    return build


def _sentinels(scenario: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path, row in SEEN.items():
        if row.scenario == scenario:
            section, *inner = path.split(".")
            value = row.value
            for part in reversed(inner[1:]):
                value = {part: value}
            found.setdefault(section, {})[inner[0]] = value
    return found


def _base(scenario: Scenario, tiny_model: Path, directory: Path) -> Path:
    """A tiny model of the scenario's architecture, or a llama of one layer, with the tiny llama's tokenizer."""
    import transformers

    shutil.copytree(tiny_model, directory, ignore=lambda *_: ["model.safetensors", "config.json"])
    values = json.loads((tiny_model / "config.json").read_text())
    if scenario.architecture is None:
        config = transformers.LlamaConfig(**(values | {"num_hidden_layers": 1}))
    else:
        name, own = scenario.architecture
        keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
        config = getattr(transformers, name)(**({key: values[key] for key in keys} | own))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


# --- fields of other functions ----------------------------------------------------------------------------------------


def refused(build: Callable[[], Any], words: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=words):
        build()


def check_task(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.models.base import resolve_base_model
    from forge_pipeline.models.heads import head_for

    heads = [
        head_for(config, resolve_base_model(config))
        for config in (recipe(), recipe(model={"task": "extractive-question-answering"}))
    ]
    assert heads == ["causal-lm", "question-answering"]


def check_revision(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.models.base import resolve_base_model

    assert resolve_base_model(recipe(model={"revision": "v9"})).revision_requested == "v9"
    # On the Hub it is what is asked for; the message of a run that may not ask shows it.
    refused(
        lambda: resolve_base_model(recipe(model={"name_or_path": "a/b", "revision": "v9", "offline": True})),
        "revision 'v9'",
    )


def check_offline(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.models.base import resolve_base_model

    refused(lambda: resolve_base_model(recipe(model={"name_or_path": "a/b", "offline": True})), "this run is offline")


def check_remote_code(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.models.architecture import read_architecture
    from forge_pipeline.models.base import resolve_base_model

    own = tmp_path / "own-code"
    shutil.copytree(recipe().model.name_or_path, own)
    values = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(
        json.dumps(values | {"model_type": "homemade", "auto_map": {"AutoConfig": "homemade.HomemadeConfig"}})
    )
    (own / "homemade.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass HomemadeConfig(LlamaConfig):\n    model_type = 'homemade'\n"
    )

    def read(trust: bool) -> Any:
        config = recipe(model={"name_or_path": str(own), "trust_remote_code": trust})
        return read_architecture(config, resolve_base_model(config))

    refused(lambda: read(False), "trust_remote_code|custom code|cannot be read")
    assert read(True).model_type == "homemade"


def check_quantized_experts(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.models.base import resolve_base_model
    from forge_pipeline.models.compatibility import check_compatibility

    directory = _base(SCENARIOS["experts"], Path(recipe().model.name_or_path), tmp_path / "experts")
    config = recipe(model={"name_or_path": str(directory), "moe": {"quantize_experts": True}}, lora={"dropout": 0.0})
    refused(lambda: check_compatibility(config, resolve_base_model(config), "cpu"), "quantize_experts")


def check_multimodal(recipe: Callable, tmp_path: Path) -> None:
    """The columns mean something only with `enabled`, which is refused."""
    refused(lambda: recipe(model={"multimodal": {"enabled": True}}), "multimodal.enabled")


def check_task_type(recipe: Callable, tmp_path: Path) -> None:
    """There is one value, and PEFT gets it."""
    from forge_pipeline.models import lora_config

    assert get_args(LoraSection.model_fields["task_type"].annotation) == ("CAUSAL_LM",)
    assert lora_config(recipe()).task_type == "CAUSAL_LM"


def check_trainer_type(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.training.methods import load_classes, method_for

    classes = [load_classes(method_for(recipe(training={"trainer_type": kind})))[0] for kind in ("sft", "dpo")]
    assert [each.__name__ for each in classes] == ["SFTTrainer", "DPOTrainer"]


def check_output_dir(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.trainer import ForgeTrainer

    config = recipe(
        training={"output_dir": str(tmp_path / "here")}, data={"dataset_name_or_path": str(tmp_path / "none.jsonl")}
    )
    with pytest.raises(DataError, match=r"none\.jsonl"):
        ForgeTrainer(config).train()
    assert (tmp_path / "here" / "audit_log.jsonl").is_file()


def check_merge_adapters(recipe: Callable, tmp_path: Path) -> None:
    assert [recipe(training={"merge_adapters": value}).merges_adapter for value in (False, True)] == [False, True]


def arguments(config: ForgeConfig, device: str = "cpu") -> dict[str, Any]:
    from forge_pipeline.training.arguments import build_arguments

    return build_arguments(
        config, device=device, dtype="bfloat16", bfloat16=True, rows=9, validation_rows=0, work_dir=Path("w"), keep=False
    )  # fmt: skip  # type: ignore[arg-type]


def check_full_determinism(recipe: Callable, tmp_path: Path) -> None:
    assert [arguments(recipe(training={"full_determinism": value}))["full_determinism"] for value in (False, True)] == [
        False,
        True,
    ]


def check_liger(recipe: Callable, tmp_path: Path) -> None:
    from trl import SFTConfig

    given = arguments(recipe(training={"use_liger_kernel": True}), "cuda")
    assert given["use_liger_kernel"] is True
    assert "use_liger_kernel" in SFTConfig.__dataclass_fields__
    assert "use_liger_kernel" not in arguments(recipe(), "cuda")


def check_report_to(recipe: Callable, tmp_path: Path) -> None:
    assert recipe(training={"report_to": "mlflow"}).training.trackers == ("mlflow",)


def check_rlhf(recipe: Callable, tmp_path: Path) -> None:
    from forge_pipeline.training.methods import METHODS, method_for

    kinds = [method_for(recipe(training={"trainer_type": "rlhf", "rlhf_algorithm": each})) for each in ("rloo", "grpo")]
    assert kinds[0].trainer != kinds[1].trainer
    training = recipe(training={"trainer_type": "rlhf", "rlhf_beta": 0.375}).training
    assert METHODS["rlhf"].arguments(training)["beta"] == 0.375


ASKED: dict[str, Callable[[Callable, Path], None]] = {
    "model.task": check_task,
    "model.revision": check_revision,
    "model.offline": check_offline,
    "model.trust_remote_code": check_remote_code,
    "model.moe.quantize_experts": check_quantized_experts,
    "model.multimodal.enabled": check_multimodal,
    "model.multimodal.image_column": check_multimodal,
    "model.multimodal.text_column": check_multimodal,
    "lora.task_type": check_task_type,
    "training.trainer_type": check_trainer_type,
    "training.output_dir": check_output_dir,
    "training.merge_adapters": check_merge_adapters,
    "training.full_determinism": check_full_determinism,
    "training.use_liger_kernel": check_liger,
    "training.report_to": check_report_to,
    "training.rlhf_algorithm": check_rlhf,
    "training.rlhf_beta": check_rlhf,
}

READ_BY: dict[str, str] = {
    "model.allow_unreleased": "models/base_line.py",
    "model.backend": "training/external/back_ends.py",
    "model.backend_python": "training/external/back_ends.py",
    "training.final_model_dir": "trainer.py",
    "training.assistant_only_loss": "data/row_encoding.py",
    "training.completion_only_loss": "data/row_encoding.py",
    "training.rlhf_reward_epochs": "training/rlhf.py",
    "training.rlhf_reward_max_steps": "training/rlhf.py",
    "training.rlhf_reward_learning_rate": "training/rlhf.py",
    "training.grpo_reward_model": "training/rewards.py",
    "training.grpo_reward_model_revision": "training/rewards.py",
    "training.doc_stride": "data/task_encoding.py",
    "training.max_answer_length": "training/task_trainers.py",
    "training.summary_max_length": "training/task_trainers.py",
    "training.summary_eval_rows": "training/task_trainers.py",
    "training.fit_check": "training/memory_floor.py",
    "training.oom_recovery": "training/fine_tune.py",
    "training.oom_recovery_min_batch_size": "training/fine_tune.py",
    "training.divergence_factor": "training/recovery.py",
    "training.divergence_window": "training/recovery.py",
    "training.logging_dir": "training/trackers.py",
    "training.gpu_cost_per_hour": "training/fine_tune.py",
    "training.gpu_cost_currency": "training/fine_tune.py",
    "distributed.strategy": "training/distributed.py",
    "distributed.processes": "training/distributed.py",
    "distributed.hosts": "training/distributed.py",
    "distributed.launcher": "training/launcher.py",
    "distributed.backend": "training/distributed.py",
    "distributed.timeout": "training/distributed.py",
    "distributed.deepspeed_config": "training/distributed.py",
    "distributed.fsdp_strategy": "training/distributed.py",
    "distributed.fsdp_auto_wrap": "training/distributed.py",
    "distributed.fsdp_offload": "training/distributed.py",
    "distributed.fsdp_backward_prefetch": "config/operation.py",
    "distributed.fsdp_state_dict_type": "training/distributed.py",
    "data.dataset_name_or_path": "config/data.py",
    "data.extra_datasets": "config/data.py",
    "data.revision": "config/data.py",
    "data.license": "config/data.py",
    "data.origin": "config/data.py",
    "data.category": "config/data.py",
    "data.mix_ratio": "data/mixing.py",
    "data.mix_temperature": "data/mixing.py",
    "data.mix_replacement": "data/mixing.py",
    "data.mix_rows": "data/mixing.py",
    "data.limit": "data/ingestion.py",
    "data.split.validation": "data/splits.py",
    "data.split.test": "data/splits.py",
    "data.split.seed": "data/ingestion.py",
    "data.split.keep_together": "data/ingestion.py",
    "data.clean_text": "data/ingestion.py",
    "data.add_eos": "data/row_encoding.py",
    "data.documents.chunk_by": "data/documents/chunking.py",
    "data.documents.chunk_tokens": "data/documents/chunking.py",
    "data.documents.overlap_tokens": "data/documents/chunking.py",
    "data.documents.min_characters": "data/documents/chunking.py",
    "data.governance.collection_method": "annex_iv/answers.py",
    "data.governance.annotation_process": "annex_iv/answers.py",
    "data.governance.known_biases": "annex_iv/answers.py",
    "data.governance.personal_data_included": "annex_iv/answers.py",
    "data.governance.dpia_completed": "annex_iv/answers.py",
    "data.clean.enabled": "trainer.py",
    "data.clean.secrets": "dataset_audit/cleaning.py",
    "data.clean.pii": "dataset_audit/cleaning.py",
    "data.clean.pii_categories": "dataset_audit/cleaning.py",
    "data.clean.exact_duplicates": "dataset_audit/cleaning.py",
    "data.clean.near_duplicates": "dataset_audit/cleaning.py",
    "data.clean.split_overlap": "dataset_audit/cleaning.py",
    "data.clean.contaminated": "dataset_audit/cleaning.py",
    "data.clean.quality": "dataset_audit/cleaning.py",
    "data.clean.languages": "dataset_audit/cleaning.py",
    "data.audit.enabled": "dataset_audit/stage.py",
    "data.audit.near_dup_threshold": "dataset_audit/settings.py",
    "data.audit.dedup_method": "dataset_audit/settings.py",
    "data.audit.minhash_jaccard": "dataset_audit/settings.py",
    "data.audit.minhash_num_perm": "dataset_audit/settings.py",
    "data.audit.enable_quality_filter": "dataset_audit/settings.py",
    "data.audit.enable_pii_ml": "dataset_audit/settings.py",
    "data.audit.pii_ml_language": "dataset_audit/settings.py",
    "data.audit.emit_croissant": "dataset_audit/settings.py",
    "data.audit.html_report": "dataset_audit/stage.py",
    "data.audit.token_counts": "dataset_audit/stage.py",
    "data.audit.workers": "dataset_audit/settings.py",
    "data.audit.contamination.enabled": "dataset_audit/stage.py",
    "data.audit.contamination.ngram": "dataset_audit/stage.py",
    "data.audit.contamination.min_words": "dataset_audit/stage.py",
    "data.audit.contamination.jaccard": "dataset_audit/stage.py",
    "data.audit.min_rows": "dataset_audit/stage.py",
    "data.audit.max_secrets": "dataset_audit/stage.py",
    "data.audit.max_critical_pii": "dataset_audit/stage.py",
    "data.audit.max_split_overlap": "dataset_audit/stage.py",
    "data.audit.max_contamination": "dataset_audit/stage.py",
    "data.audit.guards": "dataset_audit/stage.py",
}


def fields_of(section: type[BaseModel], prefix: str) -> Iterator[str]:
    """Dotted names of all values under a section; lists of sections count as one value."""
    for name, info in section.model_fields.items():
        inner = [
            kind
            for kind in (info.annotation, *get_args(info.annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if inner:
            yield from fields_of(inner[0], f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}"


@cache
def names_read_in(module: str) -> frozenset[str]:
    """Every attribute that a module reads from something."""
    tree = ast.parse((SOURCES / module).read_text(encoding="utf-8"))
    return frozenset(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def test_every_field_stands_in_exactly_one_table() -> None:
    fields = [path for name, section in SECTIONS.items() for path in fields_of(section, name)]
    listed = [*SEEN, *ASKED, *READ_BY]
    assert sorted(set(fields) - set(listed)) == [], "without a row: say in which table what these do"
    assert sorted(set(listed) - set(fields)) == [], "rows for fields that are gone"
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("path", SEEN)
def test_the_trainer_gets_what_the_recipe_says(path: str, trainer_of: Callable[[str, bool], Any]) -> None:
    row = SEEN[path]
    with_it, without = (row.look(trainer_of(row.scenario, sentinels)) for sentinels in (True, False))
    assert with_it == row.expected
    assert without != row.expected, "the sentinel must differ from what is there anyway"


@pytest.mark.parametrize("path", ASKED)
def test_the_function_that_a_field_belongs_to_answers_to_it(
    path: str, recipe: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    ASKED[path](recipe, tmp_path)


@pytest.mark.parametrize("path", READ_BY)
def test_the_module_that_a_field_is_for_reads_it(path: str) -> None:
    assert path.rpartition(".")[2] in names_read_in(READ_BY[path]), f"{READ_BY[path]} does not read {path}"
