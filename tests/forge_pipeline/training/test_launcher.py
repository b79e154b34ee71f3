"""Commands and environments, as text: what would be started where."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, DataError, OptionalDependencyError, TrainingError
from forge_pipeline.training.arguments import build_arguments, check_training, planned_steps
from forge_pipeline.training.distributed import (
    Ranks,
    check_distributed,
    check_took_effect,
    count_gpus,
    deepspeed_settings,
    distributed_arguments,
    read_ranks,
    use_one_gpu,
)
from forge_pipeline.training.launcher import build_launch, first_host, raise_reported, read_outcome, write_outcome

RUN = f"{sys.executable} -m torch.distributed.run"
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "gpu[03-04]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
}
SRUN = "srun --nodes={n} --ntasks={n} --ntasks-per-node=1 --kill-on-bad-exit=1 --quit-on-interrupt"

# section, GPUs, environment -> the command
COMMANDS: dict[str, tuple[dict[str, Any], int, Mapping[str, str], str]] = {
    "nothing said, on a CPU": ({}, 0, {}, sys.executable),
    "nothing said, one GPU": ({}, 1, {}, sys.executable),
    "nothing said, four GPUs": ({}, 4, {}, f"{RUN} --standalone --nproc-per-node=4"),
    "one of four GPUs": ({"processes": 1}, 4, {}, sys.executable),
    "two processes on a CPU": ({"processes": 2}, 0, {}, f"{RUN} --standalone --nproc-per-node=2"),
    "fsdp on one GPU": ({"strategy": "fsdp"}, 1, {}, f"{RUN} --standalone --nproc-per-node=1"),
    "slurm, two hosts": (
        {"launcher": "slurm", "hosts": 2}, 0, SLURM,
        f"{SRUN.format(n=2)} {RUN} --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=gpu03:30111 "
        "--rdzv-id=forge-4711",
    ),
    "slurm, one host, two processes": (
        {"launcher": "slurm", "processes": 2}, 0, SLURM,
        f"{SRUN.format(n=1)} {RUN} --nnodes=1 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=gpu03:30111 "
        "--rdzv-id=forge-4711",
    ),
    "external": (
        {"launcher": "external"}, 0, {"FORGE_LAUNCH_COMMAND": "accelerate launch --config_file 'my cluster.yaml'"},
        "accelerate launch --config_file my cluster.yaml",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("section", "gpus", "environ", "command"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_of_a_recipe(
    section: dict[str, Any], gpus: int, environ: Mapping[str, str], command: str, recipe: Callable
) -> None:
    launch = build_launch(recipe(distributed=section), environ=environ, gpus=gpus)
    assert " ".join(launch.of_module("a.module", "spec.json")) == f"{command} -m a.module spec.json"


def test_without_the_section_one_process_trains_on_one_gpu_whatever_there_is(recipe: Callable) -> None:
    launch = build_launch(recipe(), environ={}, gpus=4)
    assert launch.command == (sys.executable,)
    assert launch.environment == {"CUDA_VISIBLE_DEVICES": "0"}


REFUSED: dict[str, tuple[dict[str, Any], int, Mapping[str, str], type[Exception], str]] = {
    "more processes than GPUs": ({"processes": 3}, 2, {}, ConfigError, "found 3, but 2 GPUs"),
    "slurm without an allocation": ({"launcher": "slurm"}, 0, {}, ConfigError, "inside sbatch or salloc"),
    "more hosts than allocated": (
        {"launcher": "slurm", "hosts": 3},
        0,
        SLURM,
        ConfigError,
        "the Slurm allocation has 2",
    ),
    "external without a command": ({"launcher": "external"}, 0, {}, ConfigError, "FORGE_LAUNCH_COMMAND"),
    "deepspeed not installed": ({"strategy": "deepspeed"}, 8, {}, OptionalDependencyError, "pip install deepspeed"),
}


@pytest.mark.parametrize(("section", "gpus", "environ", "kind", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_started_is_refused_before_anything_is(
    section: dict[str, Any], gpus: int, environ: Mapping[str, str], kind: type[Exception], words: str, recipe: Callable
) -> None:
    with pytest.raises(kind, match=words):
        build_launch(recipe(distributed=section), environ=environ, gpus=gpus)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a DeepSpeed file without DeepSpeed": ({"deepspeed_config": "zero3"}, "strategy: deepspeed"),
    "no_shard": ({"strategy": "fsdp", "fsdp_strategy": "no_shard"}, "strategy: ddp"),
    "hybrid_shard": ({"strategy": "fsdp", "fsdp_strategy": "hybrid_shard"}, "full_shard"),
    "backward_post": ({"strategy": "fsdp", "fsdp_backward_prefetch": "backward_post"}, "FSDP2 has no"),
    "two hosts by torchrun alone": ({"hosts": 2}, "launcher: slurm or launcher: external"),
    "no process": ({"processes": 0}, "from 1, or auto"),
}


@pytest.mark.parametrize(("section", "words"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_section_that_contradicts_itself_is_refused(section: dict[str, Any], words: str, recipe: Callable) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe(distributed=section)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-10,12],cpu1", "gpu03"), ("node7", "node7"), ("a1,b2", "a1"), ("r[1,4]n0", "r1n0"), ("n-[007]", "n-007")],
)
def test_the_first_host_of_a_slurm_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("listed", "gpus"), [("0,1,2", 3), ("", 0), ("-1", 0), ("1,-1,2", 1), ("GPU-8f,MIG-2a", 2), ("NoDevFiles", 0)]
)
def test_visible_gpus_are_counted_as_cuda_counts_them(listed: str, gpus: int) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": listed}) == gpus


@pytest.mark.parametrize(
    ("ranks", "listed", "gpus", "expected"),
    [
        (Ranks(), None, 4, {"CUDA_VISIBLE_DEVICES": "0"}),
        (Ranks(), "3,5", 2, {"CUDA_VISIBLE_DEVICES": "3"}),
        (Ranks(), None, 1, {}),
        (Ranks(1, 1, 2, launched=True), None, 4, {}),
    ],
)
def test_several_gpus_without_a_launcher_become_one(
    ranks: Ranks, listed: str | None, gpus: int, expected: dict[str, str]
) -> None:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert use_one_gpu(ranks, environ, gpus) == expected


WHOLE = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}


def test_ranks_are_read_from_what_a_launcher_sets() -> None:
    assert read_ranks(WHOLE) == Ranks(3, 1, 4, launched=True)
    assert read_ranks({}) == Ranks()


@pytest.mark.parametrize(
    "changes", [{"RANK": "4"}, {"WORLD_SIZE": "many"}, {"MASTER_ADDR": None}, {"LOCAL_RANK": None}], ids=str
)
def test_half_a_launcher_is_an_error_and_no_hang(changes: dict[str, str | None]) -> None:
    environ = {name: value for name, value in (WHOLE | changes).items() if value is not None}
    with pytest.raises(TrainingError):
        read_ranks(environ)


LAUNCHED = Ranks(0, 0, 2, launched=True)


def test_fsdp_without_gpus_is_refused_because_it_would_be_ignored(recipe: Callable) -> None:
    with pytest.raises(ConfigError, match=r"fsdp needs GPUs, .* silently ignored; write ddp"):
        check_distributed(recipe(distributed={"strategy": "fsdp"}), LAUNCHED, "cpu")


def test_fsdp_without_a_launcher_is_refused(recipe: Callable) -> None:
    with pytest.raises(TrainingError, match="needs a launcher"):
        check_distributed(recipe(distributed={"strategy": "fsdp"}), Ranks(), "cuda")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"lora": {"method": "pissa"}}, "pissa cannot be written"),
        ({"model": {"load_in_4bit": True}}, "4-bit weights are not shared out"),
    ],
)
def test_what_shared_weights_do_not_allow_is_refused(sections: dict[str, Any], words: str, recipe: Callable) -> None:
    with pytest.raises(ConfigError, match=words):
        check_distributed(recipe(distributed={"strategy": "fsdp"}, **sections), LAUNCHED, "cuda")


def test_a_strategy_that_accelerate_ignored_stops_the_run(recipe: Callable, tmp_path: Path) -> None:
    """Really asked for and really ignored: this is what accelerate does with FSDP on a CPU."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin

    accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
    config = recipe(distributed={"strategy": "fsdp"})
    with pytest.raises(TrainingError, match="fsdp over 1 processes was asked for, but accelerate set up NO"):
        check_took_effect(config, Ranks(0, 0, 1, launched=True), accelerator)
    check_took_effect(recipe(), Ranks(), accelerator)


