"""What a dataset audit leaves behind: its report, and one row for every finding."""

from pathlib import Path

import pyarrow as pa

from forge_pipeline.dataset_audit.report import AuditReport
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import REPORT_FILE, DirectoryArtifact, read_report

FINDINGS_FILE = "findings.parquet"
CLUSTERS_FILE = "clusters.parquet"
CROISSANT_FILE = "croissant.json"
PAGE_FILE = "report.html"


class DatasetAudit(DirectoryArtifact):
    """A directory: ``report.json``, ``findings.parquet``, ``clusters.parquet``, and if asked for ``croissant.json`` and
    ``report.html``.
    """

    @property
    def report(self) -> AuditReport:
        return read_report(self.path / REPORT_FILE, AuditReport)

    @property
    def gates(self) -> tuple[GateDecision, ...]:
        """The decisions of the recipe's gates about exactly the audited rows."""
        return self.report.gates

    def findings(self) -> pa.Table:
        """One row a finding: split, row, column, category, start, end, source, severity, preview, placeholder."""
        return _table(self.path / FINDINGS_FILE)

    def clusters(self) -> pa.Table:
        """One row for each row that has a duplicate or near-duplicate: split, row, cluster, kept, exact, similarity."""
        return _table(self.path / CLUSTERS_FILE)


def _table(path: Path) -> pa.Table:
    import pyarrow.parquet as pq  # whose import an audit, which needs the names above, does not wait for

    return pq.read_table(path)
