"""Training by other tools in environments of their own: one really trains here, the others are refused early."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from forge_pipeline.errors import ConfigError, OptionalDependencyError, TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.models import load_tuned
from forge_pipeline.progress import Progress
from forge_pipeline.training import fine_tune, read_training_report
from forge_pipeline.training.arguments import check_training
from forge_pipeline.training.external.back_ends import _SCRIPTS, BACK_ENDS, find_environment

RAW = Digest.of(b"raw")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def external(recipe: Callable, python: str | None = sys.executable, name: str = "trl", **sections: Any) -> Any:
    model = {"backend": name, "backend_python": python} | sections.pop("model", {})
    return recipe(model=model, lora={"dropout": 0.0} | sections.pop("lora", {}), **sections)


def test_a_bare_trl_script_in_another_interpreter_trains_the_same_rows_to_the_same_losses(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    training = {"max_steps": 4, "per_device_train_batch_size": 6, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    dataset, seen = tokenized(), []
    done = fine_tune(
        external(recipe, training=training, model={"dtype": "float32"}),
        dataset,
        RAW,
        tmp_path / "tool",
        progress=seen.append,
    )
    ours = fine_tune(
        recipe(training=training, lora={"dropout": 0.0}, model={"dtype": "float32"}), dataset, RAW, tmp_path / "ours"
    )
    # Every batch holds all six rows, so the order in which they are drawn does not matter.
    first, second = ([p.loss for p in run.report.loss_history if p.loss is not None] for run in (done, ours))
    assert first[0] == pytest.approx(second[0], abs=1e-4)
    assert len(first) == 4
    assert first[-1] < first[0]

    report = read_training_report(done.model)
    assert report.tool["name"] == "TRL"
    assert {"trl", "peft", "transformers", "torch", "python"} <= report.tool.keys()
    assert report.steps == 4
    assert report.trainable_parameters == ours.report.trainable_parameters
    assert {path.name for path in done.model.path.iterdir()} == {path.name for path in ours.model.path.iterdir()}
    assert done.model.record == ours.model.record.__class__(
        **{**vars(ours.model.record), "config_digest": done.model.record.config_digest}
    )
    assert str(tmp_path) not in (done.model.path / "training_report.json").read_text()
    steps = [moment.step for moment in seen if "loss" in moment.metrics]
    assert steps == sorted(steps)
    assert steps[-1] == 4
    assert seen[-1].message == "saved"
    assert done.usage.cpu_seconds > 0
    load_tuned(external(recipe), done.model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "tokenized-sft", "tool"]


FAKE = """#!{python}
# Speaks the protocol as a runner does, and ends as `how` says. Started as: python -u run_<tool>.py [--check] file
import json, os, shutil, sys, time
how = {how!r}
if sys.argv[3] == "--check":
    if how == "mute":
        print("what is this"); sys.exit(3)
    json.dump({{"versions": {{"trl": "0"}}}}, open(sys.argv[4], "w")); sys.exit(0)
spec = json.load(open(sys.argv[3]))
def moment(step):
    with open(spec["progress_file"], "a") as file:
        file.write(json.dumps({{"step": step, "total": 2, "message": "training", "metrics": {{"loss": 1.0}}}}) + "\\n")
moment(1)
if how == "crash":
    print("CUDA error: an illegal memory access", flush=True); os.abort()
if how == "silence":
    sys.exit(0)
if how == "hang":
    import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)
if how == "babble":
    open(spec["progress_file"], "a").write("step 2 of 2\\n")
if how == "own error":
    json.dump({{"error": {{"kind": "failed", "message": "ValueError: no such template"}}}}, open(spec["result_file"], "w")); sys.exit(1)
log = [{{"step": 2, "epoch": 1.0, "loss": 1.0, "learning_rate": 0.1}}]
trained = dict(trainer_class="x", steps=2, max_steps=2, epochs=1.0, log=log, trainable_parameters=1, total_parameters=2,
               dtype="float32", device="cpu")
if how == "half a result":
    del trained["steps"]