FSDP: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {"reshard_after_forward": True, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "cpu_offload": False,
                      "state_dict_type": "FULL_STATE_DICT"}),
    "fsdp_strategy": ({"fsdp_strategy": "shard_grad_op"}, {"reshard_after_forward": False}),
    "fsdp_auto_wrap": ({"fsdp_auto_wrap": False}, {"auto_wrap_policy": "NO_WRAP"}),
    "fsdp_offload": ({"fsdp_offload": True}, {"cpu_offload": True}),
    "fsdp_state_dict_type": ({"fsdp_state_dict_type": "SHARDED_STATE_DICT"}, {"state_dict_type": "SHARDED_STATE_DICT"}),
}  # fmt: skip


@pytest.mark.parametrize(("section", "expected"), FSDP.values(), ids=FSDP)
def test_each_fsdp_key_reaches_the_trainer_as_fsdp2(
    section: dict[str, Any], expected: dict[str, Any], recipe: Callable, tmp_path: Path
) -> None:
    from trl import SFTConfig

    values = distributed_arguments(recipe(distributed={"strategy": "fsdp", **section}), LAUNCHED, "cuda")
    assert values["fsdp_config"] | expected == values["fsdp_config"]
    arguments = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False,
        fsdp=values["fsdp"], fsdp_config=values["fsdp_config"],
    )  # fmt: skip
    plugin = arguments.fsdp_plugin_args
    assert plugin["fsdp_version"] == 2
    for key, value in expected.items():
        assert plugin.get(key, False) == value, key


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_each_deepspeed_preset_is_shipped_and_leaves_batches_to_the_recipe(name: str, recipe: Callable) -> None:
    section = recipe(distributed={"strategy": "deepspeed", "deepspeed_config": name}).distributed
    settings = deepspeed_settings(section)
    zero = settings["zero_optimization"]
    assert zero["stage"] == int(name[4])
    assert ("offload_optimizer" in zero) == name.endswith("_offload")
    assert settings["train_micro_batch_size_per_gpu"] == settings["gradient_accumulation_steps"] == "auto"
    if zero["stage"] == 3:
        assert zero["stage3_gather_16bit_weights_on_model_save"], "or rank 0 has nothing to write"


