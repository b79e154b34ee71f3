"""The pipeline's stage: gates that know three answers, for exactly the stored dataset."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data.artifacts import PROVENANCE_FILE, DatasetProvenance, RawDataset, SourceProvenance
from forge_pipeline.dataset_audit import AuditReport, audit_raw_dataset
from forge_pipeline.dataset_audit.stage import GATES
from forge_pipeline.errors import EvaluationError
from forge_pipeline.gates import GateDecision, Verdict, check_gates
from forge_pipeline.integrity import canonical_json, report_to_json, write_report
from forge_pipeline.progress import Progress

KEY = "ghp_Zq3vT9LmP0aXbR7cYd2eWf4gHi5jKl6mNo7p"


def config_with(**audit: Any) -> ForgeConfig:
    data = {"dataset_name_or_path": "rows.jsonl", "audit": audit}
    return ForgeConfig(name="line", model={"name_or_path": "base"}, lora={}, training={}, data=data)


Store = Callable[..., RawDataset]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Stores texts by split, as ingestion does."""

    def build(**splits: list[str]) -> RawDataset:
        directory = tmp_path / "raw"
        directory.mkdir()
        for split, texts in splits.items():
            table = pa.table({"text": pa.array(texts, pa.string())})
            pq.write_table(table, directory / f"{split}.parquet")
        source = SourceProvenance("rows.jsonl", "file:rows.jsonl", None, "MIT", f"says {KEY}", "public", None, 1, 0)
        rows = {split: len(texts) for split, texts in splits.items()}
        found = DatasetProvenance((source,), "language modeling", "standard", "because", rows, (), 0, ())
        write_report(directory / PROVENANCE_FILE, found)
        return RawDataset.open(directory)

    return build


@pytest.fixture
def audit(tmp_path: Path) -> Callable[..., AuditReport]:
    """The stage's report; each call writes a directory of its own."""

    def build(config: ForgeConfig, dataset: RawDataset, **options: Any) -> AuditReport:
        number = len(list(tmp_path.glob("audit-*")))
        return audit_raw_dataset(config, dataset, tmp_path / f"audit-{number}", **options).report

    return build


Audit = Callable[..., AuditReport]


def gates_of(report: AuditReport) -> dict[str, GateDecision]:
    return {decision.gate: decision for decision in report.gates}


def outcomes(report: AuditReport) -> dict[str, str]:
    return {decision.gate: decision.outcome for decision in report.gates}


def test_clean_data_passes_every_gate(audit: Audit, store: Store, sentences: Callable[[int], list[str]]) -> None:
    texts = sentences(20)
    dataset = store(train=texts[:15], validation=texts[15:])
    report = audit(config_with(), dataset)
    assert outcomes(report) == dict.fromkeys(GATES, "pass")
    assert all(decision.subject == dataset.digest for decision in report.gates)
    assert all(decision.guards == ("training", "export", "release") for decision in report.gates)
    assert report.dataset_digest == dataset.digest
    check_gates("training", report.gates, subject=dataset.digest, required=GATES)


def test_each_gate_fails_for_its_own_reason(audit: Audit, store: Store, sentences: Callable[[int], list[str]]) -> None:
    texts = sentences(4)
    dataset = store(
        train=[*texts, f"key {KEY}", "IBAN DE89 3704 0044 0532 0130 00", "mail a@b.org"],
        validation=[texts[0], "new words"],
    )
    report = audit(config_with(min_rows=50), dataset)
    assert outcomes(report) == dict.fromkeys(GATES, "fail")
    gates = gates_of(report)
    assert gates["no_secrets"].reason == "1 secret findings in 9 rows; at most 0 allowed"
    assert (gates["no_critical_pii"].observed, gates["no_critical_pii"].n) == (1, 9)
    assert (gates["no_split_overlap"].observed, gates["no_split_overlap"].n) == (0.5, 2)
    assert gates["minimum_rows"].reason == "7 training rows; at least 50 expected"


def test_thresholds_of_the_recipe_decide(audit: Audit, store: Store) -> None:
    dataset = store(train=[f"key {KEY}", "IBAN DE89 3704 0044 0532 0130 00", "same words"], test=["Same words!"])
    assert outcomes(audit(config_with(), dataset))["no_split_overlap"] == "fail"
    lenient = config_with(max_secrets=1, max_critical_pii=1, max_split_overlap=1.0, guards=["release"])
    report = audit(lenient, dataset)
    assert set(outcomes(report).values()) == {"pass"}
    assert report.gates[0].guards == ("release",)


def test_a_documented_placeholder_does_not_fail_the_gate(audit: Audit, store: Store) -> None:
    report = audit(config_with(), store(train=["AKIAIOSFODNN7EXAMPLE"]))
    assert outcomes(report)["no_secrets"] == "pass"
    assert len(report.secret_findings) == 1


