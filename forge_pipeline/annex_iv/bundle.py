"""`bundle`: the pipeline's results -> one directory that an auditor can read and check alone.

    annex_iv.json                 manifest: points, missing points, gates, digest of every file
    index.html                    the same for people
    technical_documentation.md    Annex IV, point by point
    annex_iv.pdf                  the same to print and file; only where the extra ``pdf`` was installed
    training_content_summary.*    draft of the public summary of training content, JSON and Markdown
    model_card.md, instructions_for_use.md
    evidence/*.json               the reports that the above is derived from
    audit_log.jsonl, .checkpoint  the log up to the anchor
    verify_bundle.py              checks all of it with nothing but Python

The manifest is written last. Everything but ``evidence/`` and the log is derived from
them, and `verify_annex_iv_artifact` derives it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from forge_pipeline.annex_iv.content_summary import build_summary, summary_json
from forge_pipeline.annex_iv.document import PointEntry, build_document
from forge_pipeline.annex_iv.evidence import BundleInputs, Evidence, ParentBundle, collect
from forge_pipeline.annex_iv.instructions import render_instructions
from forge_pipeline.annex_iv.manifest import MANIFEST_NAME, build_manifest
from forge_pipeline.annex_iv.model_card import render_model_card
from forge_pipeline.annex_iv.page import render_page
from forge_pipeline.annex_iv.pdf import PDF_NAME, pdf_writer, render_pdf
from forge_pipeline.annex_iv.regime import load_regime
from forge_pipeline.annex_iv.technical_documentation import render_content_summary, render_technical_documentation
from forge_pipeline.annex_iv.versions import base_model_of, code_of, metrics_of
from forge_pipeline.audit_log import Anchor
from forge_pipeline.audit_log.checkpoint import CHECKPOINT_SUFFIX, Checkpoint
from forge_pipeline.errors import EvidenceError, IntegrityError
from forge_pipeline.integrity import Digest, DirectoryArtifact, Manifest, canonical_json, loads_strict
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.progress import Progress, Report, silent

PAGE_NAME = "index.html"
LOG_NAME = "audit_log.jsonl"
VERIFIER_NAME = "verify_bundle.py"
_STAGE = "annex_iv_bundle"


@dataclass(frozen=True)
class AnnexIvBundle(DirectoryArtifact):
    """A finished bundle."""

    @property
    def manifest(self) -> dict[str, Any]:
        """``annex_iv.json`` as JSON values, read now.

        Raises:
            IntegrityError: It is not a JSON object.
        """
        try:
            manifest = loads_strict((self.path / MANIFEST_NAME).read_bytes())
        except ValueError as error:
            raise IntegrityError(f"{self.path / MANIFEST_NAME} is not JSON: {error}") from error
        if not isinstance(manifest, dict):
            raise IntegrityError(f"{self.path / MANIFEST_NAME} is not a JSON object")
        return manifest

    @property
    def complete(self) -> bool:
        """Whether no point of Annex IV is missing. Says nothing about the bundle's integrity."""
        return self.manifest["complete"] is True

    @property
    def missing_fields(self) -> list[str]:
        return list(self.manifest["missing_fields"])

    @property
    def evidence(self) -> Evidence:
        """The evidence, read now."""
        return Evidence.read(self.path)

    def as_parent(self) -> ParentBundle:
        """What the next version's bundle keeps of this one."""
        manifest, evidence = self.manifest, self.evidence
        return ParentBundle(
            manifest_hash=Digest(manifest["manifest_hash"]),
            generated_at=evidence.run.generated_at,
            system_version=manifest["system"]["version"] or "",
            subjects=evidence.subjects,
            recipe=evidence.config.model_dump(mode="json"),
            benchmark_average=evidence.benchmark.average_score if evidence.benchmark else None,
            audit_log=evidence.run.anchor,
            base_model=base_model_of(evidence),
            code=code_of(evidence),
            metrics=metrics_of(evidence),
        )


