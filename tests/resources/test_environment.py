"""What a record says about the machine: cheap, without torch, and never more than is known."""

import subprocess
import sys
from pathlib import Path

import pytest

from forge_pipeline.attestation import packages_digest, seeds
from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import report_to_json
from resources import environment as module
from resources.environment import environment, packages, parse_gpus, recipe_of, recorded_packages
from resources.store import ArtifactStore

CHECKOUT = Path(__file__).parents[2]


def config() -> ForgeConfig:
    return ForgeConfig(
        name="line",
        model={"name_or_path": "owner/base", "load_in_4bit": False},
        lora={},
        training={"seed": 7, "full_determinism": True},
        data={"dataset_name_or_path": "rows.jsonl", "split": {"seed": 8}},
    )


def test_all_values_are_text_and_name_the_code_and_the_machine() -> None:
    facts = environment()
    assert all(isinstance(value, str) and value for value in facts.values())
    expected = {"forge_pipeline", "git_commit", "git_dirty", "python", "platform", "machine", "cpu_count"}
    assert expected <= facts.keys()
    assert facts["packages_digest"] == packages_digest(packages())
    assert facts["package:pydantic"] == packages()["pydantic"]


def test_it_neither_imports_torch_nor_takes_long() -> None:
    code = (
        "import sys, time; from resources.environment import environment\n"
        "start = time.process_time(); environment(); spent = time.process_time() - start\n"
        "assert 'torch' not in sys.modules and 'cyclonedx' not in sys.modules, 'heavy import'\n"
        "assert spent < 0.5, spent"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)


def test_without_git_nothing_is_claimed_about_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_output", lambda *command: None)
    assert module._source_code() == {"git_commit": "unknown", "git_dirty": "unknown"}


@pytest.mark.parametrize(("status", "words"), [("", "no"), (" M a.py", "yes")])
def test_a_changed_checkout_is_dirty(status: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_output", lambda *command: status if "status" in command else "abc")
    assert module._source_code() == {"git_commit": "abc", "git_dirty": words}


GPUS = {
    "none": ([], {}),
    "one": (["NVIDIA H200, 143771 MiB, 580.95.05"], {"gpu:0": "NVIDIA H200, 143771 MiB", "gpu_driver": "580.95.05"}),
    "two": (["A, 1 MiB, 5", "B, 2 MiB, 5"], {"gpu:0": "A, 1 MiB", "gpu:1": "B, 2 MiB", "gpu_driver": "5"}),
    "a driver that does not answer": (["NVIDIA-SMI has failed because it could not communicate"], {}),
}


@pytest.mark.parametrize("case", GPUS)
def test_gpus_are_read_from_what_the_driver_prints(case: str) -> None:
    lines, facts = GPUS[case]
    assert parse_gpus(lines) == facts


def test_the_container_image_is_what_podman_or_the_operator_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / ".containerenv"
    told.write_text('engine="podman"\nimage="docker.io/forge:1"\nimageid="abc"\n')
    assert module._podman_image(told) == "abc"
    assert module._podman_image(tmp_path / "absent") is None
    monkeypatch.setenv("FORGE_CONTAINER_IMAGE", "registry/forge@sha256:00")
    assert module._operating_system()["container_image"] == "registry/forge@sha256:00"


def test_the_seeds_are_those_of_the_recipe() -> None:
    assert seeds(config()) == {"training.seed": 7, "training.full_determinism": True, "data.split.seed": 8}


def test_the_recipe_is_found_among_the_inputs(tmp_path: Path) -> None:
    from forge_pipeline.integrity import write_report

    store = ArtifactStore(str(tmp_path / "store"), tmp_path / "cache")
    (tmp_path / "work").mkdir()
    write_report(tmp_path / "work" / "report.json", config())
    digest = store.publish(tmp_path / "work")
    found = recipe_of(object(), "line", {"line/recipe": digest}, store)
    assert found is not None
    assert report_to_json(found) == report_to_json(config())
    assert recipe_of(config(), "line", {}, store) == config()
    assert recipe_of(object(), "line", {}, store) is None


def test_the_packages_are_those_of_the_record_and_never_those_of_today(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"), tmp_path / "cache")
    record = {"asset_key": "line/fine_tuned_model", "packages": store.keep_packages({"torch": "2.13"})}
    assert recorded_packages([record], "fine_tuned_model", store) == {"torch": "2.13"}
    assert recorded_packages([{"asset_key": "line/fine_tuned_model"}], "fine_tuned_model", store) == {}
    assert recorded_packages([], "fine_tuned_model", store) == {}