def test_with_one_split_there_is_nothing_to_overlap(audit: Audit, store: Store) -> None:
    decision = gates_of(audit(config_with(), store(train=["some words"])))["no_split_overlap"]
    assert (decision.outcome, decision.n) == ("pass", 0)
    assert "only one split" in decision.reason


def test_a_split_without_words_is_not_evidence(audit: Audit, store: Store) -> None:
    report = audit(config_with(), store(train=["some words"], validation=["", "..."]))
    assert outcomes(report)["no_split_overlap"] == "insufficient_evidence"
    assert gates_of(report)["no_split_overlap"].verdict is Verdict.NOT_EVALUATED


def test_no_rows_pass_nothing(audit: Audit, store: Store) -> None:
    assert outcomes(audit(config_with(), store(train=[]))) == {
        "no_secrets": "insufficient_evidence",
        "no_critical_pii": "insufficient_evidence",
        "no_split_overlap": "pass",
        "minimum_rows": "fail",
    }


def test_an_audit_that_is_switched_off_passes_nothing(audit: Audit, store: Store) -> None:
    dataset = store(train=[KEY])
    report = audit(config_with(enabled=False), dataset)
    assert outcomes(report) == dict.fromkeys(GATES, "not_run")
    assert report.findings == ()
    assert report.duplicate_count == 0
    assert all(decision.stops("training") for decision in report.gates)


BENCHMARK = "Which of these cities lies on the river that flows from the lake to the northern sea today"


@pytest.mark.parametrize(
    ("train", "items", "outcome"),
    [
        ([f"A quiz: {BENCHMARK}? Nobody knows."], [BENCHMARK], "fail"),
        (["Entirely different words about something else."], [BENCHMARK], "pass"),
        (["short item"], ["short item"], "insufficient_evidence"),
    ],
)
def test_benchmark_items_in_train(audit: Audit, store: Store, train: list[str], items: list[str], outcome: str) -> None:
    dataset = store(train=train)
    report = audit(config_with(), dataset, benchmark_items=lambda: {"quiz": items})
    assert outcomes(report)["not_contaminated"] == outcome
    assert report.contamination["tasks"]["quiz"]["contaminated"] == (1 if outcome == "fail" else 0)
    assert "not_contaminated" not in outcomes(audit(config_with(), dataset))


def test_a_benchmark_that_cannot_be_had_is_not_evaluated(audit: Audit, store: Store) -> None:
    def unreachable() -> dict[str, list[str]]:
        raise EvaluationError("the task 'arc_easy' could not be loaded: no network")

    report = audit(config_with(), store(train=["some words"]), benchmark_items=unreachable)
    decision = gates_of(report)["not_contaminated"]
    assert (decision.outcome, decision.verdict) == ("not_run", Verdict.NOT_EVALUATED)
    assert "arc_easy" in decision.reason
    assert decision.stops("training")


def test_contamination_that_is_switched_off_is_not_asked_for(audit: Audit, store: Store) -> None:
    report = audit(
        config_with(contamination={"enabled": False}), store(train=["some words"]), benchmark_items=lambda: {"q": ["x"]}
    )
    assert "not_contaminated" not in outcomes(report)


def test_the_directory_holds_rows_card_and_page(store: Store, tmp_path: Path) -> None:
    made = audit_raw_dataset(config_with(), store(train=[f"key {KEY}", "same words", "Same words!"]), tmp_path / "out")
    assert {path.name for path in made.path.iterdir()} == {
        "report.json",
        "findings.parquet",
        "clusters.parquet",
        "croissant.json",
        "report.html",
    }
    (finding,) = made.findings().to_pylist()
    assert (finding["split"], finding["row"], finding["column"], finding["category"]) == (
        "train",
        0,
        "text",
        "github_token",
    )
    assert [(row["row"], row["cluster"]) for row in made.clusters().to_pylist()] == [(1, 0), (2, 0)]
    card = json.loads((made.path / "croissant.json").read_text())
    assert card["license"] == "MIT"
    page = (made.path / "report.html").read_text()
    assert "github_token" in page
    assert "<script" not in page
    for path in made.path.iterdir():  # the origin is the provider's own words; nothing else may say what was found
        assert KEY.encode() not in path.read_bytes().replace(f"says {KEY}".encode(), b"")


def test_the_report_holds_no_time_and_no_place_and_survives_writing(store: Store, tmp_path: Path) -> None:
    dataset = store(train=["mail a@b.org", "more words here"], validation=["other words there"])
    config = config_with(enable_quality_filter=True)
    seen: list[Progress] = []
    first = audit_raw_dataset(config, dataset, tmp_path / "first", progress=seen.append)
    report = first.report
    assert seen[-1].step == seen[-1].total == 2
    assert report.generated_at is None
    assert str(tmp_path) not in canonical_json(report_to_json(report)).decode()
    assert report.croissant["name"] == "line"
    moved = tmp_path / "moved"
    dataset.path.rename(moved)
    assert audit_raw_dataset(config, RawDataset.open(moved), tmp_path / "second").digest == first.digest
