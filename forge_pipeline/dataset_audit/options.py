"""What an audit looks for, how and where: the keyword arguments of `audit_dataset`, checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forge_pipeline.dataset_audit import pii_ml
from forge_pipeline.dataset_audit.executors import ENGINES, Engine
from forge_pipeline.dataset_audit.minhash import SCHEME, permutations
from forge_pipeline.errors import ConfigError

METHODS = ("simhash", "minhash")


@dataclass(frozen=True)
class AuditOptions:
    """The keyword arguments of `audit_dataset` that decide what is looked for, checked on construction.

    Raises:
        ConfigError: One is out of range; the message names it.
    """

    near_dup_threshold: int = 3
    dedup_method: str = "simhash"
    minhash_jaccard: float = 0.85
    minhash_num_perm: int = 128
    enable_quality_filter: bool = False
    enable_pii_ml: bool = False
    pii_ml_language: str = "en"
    emit_croissant: bool = False
    workers: int = 1
    engine: Engine = "local"
    work_dir: str | None = None

    def __post_init__(self) -> None:
        _expect("near_dup_threshold", self.near_dup_threshold, "a whole number of bits, 0 to 64", _is_int, 0, 64)
        _expect("minhash_jaccard", self.minhash_jaccard, "a number from 0 to 1", _is_number, 0, 1)
        _expect("minhash_num_perm", self.minhash_num_perm, "a whole number from 1", _is_int, 1, 1 << 20)
        _expect("workers", self.workers, "a whole number from 1", _is_int, 1, 1 << 20)
        for name, value, known in (
            ("dedup_method", self.dedup_method, METHODS),
            ("engine", self.engine, ENGINES),
        ):
            if value not in known:
                raise ConfigError(f"{name}: found {value!r}; expected one of {', '.join(known)}")
        if not isinstance(self.pii_ml_language, str) or not self.pii_ml_language:
            raise ConfigError(f"pii_ml_language: found {self.pii_ml_language!r}; expected a language code such as 'en'")

    def require_extras(self) -> None:
        """Fail now, before anything is read.

        Raises:
            OptionalDependencyError: An extra that was asked for is not installed.
        """
        if self.dedup_method == "minhash":
            permutations(self.minhash_num_perm)
        if self.enable_pii_ml:
            pii_ml.entity_finder(self.pii_ml_language)

    @property
    def hamming(self) -> int | None:
        """The SimHash threshold in bits; None for MinHash."""
        return self.near_dup_threshold if self.dedup_method == "simhash" else None

    @property
    def thresholds(self) -> dict[str, Any]:
        """The method and its thresholds, as they stand in the report."""
        own: dict[str, Any] = {"hamming_threshold": self.near_dup_threshold}
        if self.dedup_method == "minhash":
            own = {"num_perm": self.minhash_num_perm, "scheme": SCHEME}
        return {"method": self.dedup_method, **own, "jaccard_threshold": self.minhash_jaccard}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _expect(name: str, value: Any, expected: str, is_kind: Callable[[object], bool], low: float, high: float) -> None:
    if not is_kind(value) or not low <= value <= high:
        raise ConfigError(f"{name}: found {value!r}; expected {expected}")
