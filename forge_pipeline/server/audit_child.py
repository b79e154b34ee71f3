"""``python -m forge_pipeline.server.audit_child``: audit one uploaded file into a folder named after its digest.

The folder appears whole or not at all: ``data_audit_report.json`` with its tables, ``report.html``, and
``summary.json``, which is what the page of the studio draws.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge_pipeline.dataset_audit.report import AuditReport
from forge_pipeline.errors import DataError, IntegrityError
from forge_pipeline.integrity import canonical_json
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.server.children import run_child

SUMMARY, PAGE = "summary.json", "report.html"
_BINS = 20
_LONG_TAIL = 4  # the longest row is so many times as long as nearly all others: the last bin takes the tail


def audit(request: dict[str, Any]) -> dict[str, Any]:
    """Audit what `DatasetAudits` asks for.

    Raises:
        DataError: The file cannot be read as rows.
        IntegrityError: It is not the file that was uploaded.
    """
    from forge_pipeline.dataset_audit import audit_dataset
    from forge_pipeline.dataset_audit.page import page

    source = Path(request["source"])
    with publishing(Path(request["output"])) as staging:
        try:
            report = audit_dataset(str(source), output_dir=str(staging), enable_quality_filter=True)
        except (ValueError, OSError) as error:  # its contract for data that is not what it should be
            raise DataError(f"{source.name}: the file cannot be audited: {error}") from error
        if report.dataset_digest != request["digest"]:
            raise IntegrityError(f"{source.name}: the file is not the one that was uploaded any more")
        write_file(staging / PAGE, page(report, source.name).encode())
        write_file(staging / SUMMARY, canonical_json(summary(report, lengths_of(source))))
    return {}


def summary(report: AuditReport, lengths: list[dict[str, int]]) -> dict[str, Any]:
    """The counts of a report, for charts."""
    repeats = report.near_duplicate_summary
    exact = sum(repeats["exact_duplicates_per_split"].values())
    by_type = report.pii_severity["by_type"]
    return {
        "num_rows": report.total_samples,
        "lengths": lengths,
        "languages": _languages(report.splits),
        "pii": [{"name": name, "severity": found["tier"], "count": found["count"]} for name, found in by_type.items()],
        "secrets": _counted(report.secrets_summary),
        "near_duplicates": max(0, report.duplicate_count - exact),
        "exact_duplicates": exact,
        "quality": _counted(report.quality_summary["by_check"]),
        "notes": list(report.notes),
    }


def lengths_of(source: Path) -> list[dict[str, int]]:
    """How many rows have how many characters: bins from the shortest row to the longest, both ends included."""
    import numpy as np
    import pyarrow.compute as pc

    from forge_pipeline.dataset_audit.rows import row_texts_of

    found = [pc.utf8_length(texts).to_numpy(zero_copy_only=False) for texts in row_texts_of(source) if len(texts)]
    if not found:
        return []
    lengths = np.concatenate(found)
    low, high = int(lengths.min()), int(lengths.max())
    usual = int(np.percentile(lengths, 95, method="higher"))
    tail = high - low > _LONG_TAIL * max(usual - low, 1)
    top = usual if tail else high
    width = max(1, -(-(top - low + 1) // _BINS))
    edges = [*range(low, top + 1, width)]
    ends = [*(edge - 1 for edge in edges[1:]), top, *([high] if tail else [])]
    starts = [*edges, *([top + 1] if tail else [])]
    counts = np.bincount(np.searchsorted(ends, lengths), minlength=len(ends))
    return [
        {"from": start, "to": end, "count": int(count)} for start, end, count in zip(starts, ends, counts, strict=True)
    ]


def _languages(splits: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A report names each split's three most frequent languages; the other rows are ``other``."""
    counts: dict[str, int] = {}
    for split in splits.values():
        for found in split["languages_top3"]:
            counts[found["code"]] = counts.get(found["code"], 0) + found["count"]
    rest = sum(split["sample_count"] for split in splits.values()) - sum(counts.values())
    return _counted(counts) + ([{"name": "other", "count": rest}] if rest else [])


def _counted(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "count": count} for name, count in ordered if count]


if __name__ == "__main__":
    sys.exit(run_child(audit))
