"""The stage as a whole: an adapter becomes GGUF files, a report and two gate decisions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.deploy import deploy
from forge_pipeline.errors import ExportError
from forge_pipeline.export import ExportReport, GgufModel, fidelity_gates, gguf, read_gguf, run_gguf
from forge_pipeline.export import stage as stage_module
from forge_pipeline.export.hard_strings import HARD_STRINGS
from forge_pipeline.export.result import EXPORT_REPORT_FILE
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, read_report, write_report
from forge_pipeline.models import ModelDirectory, merge, resolve_base_model
from forge_pipeline.models.directory import ModelRecord, write_record

TEXTS = [
    "<|im_start|>user\nThe quick brown fox jumps over the lazy dog?<|im_end|>\n<|im_start|>assistant\nIt does.",
    "def g(x):\n    return x * 67890  # another comment, isn't it?\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; 12345 Zeilen.",
]


def recipe(base: Path, quantizations: list[str], **fidelity: Any) -> ForgeConfig:
    return ForgeConfig(
        name="tiny",
        model={"name_or_path": str(base), "load_in_4bit": False, "max_length": 64, "offline": True},
        lora={"r": 2, "target_modules": ["q_proj", "v_proj"]},
        training={"output_dir": "out", "trainer_type": "sft"},
        data={"dataset_name_or_path": "rows.jsonl"},
        export={
            "quantizations": quantizations,
            "adapter": fidelity.pop("adapter", False),
            "fidelity": {"prompts": 3, "max_tokens": 64} | fidelity,
        },
    )


@pytest.fixture(scope="module")
def adapter(llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """A LoRA adapter on the tiny llama, far enough from zero to change its answers."""
    import peft
    import torch
    import transformers

    path = tmp_path_factory.mktemp("adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(llama_directory)
    torch.manual_seed(1)
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(base, lora)
    tuned.save_pretrained(path)
    transformers.AutoTokenizer.from_pretrained(llama_directory).save_pretrained(path)
    config = recipe(llama_directory, ["f16"])
    digest = Digest.of(b"")
    record = ModelRecord("adapter", resolve_base_model(config).record, "sft", digest, digest, digest, None, 0)
    write_record(path, record)
    return ModelDirectory.open(path)


@pytest.fixture(scope="module")
def exported(adapter: ModelDirectory, llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> GgufModel:
    config = recipe(llama_directory, ["f16", "q8_0", "q4_k_m"])
    output = tmp_path_factory.mktemp("export") / "gguf"
    return gguf(config, adapter, TEXTS, output, provenance={"recipe_digest": "sha256:" + "1" * 64})


def gates(config: ForgeConfig, exported: GgufModel) -> dict[str, GateDecision]:
    return {decision.gate: decision for decision in fidelity_gates(config, exported)}


def test_an_adapter_becomes_faithful_files(exported: GgufModel, llama_directory: Path) -> None:
    report = exported.report
    assert [file.name for file in report.files] == ["tiny.f16.gguf", "tiny.q8_0.gguf", "tiny.q4_k_m.gguf"]
    assert report.architecture == "llama"
    assert report.chat_template_equal is True
    first, second, third = (file.fidelity for file in report.files)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.mean_kl < second.mean_kl < third.mean_kl
    assert (first.top1_agreement, first.top1_differences, first.top1_lead) == (1.0, 0, 0.0)
    assert third.top1_differences == round((1 - third.top1_agreement) * third.tokens) > 0
    assert third.top1_lead is not None
    assert third.top1_lead > 0
    assert first.tokenizer_mismatches == 0
    assert first.perplexity_exported == pytest.approx(first.perplexity_reference, rel=1e-3)
    assert (first.prompts, first.tokens) == (3, second.tokens)
    decisions = gates(recipe(llama_directory, ["f16", "q8_0", "q4_k_m"]), exported)
    assert decisions["gguf_is_valid"].outcome == "pass"
    assert decisions["gguf_is_faithful"].outcome == "pass", decisions["gguf_is_faithful"].reason
    assert "q4_k_m: reported only" in decisions["gguf_is_faithful"].reason
    assert {decision.subject for decision in decisions.values()} == {exported.digest}


def test_the_adapter_changes_what_it_targets_and_nothing_else(exported: GgufModel, llama_gguf: Path) -> None:
    with_adapter, without = exported.file("f16"), llama_gguf
    pairs = zip(read_gguf(with_adapter).tensors, read_gguf(without).tensors, strict=True)
    new, old = with_adapter.read_bytes(), without.read_bytes()
    differing = {a.name for a, b in pairs if new[a.offset : a.offset + a.size] != old[b.offset : b.offset + b.size]}
    assert differing == {f"blk.{block}.attn_{part}.weight" for block in (0, 1) for part in "qv"}


def test_provenance_and_modelfile_are_there(exported: GgufModel, adapter: ModelDirectory) -> None:
    metadata = read_gguf(exported.file("q8_0")).metadata
    assert metadata["forge.recipe_digest"] == "sha256:" + "1" * 64
    assert metadata["forge.model_digest"] == adapter.digest
    modelfile = (exported.path / "Modelfile").read_text()
    assert modelfile.startswith('FROM ./tiny.f16.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}')
    assert modelfile.endswith('"""\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 256\n')