def test_a_deepspeed_file_of_ones_own_is_read_and_one_that_is_none_is_named(recipe: Callable, tmp_path: Path) -> None:
    def settings(name: str) -> dict[str, Any]:
        return deepspeed_settings(recipe(distributed={"strategy": "deepspeed", "deepspeed_config": name}).distributed)

    own = tmp_path / "own.json"
    own.write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    assert settings(str(own)) == {"zero_optimization": {"stage": 1}}
    with pytest.raises(ConfigError, match=r"'zero9' cannot be read .* zero1, zero2, zero2_offload"):
        settings("zero9")
    own.write_text("[1]")
    with pytest.raises(ConfigError, match="holds list; expected an object"):
        settings(str(own))
    own.write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        settings(str(own))


@pytest.mark.parametrize(("size", "steps"), [(1, 39), (2, 21), (4, 12)])
def test_planned_steps_follow_the_number_of_processes(size: int, steps: int, recipe: Callable) -> None:
    config = recipe(
        training={
            "max_steps": -1,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
        }
    )
    assert planned_steps(config, rows=101, world_size=size) == steps


def test_generations_are_counted_over_all_processes(recipe: Callable) -> None:
    training = {"trainer_type": "grpo", "per_device_train_batch_size": 2, "grpo_num_generations": 4}
    with pytest.raises(ConfigError, match="= 2"):
        check_training(recipe(training=training))
    check_training(recipe(training=training, distributed={"processes": 2}))


def test_backend_and_patience_reach_the_trainer(recipe: Callable, tmp_path: Path) -> None:
    config: ForgeConfig = recipe(distributed={"processes": 2, "timeout": 77})
    common = {
        "dtype": "float32",
        "bfloat16": False,
        "rows": 8,
        "validation_rows": 0,
        "work_dir": tmp_path,
        "keep": False,
    }
    values = build_arguments(config, device="cpu", ranks=LAUNCHED, **common)
    assert (values["ddp_backend"], values["ddp_timeout"], values["ddp_find_unused_parameters"]) == ("gloo", 77, False)
    assert build_arguments(config, device="cuda", ranks=LAUNCHED, **common)["ddp_backend"] == "nccl"
    assert "ddp_backend" not in build_arguments(config, device="cpu", **common)


def test_the_first_error_of_the_ranks_is_the_one_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    assert read_outcome(path) == {}
    write_outcome(path, 1, {"error": {"type": "DataError", "message": "the cause"}})
    write_outcome(path, 0, {"error": {"type": "RuntimeError", "message": "connection closed by peer"}})
    write_outcome(path, 2, {"usage": {}})
    with pytest.raises(DataError, match="the cause"):
        raise_reported(read_outcome(path), "fine_tune", 1)
    with pytest.raises(
        TrainingError, match="killed by signal 9 and left no result; the system may have run out of memory"
    ):
        raise_reported({}, "fine_tune", -9)
