"""Lines that must not go on: a gate that failed, a secret in the rows, input that is wrong."""

import shutil
from collections.abc import Callable

import pytest


@pytest.mark.slow
def test_a_failed_gate_ends_with_exit_code_1_and_no_export_and_cannot_be_walked_round(deployment):
    deployment.write_recipe("strict", evaluation__max_acceptable_loss=0.0001)
    done = deployment.materialize("group:strict")
    assert done.returncode == 1
    assert deployment.latest("strict", "fine_tuned_model") is not None
    assert deployment.latest("strict", "gguf_model") is None
    assert deployment.materialize("key:strict/benchmark_report or key:strict/safety_report").returncode == 0
    alone = deployment.materialize("key:strict/gguf_model")
    assert alone.returncode == 1
    assert "export refused" in alone.stderr + alone.stdout
    assert deployment.latest("strict", "gguf_model") is None


@pytest.mark.slow
def test_a_secret_in_the_rows_stops_the_line_before_training(deployment):
    with (deployment.root / "rows.jsonl").open("a") as file:
        file.write(
            '{"messages": [{"role": "user", "content": "key?"}, {"role": "assistant", "content": "ghp_'
            + "a1B2" * 9
            + '"}]}\n'
        )
    deployment.write_recipe("leaky")
    done = deployment.materialize("group:leaky")
    assert done.returncode == 1
    assert deployment.latest("leaky", "dataset_audit_report") is not None
    assert deployment.latest("leaky", "tokenized_dataset") is None
    alone = deployment.materialize("key:leaky/tokenized_dataset")
    assert alone.returncode == 1
    assert "training refused" in alone.stderr + alone.stdout


# name: (what is wrong with the deployment, the words of the one clear message)
BAD: dict[str, tuple[Callable[..., dict[str, str | None] | None], list[str]]] = {
    "unknown key": (
        lambda d: d.write_recipe("bad", training__sed=1), ["bad.yaml", "training.sed", "did you mean 'seed'"]
    ),
    "wrong type": (lambda d: d.write_recipe("bad", lora__r="eight"), ["lora.r", "'eight'"]),
    "missing dataset": (
        lambda d: d.write_recipe("bad", data__dataset_name_or_path="nowhere.jsonl"), ["nowhere.jsonl", "no such file"]
    ),
    "broken rows": (
        lambda d: ((d.root / "rows.jsonl").write_text('{"messages": [\n' * 30), d.write_recipe("bad"))[1], ["rows.jsonl"]
    ),
    "missing base model": (
        lambda d: d.write_recipe("bad", model__name_or_path="./no/such/model"), ["no/such/model"]
    ),
    "unset DAGSTER_HOME": (
        lambda d: d.write_recipe("bad") or {"DAGSTER_HOME": None}, ["DAGSTER_HOME is not set", "export DAGSTER_HOME"]
    ),
    "inline secret": (
        lambda d: d.write_recipe("bad", auth__hf_token="hf_x"), ["auth.hf_token holds a secret", "HF_TOKEN"]
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD)
def test_bad_input_ends_in_one_clear_message_and_exit_code_1(deployment, spoil, words):
    environment = spoil(deployment) or {}
    done = deployment.materialize("group:bad", **environment)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    for word in words:
        assert word in output
    assert deployment.latest("bad", "fine_tuned_model") is None
    shutil.rmtree(deployment.root)
