"""`forge usage`: sums over the records of a line, each with how many it is known of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.integrity import Digest, canonical_json


def write_records(home: Path, *records: dict[str, Any]) -> Path:
    """A chain of records of the line ``support``, oldest first."""
    folder = home / "store" / "records" / "support"
    folder.mkdir(parents=True)
    previous: str | None = None
    for record in records:
        data = canonical_json({"previous": previous, **record})
        previous = Digest.of(data)
        (folder / f"{Digest.of(data).hex}.json").write_bytes(data)
    (folder / "HEAD").write_text(str(previous))
    return folder


def record(stage: str, run: str, day: int, **usage: Any) -> dict[str, Any]:
    made = {"asset_key": f"support/{stage}", "run_id": run, "recorded_at": f"2026-01-{day:02}T00:00:00.000+00:00"}
    return made | ({"usage": usage} if usage else {})


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_records(
        tmp_path / "home",
        record("recipe", "r1", 1),
        record("fine_tuned_model", "r1", 1, duration_seconds=10.5, cpu_seconds=20.0, peak_memory_bytes=3e9,
               estimated_cost=0.5, cost_currency="EUR"),
        record("fine_tuned_model", "r2", 9, duration_seconds=1.5, energy_kwh=0.25, peak_memory_bytes=1e9),
        record("sft/fine_tuned_model", "r2", 9, duration_seconds=4.0),
    )  # fmt: skip


def test_figures_are_added_and_say_of_how_many_they_are_known(forge: Callable[..., Any], records: Path) -> None:
    found = json.loads(forge("usage", "support", "--json").out)
    assert (found["runs"], found["total"]["artifacts"]) == (2, 4)
    assert found["total"]["figures"]["duration_seconds"] == {"value": 16.0, "known": 3}
    assert found["total"]["figures"]["gpu_seconds"] == {"value": None, "known": 0}
    stages = {each["stage"]: each for each in found["stages"]}
    tuned = stages["fine_tuned_model"]
    assert tuned["figures"]["energy_kwh"] == {"value": 0.25, "known": 1}
    assert tuned["costs"] == {"EUR": {"value": 0.5, "known": 1}}
    assert tuned["peak_memory_bytes"] == 3e9
    assert stages["sft/fine_tuned_model"]["artifacts"] == 1


def test_people_read_what_was_not_measured(forge: Callable[..., Any], records: Path) -> None:
    text = forge("usage", "support").out
    assert "support: 2 runs, 4 artefacts" in text
    assert "cost 0.5 EUR (known of 1 of 2)" in text
    assert "energy not measured" in text
    assert "nothing was measured" in text


def test_since_leaves_out_what_is_older(forge: Callable[..., Any], records: Path) -> None:
    found = json.loads(forge("usage", "support", "--since", "2026-01-05", "--json").out)
    assert (found["runs"], found["total"]["figures"]["duration_seconds"]["value"]) == (1, 5.5)
    assert json.loads(forge("usage", "support", "--since", "2999-01-01", "--json").out)["total"]["artifacts"] == 0


def _change(folder: Path) -> None:
    file = next(path for path in folder.glob("*.json") if b"10.5" in path.read_bytes())
    file.write_bytes(file.read_bytes().replace(b"10.5", b"1.05"))


def _remove(folder: Path) -> None:
    next(path for path in folder.glob("*.json") if b"10.5" in path.read_bytes()).unlink()


@pytest.mark.parametrize(("spoil", "words"), [(_change, "was changed"), (_remove, "missing from the chain")])
def test_a_chain_that_was_changed_is_an_integrity_mismatch(
    forge: Callable[..., Any], records: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(records)
    done = forge("usage", "support")
    assert done.code == 6
    assert words in done.err


BAD = {
    "a line without records": (("other",), "lines there: support"),
    "a date that is none": (("support", "--since", "soon"), "neither a date"),
    "a path": (("../support",), "is no line's name"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_told(forge: Callable[..., Any], records: Path, arguments: tuple[str, ...], words: str) -> None:
    done = forge("usage", *arguments)
    assert done.code in (1, 2)
    assert words in done.err


def test_what_failed_stages_used_is_in_the_sums_and_said(forge: Callable[..., Any], records: Path) -> None:
    folder = records.parents[2] / "audit_log" / "support"
    folder.mkdir(parents=True)
    facts = {"asset_key": "support/fine_tuned_model", "error": "TrainingError", "stopped": False}
    log = AuditLogger(str(folder), run_id="r3")
    log.log_event("stage.failed", **facts, usage={"duration_seconds": 6.0, "cpu_seconds": 9.0, "energy_kwh": 0.75})
    log.log_event("stage.failed", **facts, usage={})
    found = json.loads(forge("usage", "support", "--json").out)
    assert (found["runs"], found["total"]["failures"], found["total"]["artifacts"]) == (3, 2, 4)
    [tuned] = [each for each in found["stages"] if each["stage"] == "fine_tuned_model"]
    assert tuned["figures"]["energy_kwh"] == {"value": 1.0, "known": 2}
    assert tuned["of_failures"]["duration_seconds"] == {"value": 6.0, "known": 1}
    text = forge("usage", "support").out
    assert "4 artefacts, failed or stopped stages: 2" in text
    assert "of this, 2 failed or stopped: wall clock 6 s (known of 1 of 2)" in text

    file = folder / "audit_log.jsonl"
    file.write_text(file.read_text().replace("9.0", "1.0").replace(":9,", ":1,").replace(":9}", ":1}"))
    done = forge("usage", "support")
    assert done.code == 6
    assert "does not verify" in done.err
