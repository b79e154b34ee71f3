"""Bytes we can vouch for: canonical JSON, digests, manifests, atomic publish.

One definition of each, used by the audit log, the reports, the bundle, the registry
and the IO managers alike.
"""

from forge_pipeline.integrity.artifact import (
    REPORT_FILE,
    DirectoryArtifact,
    read_report,
    report_digest,
    report_to_json,
    write_report,
)
from forge_pipeline.integrity.canonical_json import canonical_json, json_digest, loads_strict
from forge_pipeline.integrity.digest import Digest
from forge_pipeline.integrity.manifest import Manifest, ManifestEntry

__all__ = [
    "REPORT_FILE",
    "Digest",
    "DirectoryArtifact",
    "Manifest",
    "ManifestEntry",
    "canonical_json",
    "json_digest",
    "loads_strict",
    "read_report",
    "report_digest",
    "report_to_json",
    "write_report",
]