if how != "no adapter":
    shutil.copytree({adapter!r}, spec["output_dir"])
    config = json.load(open(spec["output_dir"] + "/adapter_config.json"))
    config["base_model_name_or_path"] = "another/model" if how == "another base" else spec["base_model"]
    if how == "another rank": config["r"] = 64
    json.dump(config, open(spec["output_dir"] + "/adapter_config.json", "w"))
    weights = spec["output_dir"] + "/adapter_model.safetensors"
    if how in ("not finite", "untrained", "another shape"):
        import torch; from safetensors.torch import load_file, save_file
        tensors = load_file(weights)
        name = sorted(name for name in tensors if "lora_B" in name)[0]
        if how == "not finite": tensors[name][0, 0] = float("nan")
        if how == "untrained": tensors = {{n: t * 0 if "lora_B" in n else t for n, t in tensors.items()}}
        if how == "another shape": tensors[name] = torch.ones(7, tensors[name].shape[1])
        save_file(tensors, weights)
    if how == "cut short":
        data = open(weights, "rb").read(); open(weights, "wb").write(data[: len(data) // 2])
json.dump({{"versions": {{}}, "trained": trained}}, open(spec["result_file"], "w"))
"""

ENDINGS = {
    "crash": "killed by signal 6 and left no result. Its last words: CUDA error: an illegal memory access",
    "silence": "exit code 0 and left no result",
    "babble": "b'step 2 of 2",
    "own error": "TRL: ValueError: no such template",
    "half a result": "its result is not as agreed",
    "no adapter": "wrote no adapter_config.json and no adapter_model.safetensors",
    "another base": "for the base model 'another/model', but it was given",
    "another rank": "has r 64; the recipe asks for 4",
    "not finite": "not finite",
    "untrained": "nothing was learned",
    "another shape": r"is of shape \(7, 4\), but the base model's model.layers.0.self_attn.q_proj.weight is of shape",
    "cut short": "cannot be read",
}


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 4 for the tiny model, as PEFT writes it, with lora_B away from zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("made") / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    model.save_pretrained(str(directory))
    return directory


@pytest.fixture
def fake(adapter: Path, tmp_path: Path) -> Callable[[str], str]:
    """An interpreter that runs a fake runner instead of the script it is given."""

    def make(how: str) -> str:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "python"
        program.write_text(FAKE.format(python=sys.executable, how=how, adapter=str(adapter)))
        program.chmod(0o755)
        return str(program)

    return make


def test_an_adapter_as_agreed_is_taken(recipe: Callable, tokenized: Callable, fake: Callable, tmp_path: Path) -> None:
    done = fine_tune(external(recipe, fake("well")), tokenized(), RAW, tmp_path / "model")
    assert done.report.steps == 2
    settings = json.loads((done.model.path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == external(recipe).model.name_or_path


@pytest.mark.parametrize(("how", "words"), ENDINGS.items(), ids=ENDINGS)
def test_what_a_tool_leaves_is_not_believed(
    how: str, words: str, recipe: Callable, tokenized: Callable, fake: Callable, tmp_path: Path
) -> None:
    config = external(recipe, fake(how))
    with pytest.raises(TrainingError, match=words):
        fine_tune(config, tokenized(), RAW, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "tokenized-sft"]


def test_interrupting_ends_a_tool_that_does_not_listen(
    recipe: Callable, tokenized: Callable, fake: Callable, tmp_path: Path
) -> None:
    children: list[psutil.Process] = []
    before = {child.pid for child in psutil.Process().children(recursive=True)}  # of other tests' fixtures
    asked = 0.0

    def interrupt(moment: Progress) -> None:
        nonlocal asked
        if moment.step == 1:
            mine = psutil.Process().children(recursive=True)
            children.extend(child for child in mine if child.pid not in before)
            time.sleep(0.5)
            asked = time.monotonic()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(external(recipe, fake("hang")), tokenized(), RAW, tmp_path / "model", progress=interrupt)
    assert time.monotonic() - asked < 5
    assert children
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not (tmp_path / "model").exists()


def test_a_tool_gets_no_secret_of_ours_and_nothing_that_leads_it_to_our_packages(
    recipe: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "json.dump({'versions': dict(os.environ)}, open(sys.argv[4], 'w'))\n"
    )
    program.chmod(0o755)
    secrets = {"FORGE_AUDIT_SECRET": "s", "PYTHONPATH": "/ours", "VIRTUAL_ENV": "/ours", "DAGSTER_HOME": "/ours"}
    environ = {**os.environ, **secrets}
    given = find_environment(external(recipe, str(program)), environ).versions
    assert not secrets.keys() & given.keys()
    assert given["HF_HUB_DISABLE_TELEMETRY"] == "1"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dpo": ({"training": {"trainer_type": "dpo"}}, "training.trainer_type: model.backend trl does sft"),
    "every weight": ({"lora": {"method": "none"}}, "lora.method: model.backend trl does lora, dora, rslora"),
    "pissa": ({"lora": {"method": "pissa"}}, "lora.method"),
    "packing": ({"training": {"packing": True}}, "training.packing: found True"),
    "rope scaling": (
        {"model": {"rope_scaling": None}, "training": {"group_by_length": True}},
        "training.group_by_length",
    ),
    "row order": ({"data": {"shuffle": False}}, "data.shuffle"),
    "attention": ({"model": {"attn_implementation": "eager"}}, "model.attn_implementation: found 'eager'"),
}
REFUSED["rope scaling"][0].pop("model")


@pytest.mark.parametrize(("sections", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_tool_does_not_do_is_refused_from_the_recipe_alone(
    sections: dict[str, Any], words: str, recipe: Callable
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_training(external(recipe, **sections))


def test_several_processes_and_a_tool_exclude_each_other(recipe: Callable) -> None:
    with pytest.raises(ConfigError, match="remove the distributed section"):
        external(recipe, distributed={"processes": 2})


@pytest.mark.parametrize("name", BACK_ENDS)
def test_without_an_interpreter_the_error_says_how_to_make_one(name: str, recipe: Callable) -> None:
    with pytest.raises(ConfigError, match=rf"python -m venv DIR.*model.backend_python or FORGE_{name.upper()}_PYTHON"):
        find_environment(external(recipe, None, name), {})


def test_the_interpreter_may_come_from_the_environment(recipe: Callable, fake: Callable) -> None:
    found = find_environment(external(recipe, None), {**os.environ, "FORGE_TRL_PYTHON": fake("well")})
    assert found.versions == {"trl": "0"}


def test_an_interpreter_that_is_none_is_named(recipe: Callable, fake: Callable, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a program"):
        find_environment(external(recipe, str(tmp_path / "absent")), {})
    with pytest.raises(ConfigError, match=r"did not answer \(exit code 3\): what is this"):
        find_environment(external(recipe, fake("mute")), dict(os.environ))


@pytest.mark.parametrize("name", ["unsloth", "axolotl", "llama_factory"])
def test_a_tool_that_is_not_installed_there_is_refused_by_its_runner(name: str, recipe: Callable) -> None:
    """By this interpreter, which has none of the three: their pins exclude ours."""
    with pytest.raises(OptionalDependencyError, match=f"model.backend: {name} cannot run: .* has no module"):
        find_environment(external(recipe, sys.executable, name), dict(os.environ))


@pytest.mark.parametrize("name", ["unsloth", "axolotl"])
def test_a_tool_for_gpus_is_refused_where_there_is_none(name: str, recipe: Callable, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    # The tool is importable as far as the check goes; PyTorch is the real one, and says that there is no GPU.
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    with pytest.raises(
        OptionalDependencyError, match=r"needs a CUDA device, and PyTorch in its environment .* sees none"
    ):
        find_environment(external(recipe, str(program), name), dict(os.environ))


def test_the_runners_import_nothing_of_ours() -> None:
    for script in [path for path in _SCRIPTS.glob("*.py") if path.name.startswith(("run_", "protocol", "axolotl_"))]:
        assert "forge_pipeline" not in script.read_text(), script.name
    code = "import sys; sys.path.insert(0, sys.argv[1]); import protocol; print('ok')"
    answer = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code, str(_SCRIPTS)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "ok"
