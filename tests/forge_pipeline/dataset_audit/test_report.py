"""The report as it is written: the same bytes as the general writer's."""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forge_pipeline.dataset_audit import AuditReport, audit_dataset
from forge_pipeline.dataset_audit.finding import RowFinding
from forge_pipeline.dataset_audit.report import REPORT_NAME, FindingColumns, changed, write_audit_report
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, read_report, write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """Of rows with findings, repeats and languages, with every part that can be asked for."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = ['{"text": "Mail zoë@müller.de — or call +49 30 901820 \\u2028 now"}', '{"text": "AKIAIOSFODNN7EXAMPLE"}']
    path.write_text("\n".join([*rows, *rows, '{"text": ""}', "broken"]), encoding="utf-8")
    return audit_dataset(str(path), enable_quality_filter=True, emit_croissant=True)


DECISION = GateDecision("no_secrets", "pass", "none", Digest.of(b""), observed=0.5, interval=(0.1, 1e-7), n=3)
CHANGES: dict[str, Callable[[AuditReport], AuditReport]] = {
    "as it is": lambda report: report,
    "without findings": lambda report: replace(report, findings=()),
    "with a gate's decision": lambda report: replace(report, gates=(DECISION,)),
    "with tuples and small numbers": lambda report: replace(
        report, contamination={"shares": (1e-7, 1.0), "n": 2**53 - 1}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_written_as_the_general_writer_does(change: str, report: AuditReport, tmp_path: Path) -> None:
    other = CHANGES[change](report)
    write_report(tmp_path / "general.json", other)
    write_audit_report(tmp_path / REPORT_NAME, other)
    assert (tmp_path / REPORT_NAME).read_bytes() == (tmp_path / "general.json").read_bytes()
    assert read_report(tmp_path / REPORT_NAME, AuditReport).findings == other.findings


def test_what_canonical_json_refuses_is_refused(report: AuditReport, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not representable as canonical JSON"):
        write_audit_report(tmp_path / REPORT_NAME, replace(report, contamination={"share": float("nan")}))
    with pytest.raises(ValueError, match="surrogates"):
        write_audit_report(
            tmp_path / REPORT_NAME, replace(report, findings=(replace(report.findings[0], preview="\ud800"),))
        )
    assert not (tmp_path / REPORT_NAME).exists()


USES: dict[str, Callable[[AuditReport], Sequence[object]]] = {
    "its attribute": lambda report: report.findings,
    "a report that it was replaced by": lambda report: replace(report, source_input="elsewhere").findings,
    "a copy": lambda report: copy.deepcopy(report).findings,
    "a pickled one": lambda report: pickle.loads(pickle.dumps(report)).findings,
    "a dictionary": lambda report: [RowFinding(**found) for found in dataclasses.asdict(report)["findings"]],
    "its kinds": lambda report: sorted([*report.pii_findings, *report.secret_findings], key=lambda found: found.row),
}


@pytest.mark.parametrize("use", USES)
def test_findings_that_nobody_asked_for_yet_are_there_for_everyone(use: str, report: AuditReport) -> None:
    columns = FindingColumns()
    columns.extend([[getattr(found, name) for found in report.findings] for name in RowFinding.__match_args__])
    unasked = changed(report, findings=columns)
    assert len(columns) == 6
    found = USES[use](unasked)
    assert all(isinstance(finding, RowFinding) for finding in found)
    assert sorted(map(repr, found)) == sorted(map(repr, report.findings))
    assert unasked == report


def test_a_report_is_written_the_same_whether_its_findings_were_asked_for_or_not(tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    source.write_text('{"text": "Mail a@b.org"}\n{"text": "no one"}\n', encoding="utf-8")
    unasked, asked = (changed(audit_dataset(str(source)), generated_at=None) for _ in range(2))
    assert asked.findings[0].category == "email"
    for name, report in (("asked", asked), ("unasked", unasked)):
        write_audit_report(tmp_path / name, report)
    assert (tmp_path / "asked").read_bytes() == (tmp_path / "unasked").read_bytes()


def test_findings_cannot_be_replaced_in_a_report(report: AuditReport) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.findings = ()  # type: ignore[misc]
    assert AuditReport.findings == ()
