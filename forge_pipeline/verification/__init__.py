"""Directories held against what was listed, kept, logged or signed: `verify_integrity`."""

from forge_pipeline.verification.integrity import VerifyIntegrityResult, verify_integrity

__all__ = ["VerifyIntegrityResult", "verify_integrity"]