def test_the_modelfile_is_the_one_that_deploy_writes(
    exported: GgufModel, llama_directory: Path, tmp_path: Path
) -> None:
    done = deploy(recipe(llama_directory, ["f16"]), exported.file("f16"), tmp_path / "out", "ollama")
    deployed = (done.path / "Modelfile").read_text().split("\n", 1)
    assert deployed == [f"FROM {exported.file('f16')}", (exported.path / "Modelfile").read_text().split("\n", 1)[1]]


@pytest.fixture(scope="module")
def with_adapter(adapter: ModelDirectory, llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> GgufModel:
    output = tmp_path_factory.mktemp("export") / "gguf"
    return gguf(recipe(llama_directory, ["q8_0"], adapter=True), adapter, TEXTS, output)


def test_the_adapter_alone_is_measured_beside_its_base(with_adapter: GgufModel, llama_directory: Path) -> None:
    q8_0, lora = with_adapter.report.files
    assert (lora.name, lora.quantization, lora.tensor_types) == ("tiny.lora.gguf", "adapter", {"F32": 8})
    assert with_adapter.report.chat_template_equal is True
    assert lora.fidelity is not None
    assert q8_0.fidelity is not None
    assert lora.fidelity.mean_kl < 1e-4 < q8_0.fidelity.mean_kl
    assert read_gguf(with_adapter.file("adapter")).metadata["forge.model_digest"]
    decisions = gates(recipe(llama_directory, ["q8_0"], adapter=True), with_adapter)
    assert decisions["gguf_is_valid"].outcome == "pass"
    assert "adapter: mean KL" in decisions["gguf_is_faithful"].reason
    strict = recipe(llama_directory, ["q8_0"], adapter=True, max_mean_kl={"f16": 0.0})
    assert "adapter: mean KL" in gates(strict, with_adapter)["gguf_is_faithful"].reason
    assert gates(strict, with_adapter)["gguf_is_faithful"].outcome == "fail"


def test_the_adapter_may_be_all_that_is_exported(
    adapter: ModelDirectory, llama_directory: Path, tmp_path: Path
) -> None:
    config = recipe(llama_directory, ["f16"], adapter=True, enabled=False)
    config = config.model_copy(update={"export": config.export.model_copy(update={"quantizations": []})})
    exported = gguf(config, adapter, TEXTS, tmp_path / "out")
    assert sorted(path.name for path in exported.path.iterdir()) == ["export_report.json", "tiny.lora.gguf"]
    assert exported.report.chat_template_equal is None
    assert gates(config, exported)["gguf_is_valid"].outcome == "pass"


def test_a_full_model_has_no_adapter_to_write(adapter: ModelDirectory, llama_directory: Path, tmp_path: Path) -> None:
    config = recipe(llama_directory, ["q8_0"], adapter=True)
    with pytest.raises(ExportError, match=r"export\.adapter.*full model"):
        gguf(config, merge(config, adapter, tmp_path / "full"), TEXTS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_each_distance_has_a_limit_of_its_own(exported: GgufModel, llama_directory: Path) -> None:
    words = {
        "max_mean_kl": "mean KL",
        "max_p99_kl": "KL at 99 % of the positions",
        "max_perplexity_rise": "perplexity rises by",
    }
    for name, expected in words.items():
        limits = {name: {"q4_k_m": -1.0}}
        decision = gates(recipe(llama_directory, ["f16"], **limits), exported)["gguf_is_faithful"]
        assert decision.outcome == "fail", name
        assert f"q4_k_m: {expected}" in decision.reason
    decision = gates(recipe(llama_directory, ["f16"], min_top1={"q4_k_m": 1.01}), exported)["gguf_is_faithful"]
    assert "q4_k_m: top-1 agreement" in decision.reason


def test_the_report_counts_the_texts_that_both_tokenizers_had(exported: GgufModel) -> None:
    fidelity = exported.report.files[0].fidelity
    assert fidelity is not None
    assert fidelity.tokenizer_texts == len(TEXTS) + len(HARD_STRINGS)
    assert fidelity.mismatched == ()


def test_size_and_distance_are_drawn(exported: GgufModel) -> None:
    import base64

    from resources.size_curve import size_plot

    drawn = size_plot(exported.report)
    assert drawn is not None
    assert base64.b64decode(drawn).startswith(b"\x89PNG")
    unmeasured = replace(exported.report, files=tuple(replace(file, fidelity=None) for file in exported.report.files))
    assert size_plot(unmeasured) is None


def test_the_exported_file_answers(exported: GgufModel) -> None:
    assert run_gguf(exported.file("f16"), [{"role": "user", "content": "Hello"}], 8, threads=1)


def test_a_second_export_has_the_same_digest(
    exported: GgufModel, adapter: ModelDirectory, llama_directory: Path, tmp_path: Path
) -> None:
    config = recipe(llama_directory, ["f16", "q8_0", "q4_k_m"])
    again = gguf(config, adapter, TEXTS, tmp_path / "again", provenance={"recipe_digest": "sha256:" + "1" * 64})
    assert again.digest == exported.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_a_threshold_that_is_missed_fails(exported: GgufModel, llama_directory: Path) -> None:
    strict = recipe(llama_directory, ["f16"], max_mean_kl={"f16": 1e-4, "q4_k_m": 1e-9})
    decision = gates(strict, exported)["gguf_is_faithful"]
    assert decision.outcome == "fail"
    assert "q4_k_m: mean KL" in decision.reason
    assert (decision.metric, decision.threshold) == ("mean_kl[q4_k_m]", 1e-9)


def changed(exported: GgufModel, folder: Path, **changes: Any) -> GgufModel:
    """A copy whose report says something else."""
    import shutil

    shutil.copytree(exported.path, folder)
    report = read_report(folder / EXPORT_REPORT_FILE, ExportReport)
    write_report(folder / EXPORT_REPORT_FILE, replace(report, **changes))
    return GgufModel.open(folder)


def test_without_thresholds_measurements_or_evidence_nothing_passes(
    exported: GgufModel, llama_directory: Path, tmp_path: Path
) -> None:
    config = recipe(llama_directory, ["f16"])
    file = exported.report.files[0]
    assert file.fidelity is not None
    few, torn = replace(file.fidelity, tokens=9), replace(file.fidelity, tokenizer_mismatches=1)
    cases: dict[str, tuple[ForgeConfig, dict[str, Any], str]] = {
        "no threshold": (recipe(llama_directory, ["f16"], max_mean_kl={}, min_top1={}), {}, "not_run"),
        "switched off": (recipe(llama_directory, ["f16"], enabled=False), {}, "not_run"),
        "not measured": (config, {"files": (replace(file, fidelity=None),)}, "not_run"),
        "no files": (config, {"files": ()}, "not_run"),
        "few tokens": (config, {"files": (replace(file, fidelity=few),)}, "insufficient_evidence"),
        "another tokenization": (config, {"files": (replace(file, fidelity=torn),)}, "fail"),
        "another template": (config, {"chat_template_equal": False}, "fail"),
    }
    for name, (settings, changes, outcome) in cases.items():
        found = gates(settings, changed(exported, tmp_path / name, **changes))["gguf_is_faithful"]
        assert found.outcome == outcome, (name, found.reason)


def test_a_damaged_missing_or_exchanged_file_is_not_valid(
    exported: GgufModel, llama_directory: Path, llama_gguf: Path, tmp_path: Path
) -> None:
    import shutil

    config = recipe(llama_directory, ["f16"])
    for name in ("damaged", "missing", "exchanged"):
        shutil.copytree(exported.path, tmp_path / name)
    with (tmp_path / "damaged" / "tiny.f16.gguf").open("r+b") as file:
        file.truncate(1000)
    (tmp_path / "missing" / "tiny.f16.gguf").unlink()
    shutil.copy(llama_gguf, tmp_path / "exchanged" / "tiny.f16.gguf")
    words = {"damaged": "tiny.f16.gguf: header", "missing": "cannot be read", "exchanged": "the report says"}
    for name, expected in words.items():
        decision = gates(config, GgufModel.open(tmp_path / name))["gguf_is_valid"]
        assert decision.outcome == "fail"
        assert expected in decision.reason


def test_without_a_runtime_the_files_are_made_and_the_gate_is_not_run(
    adapter: ModelDirectory, llama_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "runtime_name", lambda: None)
    config = recipe(llama_directory, ["q8_0"])
    exported = gguf(config, adapter, TEXTS, tmp_path / "out")
    assert exported.report.runtime is None
    decisions = gates(config, exported)
    assert decisions["gguf_is_valid"].outcome == "pass"
    assert decisions["gguf_is_faithful"].outcome == "not_run"
