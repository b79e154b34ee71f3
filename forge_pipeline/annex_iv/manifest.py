"""``annex_iv.json``: the bundle's manifest, canonical JSON with its own hash inside.

The file's bytes are RFC 8785 and nothing else, so there is no room for a second reading.
`manifest_hash` is the digest of the same bytes without that one member, which lets a
verifier without this package compute it by taking the member's text out.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from forge_pipeline.annex_iv.declarations import stated_name, stated_version
from forge_pipeline.annex_iv.document import PointEntry, missing_fields
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.regime import Regime
from forge_pipeline.gates import overall_verdict
from forge_pipeline.integrity import Digest, Manifest, json_digest

MANIFEST_NAME = "annex_iv.json"
SCHEMA = "forge-pipeline/annex-iv/1"


def build_manifest(
    evidence: Evidence, entries: Sequence[PointEntry], regime: Regime, listed: Manifest
) -> dict[str, Any]:
    """The manifest as JSON values, `manifest_hash` included.

    Args:
        listed: Every file of the bundle but the manifest itself.
    """
    missing = missing_fields(tuple(entries))
    parent = evidence.run.parent
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "generator": evidence.run.generator,
        "document_version": evidence.run.document_version,
        "generated_at": evidence.run.generated_at,
        "synthetic": evidence.run.synthetic,
        "regime": asdict(regime),
        "line": evidence.config.name,
        "system": {"name": stated_name(evidence.config), "version": stated_version(evidence.config)},
        "subjects": evidence.subjects,
        "released": evidence.released,
        "label": "released" if evidence.released else "not released",
        "gates": [asdict(decision) for decision in evidence.gates],
        "gates_verdict": overall_verdict(evidence.gates).value,
        "points": [asdict(entry) for entry in entries],
        "missing_fields": missing,
        "complete": not missing,
        "audit_log": asdict(evidence.run.anchor) if evidence.run.anchor else None,
        "parent_manifest_hash": parent.manifest_hash if parent else None,
        "files": [asdict(entry) for entry in listed.entries],
    }
    return {**body, "manifest_hash": manifest_hash(body)}


def manifest_hash(manifest: dict[str, Any]) -> Digest:
    """Digest of the manifest without its `manifest_hash`.

    Raises:
        ValueError: It is not representable as canonical JSON.
    """
    return json_digest({key: value for key, value in manifest.items() if key != "manifest_hash"})
