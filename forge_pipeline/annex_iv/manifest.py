"""``annex_iv.json``: the bundle's manifest, canonical JSON with its own hash inside.

The file's bytes are RFC 8785 and nothing else, so there is no room for a second reading.
`manifest_hash` is the digest of the same bytes without that one member, which lets a
verifier without this package compute it by taking the member's text out.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from forge_pipeline.annex_iv.compute import compute_of
from forge_pipeline.annex_iv.content_summary import build_summary, summary_label
from forge_pipeline.annex_iv.declarations import placeholders_in, stated_name, stated_version
from forge_pipeline.annex_iv.document import PointEntry, entry_json, missing_fields
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.gpai import build_annex_xi, build_annex_xii
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
    missing = missing_fields(entries)
    parent, xi, xii = evidence.run.parent, build_annex_xi(evidence), build_annex_xii(evidence)
    summary = build_summary(evidence)
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
        "points": [_point(regime, f"IV {entry.point}", entry) for entry in entries],
        "missing_fields": missing,
        "complete": not missing,
        "placeholders": placeholders_in(evidence.config),
        "one_third_rule": asdict(compute_of(evidence)),
        "annex_xi": [_point(regime, entry.point, entry) for entry in xi],
        "annex_xii": [_point(regime, entry.point, entry) for entry in xii],
        "gpai_missing": missing_fields((*xi, *xii)),
        "training_content_summary": {"label": summary_label(summary), "missing": missing_fields(summary)},
        "audit_log": asdict(evidence.run.anchor) if evidence.run.anchor else None,
        "parent_manifest_hash": parent.manifest_hash if parent else None,
        "parent_audit_log": asdict(parent.audit_log) if parent and parent.audit_log else None,
        "consistency_proof": _proof(evidence),
        "pdf": asdict(evidence.run.pdf) if evidence.run.pdf else None,
        "files": [asdict(entry) for entry in listed.entries],
    }
    return {**body, "manifest_hash": manifest_hash(body)}


def _point(regime: Regime, text: str, entry: PointEntry) -> dict[str, Any]:
    """An entry, with the digest of the text that it answers."""
    return {**entry_json(entry), "text_digest": regime.text_digests[text]}


def _proof(evidence: Evidence) -> list[Digest] | None:
    """RFC 9162 2.1.4: that the log in the bundle extends the parent's."""
    proof = evidence.run.consistency_proof
    return None if proof is None else list(proof)


def manifest_hash(manifest: dict[str, Any]) -> Digest:
    """Digest of the manifest without its `manifest_hash`.

    Raises:
        ValueError: It is not representable as canonical JSON.
    """
    return json_digest({key: value for key, value in manifest.items() if key != "manifest_hash"})
