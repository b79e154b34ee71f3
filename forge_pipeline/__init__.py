"""Fine-tune language models as a declared, gated and documented pipeline.

Importing this package costs milliseconds: each public name is resolved when it is
first used (PEP 562), and torch, transformers, trl, datasets and peft are imported by
the functions that need them. Each name stands twice: under `TYPE_CHECKING` for type
checkers, and in `_EXPORTS` for the interpreter; a test holds the two together.
"""

import os
from typing import TYPE_CHECKING, Any, Final, Literal

from forge_pipeline._version import __api_version__

if TYPE_CHECKING:
    from forge_pipeline._version import __version__ as __version__
    from forge_pipeline.annex_iv import VerifyAnnexIVResult as VerifyAnnexIVResult
    from forge_pipeline.annex_iv import verify_annex_iv_artifact as verify_annex_iv_artifact
    from forge_pipeline.audit_log import AuditLogger as AuditLogger
    from forge_pipeline.audit_log import VerifyResult as VerifyResult
    from forge_pipeline.audit_log import verify_audit_log as verify_audit_log
    from forge_pipeline.config import ForgeConfig as ForgeConfig
    from forge_pipeline.config import load_config as load_config
    from forge_pipeline.dataset_audit import AuditReport as AuditReport
    from forge_pipeline.dataset_audit import Finding as Finding
    from forge_pipeline.dataset_audit import audit_dataset as audit_dataset
    from forge_pipeline.dataset_audit import compute_minhash as compute_minhash
    from forge_pipeline.dataset_audit import compute_simhash as compute_simhash
    from forge_pipeline.dataset_audit import detect_pii as detect_pii
    from forge_pipeline.dataset_audit import detect_secrets as detect_secrets
    from forge_pipeline.dataset_audit import find_pii as find_pii
    from forge_pipeline.dataset_audit import find_secrets as find_secrets
    from forge_pipeline.dataset_audit import mask_pii as mask_pii
    from forge_pipeline.dataset_audit import mask_secrets as mask_secrets
    from forge_pipeline.deploy import push_to_hub as push_to_hub
    from forge_pipeline.errors import ConfigError as ConfigError
    from forge_pipeline.errors import ForgeError as ForgeError
    from forge_pipeline.errors import OptionalDependencyError as OptionalDependencyError
    from forge_pipeline.evaluation import BenchmarkResult as BenchmarkResult
    from forge_pipeline.evaluation import run_benchmark as run_benchmark
    from forge_pipeline.export import VerifyGgufResult as VerifyGgufResult
    from forge_pipeline.export import verify_gguf as verify_gguf
    from forge_pipeline.models import get_model_and_tokenizer as get_model_and_tokenizer
    from forge_pipeline.models import merge_models as merge_models
    from forge_pipeline.models import setup_authentication as setup_authentication
    from forge_pipeline.prepare import prepare_dataset as prepare_dataset
    from forge_pipeline.synthetic import SyntheticDataGenerator as SyntheticDataGenerator
    from forge_pipeline.trainer import ForgeTrainer as ForgeTrainer
    from forge_pipeline.trainer import TrainResult as TrainResult
    from forge_pipeline.training import manage_checkpoints as manage_checkpoints
    from forge_pipeline.verification import verify_integrity as verify_integrity
    from forge_pipeline.webhook import WebhookNotifier as WebhookNotifier

# A thread of NumPy's BLAS spins for 2**26 and more ticks before it sleeps, once it is started too: a tenth of a second
# of every core but one, for each process that imports NumPy. 2**20 ticks are enough for calls that follow each other.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")

Tier = Literal["stable", "experimental"]

# public name: (module that defines it, stability tier); never the name of a subpackage, which Python puts in its place
_EXPORTS: Final[dict[str, tuple[str, Tier]]] = {
    "AuditLogger": ("forge_pipeline.audit_log", "stable"),
    "AuditReport": ("forge_pipeline.dataset_audit", "stable"),
    "BenchmarkResult": ("forge_pipeline.evaluation", "experimental"),
    "ConfigError": ("forge_pipeline.errors", "stable"),
    "Finding": ("forge_pipeline.dataset_audit", "stable"),
    "ForgeConfig": ("forge_pipeline.config", "stable"),
    "ForgeError": ("forge_pipeline.errors", "stable"),
    "ForgeTrainer": ("forge_pipeline.trainer", "stable"),
    "OptionalDependencyError": ("forge_pipeline.errors", "stable"),
    "SyntheticDataGenerator": ("forge_pipeline.synthetic", "experimental"),
    "TrainResult": ("forge_pipeline.trainer", "stable"),
    "VerifyAnnexIVResult": ("forge_pipeline.annex_iv", "stable"),
    "VerifyGgufResult": ("forge_pipeline.export", "stable"),
    "VerifyResult": ("forge_pipeline.audit_log", "stable"),
    "WebhookNotifier": ("forge_pipeline.webhook", "experimental"),
    "__version__": ("forge_pipeline._version", "stable"),
    "audit_dataset": ("forge_pipeline.dataset_audit", "stable"),
    "compute_minhash": ("forge_pipeline.dataset_audit", "experimental"),
    "compute_simhash": ("forge_pipeline.dataset_audit", "experimental"),
    "detect_pii": ("forge_pipeline.dataset_audit", "stable"),
    "detect_secrets": ("forge_pipeline.dataset_audit", "stable"),
    "find_pii": ("forge_pipeline.dataset_audit", "stable"),
    "find_secrets": ("forge_pipeline.dataset_audit", "stable"),
    "get_model_and_tokenizer": ("forge_pipeline.models", "experimental"),
    "load_config": ("forge_pipeline.config", "stable"),
    "manage_checkpoints": ("forge_pipeline.training", "experimental"),
    "mask_pii": ("forge_pipeline.dataset_audit", "stable"),
    "mask_secrets": ("forge_pipeline.dataset_audit", "stable"),
    "merge_models": ("forge_pipeline.models", "experimental"),
    "prepare_dataset": ("forge_pipeline.prepare", "experimental"),
    "push_to_hub": ("forge_pipeline.deploy", "experimental"),
    "run_benchmark": ("forge_pipeline.evaluation", "experimental"),
    "setup_authentication": ("forge_pipeline.models", "experimental"),
    "verify_annex_iv_artifact": ("forge_pipeline.annex_iv", "stable"),
    "verify_audit_log": ("forge_pipeline.audit_log", "stable"),
    "verify_gguf": ("forge_pipeline.export", "stable"),
    "verify_integrity": ("forge_pipeline.verification", "experimental"),
}

__all__ = ["__api_version__", *sorted(_EXPORTS)]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _EXPORTS:
            raise AttributeError(f"module 'forge_pipeline' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_EXPORTS[name][0]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
