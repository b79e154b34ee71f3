"""The Annex IV bundle: written from what the stages recorded, and verified against it."""

from forge_pipeline.annex_iv.archive import write_archive
from forge_pipeline.annex_iv.bundle import AnnexIvBundle, bundle
from forge_pipeline.annex_iv.compute import ComputeEstimate, HardwareUse, compute_of, estimate_compute
from forge_pipeline.annex_iv.content_summary import build_summary
from forge_pipeline.annex_iv.declarations import is_placeholder
from forge_pipeline.annex_iv.document import EvidenceRef, PointEntry, build_document
from forge_pipeline.annex_iv.evidence import BundleInputs, DeclaredBy, Evidence, ParentBundle
from forge_pipeline.annex_iv.example import build_example_bundle
from forge_pipeline.annex_iv.gpai import GPAI_DECLARATIONS, build_annex_xi, build_annex_xii
from forge_pipeline.annex_iv.points import POINT_IDS, POINTS, Point
from forge_pipeline.annex_iv.regime import CURRENT_REGIME, Regime, load_regime
from forge_pipeline.annex_iv.verify import VerifyAnnexIVResult, verify_annex_iv_artifact

__all__ = [
    "CURRENT_REGIME",
    "GPAI_DECLARATIONS",
    "POINTS",
    "POINT_IDS",
    "AnnexIvBundle",
    "BundleInputs",
    "ComputeEstimate",
    "DeclaredBy",
    "Evidence",
    "EvidenceRef",
    "HardwareUse",
    "ParentBundle",
    "Point",
    "PointEntry",
    "Regime",
    "VerifyAnnexIVResult",
    "build_annex_xi",
    "build_annex_xii",
    "build_document",
    "build_example_bundle",
    "build_summary",
    "bundle",
    "compute_of",
    "estimate_compute",
    "is_placeholder",
    "load_regime",
    "verify_annex_iv_artifact",
    "write_archive",
]
