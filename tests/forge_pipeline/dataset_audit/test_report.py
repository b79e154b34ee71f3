"""The report as it is written: the same bytes as the general writer's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forge_pipeline.dataset_audit import AuditReport, audit_dataset
from forge_pipeline.dataset_audit.report import REPORT_NAME, write_audit_report
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
    changed = CHANGES[change](report)
    write_report(tmp_path / "general.json", changed)
    write_audit_report(tmp_path / REPORT_NAME, changed)
    assert (tmp_path / REPORT_NAME).read_bytes() == (tmp_path / "general.json").read_bytes()
    assert read_report(tmp_path / REPORT_NAME, AuditReport).findings == changed.findings


def test_what_canonical_json_refuses_is_refused(report: AuditReport, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not representable as canonical JSON"):
        write_audit_report(tmp_path / REPORT_NAME, replace(report, contamination={"share": float("nan")}))
    with pytest.raises(ValueError, match="surrogates"):
        write_audit_report(
            tmp_path / REPORT_NAME, replace(report, findings=(replace(report.findings[0], preview="\ud800"),))
        )
    assert not (tmp_path / REPORT_NAME).exists()