def bundle(inputs: BundleInputs, output_dir: Path, *, progress: Report = silent) -> AnnexIvBundle:
    """Write a bundle.

    Raises:
        FileExistsError: `output_dir` is not empty.
        IntegrityError: Inputs do not belong together, or their files changed.
        EvidenceError: The audit log is shorter than its anchor.
    """
    with publishing(output_dir) as staging:
        progress(Progress(_STAGE, 0, 4, "collecting evidence"))
        collect(inputs, staging, pdf=pdf_writer())
        if inputs.audit_log_path is not None and inputs.anchor is not None:
            progress(Progress(_STAGE, 1, 4, "copying the audit log"))
            _copy_log(inputs.audit_log_path, inputs.anchor, staging)
        progress(Progress(_STAGE, 2, 4, "writing the documents"))
        evidence = Evidence.read(staging)
        entries = build_document(evidence)
        for name, content in derived_files(evidence, entries).items():
            write_file(staging / name, content)
        if evidence.run.pdf is not None:
            write_file(staging / PDF_NAME, derived_pdf(evidence, entries))
        write_file(staging / VERIFIER_NAME, (files("forge_pipeline.annex_iv") / VERIFIER_NAME).read_bytes())
        progress(Progress(_STAGE, 3, 4, "writing the manifest"))
        write_file(staging / PAGE_NAME, derived_page(evidence, entries, Manifest.of_directory(staging)))
        manifest = derived_manifest(evidence, entries, Manifest.of_directory(staging))
        write_file(staging / MANIFEST_NAME, canonical_json(manifest))
    progress(Progress(_STAGE, 4, 4, "done"))
    return AnnexIvBundle.open(output_dir)


def derived_files(evidence: Evidence, entries: Sequence[PointEntry]) -> dict[str, bytes]:
    """The documents that follow from the evidence: file name -> bytes."""
    regime = load_regime(evidence.run.regime)
    texts = {
        "technical_documentation.md": render_technical_documentation(evidence, entries, regime),
        "model_card.md": render_model_card(evidence),
        "instructions_for_use.md": render_instructions(evidence),
        "training_content_summary.md": render_content_summary(evidence, regime),
    }
    summary = canonical_json(summary_json(evidence, build_summary(evidence), regime))
    return {name: text.encode() for name, text in texts.items()} | {"training_content_summary.json": summary}


def derived_pdf(evidence: Evidence, entries: Sequence[PointEntry]) -> bytes:
    """``annex_iv.pdf``; equal bytes only where `pdf_writer` is the one that the evidence names."""
    return render_pdf(evidence, entries, load_regime(evidence.run.regime))


def derived_page(evidence: Evidence, entries: Sequence[PointEntry], listed: Manifest) -> bytes:
    """``index.html`` over a bundle's files; manifest and page themselves are left out of its list."""
    others = Manifest(tuple(entry for entry in listed.entries if entry.path not in (PAGE_NAME, MANIFEST_NAME)))
    return render_page(evidence, entries, load_regime(evidence.run.regime), others).encode()


def derived_manifest(evidence: Evidence, entries: Sequence[PointEntry], listed: Manifest) -> dict[str, Any]:
    """``annex_iv.json`` over a bundle's files; the manifest itself is left out of its list."""
    others = Manifest(tuple(entry for entry in listed.entries if entry.path != MANIFEST_NAME))
    return build_manifest(evidence, entries, load_regime(evidence.run.regime), others)


def _copy_log(log_path: Path, anchor: Anchor, staging: Path) -> None:
    """Copy the first `anchor.size` entries, however far the log has grown since, and their checkpoint."""
    lines = log_path.read_bytes().split(b"\n")[: anchor.size]
    if len(lines) < anchor.size or not all(lines):
        raise EvidenceError(f"{log_path} holds {len(lines)} entries; the anchor says {anchor.size}")
    write_file(staging / LOG_NAME, b"\n".join(lines) + b"\n")
    write_file(staging / f"{LOG_NAME}{CHECKPOINT_SUFFIX}", _checkpoint_text(log_path, anchor).encode())


def _checkpoint_text(log_path: Path, anchor: Anchor) -> str:
    """The log's own checkpoint, with its signatures, while it is about the anchored state; else one without."""
    try:
        text = log_path.with_name(log_path.name + CHECKPOINT_SUFFIX).read_text(encoding="utf-8")
        if Checkpoint.parse(text).anchor == anchor:
            return text
    except (FileNotFoundError, ValueError):
        pass
    return Checkpoint(anchor).text
