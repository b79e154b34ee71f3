"""Dry runs: every wrong field at once, the rows' errors, memory and time; nothing is started."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.integrity import Digest
from forge_pipeline.registry import Registry
from forge_pipeline.server.jobs import JobTable, new_job_id
from forge_pipeline.server.schemas import StartTraining
from tests.forge_pipeline.server.served import (
    PREFERENCES,
    TRAINABLE,
    Studio,
    check_envelope,
    in_thread,
    jsonl,
    settings_for,
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Studio]:
    data = tmp_path_factory.mktemp("validated")
    with in_thread(settings_for(data, model_roots=(tiny_llama.parent,))) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        studio.upload("few.jsonl", jsonl(TRAINABLE[:9]))
        studio.upload("broken.jsonl", jsonl(TRAINABLE) + b'{"input": 3}\n' * 2)
        studio.upload("preferences.jsonl", jsonl(PREFERENCES))
        yield studio


@pytest.fixture
def model(tiny_llama: Path) -> str:
    return str(tiny_llama)


def validate(studio: Studio, *, exact: bool = False, **changes: Any) -> dict[str, Any]:
    reply = studio.post("/api/validate", json=studio.body(**changes), params={"exact": exact} if exact else None)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_a_body_that_can_be_started_is_valid_and_has_an_estimate(studio: Studio, model: str) -> None:
    found = validate(studio, model_name=model, max_seq_length=64)
    assert (found["valid"], found["errors"], found["notes"]) == (True, [], [])
    assert found["dataset"] == {"num_examples": 12, "schema": "input, output", "errors": []}
    estimate = found["estimate"]
    assert 0 < estimate["serving_gib"] < estimate["available_gib"]
    assert 0 < estimate["training_gib"] < estimate["available_gib"]
    assert (estimate["fits"], estimate["seconds"], estimate["how"]) == (True, None, "formula")
    longer = validate(studio, model_name=model, max_seq_length=256, per_device_train_batch_size=64)
    assert longer["estimate"]["training_gib"] > estimate["training_gib"]
    simulated = validate(studio, exact=True, model_name=model, max_seq_length=64)
    assert simulated["estimate"]["how"] == "simulated"
    assert studio.get("/api/jobs").json()["jobs"] == []
    assert studio.status()["status"] == "idle"


WRONG: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "two fields": (
        {"learning_rate": 1.5, "lora_r": 0},
        {"learning_rate": "less than or equal to 1", "lora_r": "greater than or equal to 1"},
    ),
    "nothing required": (
        {"task": ..., "dataset": ..., "model_name": ""},
        {"task": "missing", "dataset": "missing", "model_name": "at least 1"},
    ),
    "fields that disagree": ({"fp16": True, "bf16": True}, {"": "exclude each other"}),
    "an unknown field": ({"speed": 3}, {"speed": "not a field"}),
    "an unknown strategy": ({"strategy": "x"}, {"strategy": "'sft'"}),
    "a type": ({"num_train_epochs": "3"}, {"num_train_epochs": "valid integer"}),
    "no such dataset": ({"dataset": "nothing.jsonl"}, {"dataset": "there is no dataset"}),
    "a dataset elsewhere": ({"dataset": "/etc/passwd"}, {"dataset": "outside the folders"}),
    "a dataset on the web": ({"dataset": "http://127.0.0.1/x"}, {"dataset": "not fetched"}),
    "a model elsewhere": ({"model_name": "/etc"}, {"model_name": "neither a Hub id"}),
    "rows for another strategy": ({"strategy": "dpo"}, {"dataset": "line 1"}),
    "too few rows": ({"dataset": "few.jsonl"}, {"dataset": "9 rows; training needs at least 10"}),
    "broken rows": ({"dataset": "broken.jsonl"}, {"dataset": "line 13"}),
    "unsloth": ({"provider": "unsloth"}, {"provider": "cannot run here"}),
    "a template for plain rows": (
        {"strategy": "grpo", "gradient_accumulation_steps": 1},
        {"dataset": "", "per_device_train_batch_size": "at least 2"},
    ),
    "a wrong field and wrong rows": (
        {"learning_rate": 0, "dataset": "broken.jsonl"},
        {"learning_rate": "greater than 0", "dataset": "line 13"},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_field_by_field(studio: Studio, model: str, name: str) -> None:
    changes, wanted = WRONG[name]
    found = validate(studio, **({"model_name": model, "max_seq_length": 64} | changes))
    assert not found["valid"]
    errors = {error["field"]: error["message"] for error in found["errors"]}
    assert errors.keys() == wanted.keys()
    for field, words in wanted.items():
        assert words in errors[field]
    assert "/tmp" not in json.dumps(found)


def test_a_start_takes_what_is_valid_and_refuses_what_is_not(studio: Studio, model: str) -> None:
    """The rows of the table that a start can be asked for too: there is no Dagster here, so 503 means accepted."""
    assert validate(studio, model_name=model)["valid"]
    check_envelope(studio.start(model_name=model), 503)
    for changes, _ in WRONG.values():
        check_envelope(studio.start(**({"model_name": model} | changes)), 400, 404)


def test_rows_are_looked_at_though_other_fields_are_wrong(studio: Studio) -> None:
    found = validate(studio, task="poetry", model_name=..., dataset="broken.jsonl", strategy="dpo")
    assert found["dataset"]["num_examples"] == 14
    assert [error.split(":")[0] for error in found["dataset"]["errors"]] == ["line 13", "line 14"]
    assert found["estimate"] is None


def test_what_does_not_fit_comes_with_advice_in_the_forms_own_words(
    studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge_pipeline.fit_check import check

    wide: dict[str, Any] = {"model_name": model, "max_seq_length": 256, "gradient_accumulation_steps": 1}
    much, less = (
        validate(studio, **wide, per_device_train_batch_size=rows)["estimate"]["training_gib"] for rows in (64, 16)
    )
    budget = check.Budget("cpu", int((much + less) / 2 * 2**30), "said by the test")
    monkeypatch.setattr(check, "_budget", lambda device, memory: budget)
    found = validate(studio, **wide, per_device_train_batch_size=64)
    assert (found["valid"], found["estimate"]["fits"]) == (True, False)
    assert any("per_device_train_batch_size: " in advice for advice in found["estimate"]["advice"])


def test_a_model_without_a_configuration_has_no_estimate_and_is_not_looked_for_at_every_keystroke(
    studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import forge_pipeline.fit_check as library

    empty = Path(model).with_name("empty")
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    found = validate(studio, model_name=str(empty))
    assert (found["valid"], found["estimate"]) == (True, None)
    assert "No estimate" in found["notes"][0]
    monkeypatch.delattr(library, "fit_check")
    assert validate(studio, model_name=str(empty))["notes"] == found["notes"]


@pytest.mark.parametrize("content", [b"[]", b"3", b"{bad", b'"x"'])
def test_what_no_form_could_hold_is_400(studio: Studio, content: bytes) -> None:
    check_envelope(studio.post("/api/validate", content=content, headers={"Content-Type": "application/json"}), 400)


def test_time_is_said_where_jobs_like_it_were_done_here(tmp_path: Path, tiny_llama: Path) -> None:
    """Three updates a second, and ten seconds beside: 12 rows, 2 of them held out, are 3 updates an epoch."""
    settings = settings_for(tmp_path, model_roots=(tiny_llama.parent,))
    start = StartTraining(task="text-generation", model_name=str(tiny_llama), dataset="rows.jsonl", max_seq_length=64)
    with in_thread(settings) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        studio.upload("wide.jsonl", jsonl([{**row, "input": row["input"] * 50} for row in TRAINABLE]))
        table = JobTable(tmp_path / "jobs.sqlite")
        job = table.claim(new_job_id(), start.model_dump(mode="json"))
        table.launched(job.id, "run_1")
        table.end(job.id, "completed")
        begun = datetime.fromisoformat(str(table.get(job.id).started_at)).astimezone(UTC)
        from sqlalchemy import text

        with table.engine.begin() as connection:
            ended = (begun + timedelta(seconds=20)).isoformat().replace("+00:00", "Z")
            connection.execute(text("UPDATE jobs SET ended_at = :ended"), {"ended": ended})
        table.close()
        lines = [{"ts": 100 + step / 3, "stage": "fine_tune", "step": step, "total": 30} for step in range(1, 31)]
        (tmp_path / "progress" / "run_1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

        def seconds(**changes: Any) -> float | None:
            found = validate(studio, **({"model_name": str(tiny_llama), "max_seq_length": 64} | changes))
            return found["estimate"]["seconds"]  # type: ignore[no-any-return]

        assert seconds(num_train_epochs=10) == pytest.approx(30 / 3 + 10, abs=0.2)
        assert seconds(max_steps=300) == pytest.approx(110, abs=0.5)
        assert seconds(per_device_train_batch_size=2) is None, "another batch"
        assert seconds(dataset="wide.jsonl") is None, "rows of another size"
    assert Registry(settings.registry).find_dataset("rows.jsonl").digest == Digest.of(jsonl(TRAINABLE))  # type: ignore[union-attr]
