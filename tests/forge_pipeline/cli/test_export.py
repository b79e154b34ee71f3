"""`forge export`: what is written for which options."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.integrity import Digest, write_report
from forge_pipeline.models import ModelDirectory, ModelRecord, load_tokenizer, resolve_base_model
from forge_pipeline.models.directory import write_record
from forge_pipeline.models.writing import write_adapter, write_tokenizer
from forge_pipeline.training import TrainingReport
from forge_pipeline.training.report import LossPoint


@pytest.fixture
def adapter(recipe: Callable, tiny_llama: Path, tmp_path: Path) -> ModelDirectory:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    (tmp_path / "adapter").mkdir()
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    write_adapter(
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), settings), tmp_path / "adapter", base="tiny"
    )
    write_tokenizer(load_tokenizer(recipe()), tmp_path / "adapter")
    nothing = Digest.of(b"")
    record = ModelRecord(
        kind="adapter", base_model=resolve_base_model(recipe()).record, trainer_type="sft", config_digest=nothing,
        dataset_digest=nothing, tokenized_digest=nothing, chat_template_digest=nothing, seed=0,
    )  # fmt: skip
    write_record(tmp_path / "adapter", record)
    losses = tuple(LossPoint(step, step / 2, 2.0, 0.001, None) for step in (1, 2))
    report = TrainingReport(
        trainer_type="sft", trainer_class="SFTTrainer", steps=2, epochs=1.0, train_loss=2.0, eval_loss=None, metrics={},
        loss_history=losses, tokens_trained=8, trainable_parameters=1, total_parameters=2, seed=0,
        effective_batch_size=1, dtype="float32", device="cpu", stopped_early=False, arguments={},
    )  # fmt: skip
    write_report(tmp_path / "adapter" / "training_report.json", report)
    return ModelDirectory.open(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [(["--adapter"], ["adapter"]), (["--adapter", "-Q", "f16"], ["f16", "adapter"]), (["-Q", "f16"], ["f16"])],
    ids=" ".join,
)
def test_the_adapter_alone_or_with_files_of_the_whole_model(
    options: list[str], wanted: list[str], forge: Callable, adapter: ModelDirectory
) -> None:
    pytest.importorskip("gguf")
    done = forge("export", adapter.path, "out", *options, "--quiet", "--json")
    assert done.code == 0, done.err
    assert [each["quantization"] for each in json.loads(done.out)["files"]] == wanted
    assert Path("out/Modelfile").exists() == ("f16" in wanted)
