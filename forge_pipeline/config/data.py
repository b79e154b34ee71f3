"""The `data:` section: which rows, whose, split how, audited against which thresholds."""

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from forge_pipeline.config._base import Section
from forge_pipeline.config.model import check_revision
from forge_pipeline.gates import GuardedStage

Category = Literal["public", "licensed", "private_other", "crawled", "user", "synthetic", "other"]


class GovernanceSection(Section):
    """What the provider declares about the data (Annex IV 2(d)). None means nobody has said; it is never a no."""

    collection_method: str = ""
    annotation_process: str = ""
    known_biases: str = ""
    personal_data_included: bool | None = None
    dpia_completed: bool | None = None


class SplitSection(Section):
    """How rows without a declared split are divided. Deterministic by row digest, repeats kept together."""

    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    test: float = Field(default=0.0, ge=0.0, lt=1.0)
    seed: int = 42

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> "SplitSection":
        if self.validation + self.test >= 1.0:
            raise ValueError("validation + test must be below 1.0, so that rows are left to train on")
        return self


class AuditSection(Section):
    """How the dataset is audited, and where its gates stand."""

    enabled: bool = True
    near_dup_threshold: int = Field(default=3, ge=0, le=64)
    """Largest SimHash Hamming distance, in bits, of a near-duplicate pair."""
    dedup_method: Literal["simhash", "minhash"] = "minhash"
    minhash_jaccard: float = Field(default=0.85, ge=0.0, le=1.0)
    minhash_num_perm: int = Field(default=128, ge=2)
    enable_quality_filter: bool = False
    enable_pii_ml: bool = False
    pii_ml_language: str = "en"
    emit_croissant: bool = False
    workers: int = Field(default=1, ge=1)
    min_rows: int = Field(default=1, ge=1)
    """Fewest training rows."""
    max_secrets: int = Field(default=0, ge=0)
    max_critical_pii: int = Field(default=0, ge=0)
    max_split_overlap: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of validation or test rows that also stand in train."""
    max_contamination: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of benchmark items found in the training rows."""
    guards: tuple[GuardedStage, ...] = ("training", "export", "release")


class DataSection(Section):
    """Which rows, from where, under which licence."""

    dataset_name_or_path: str = Field(min_length=1)
    """A file, a directory, a Hub id, or ``package:<module>/<path>`` for data that a Python package ships."""
    extra_datasets: list[str] | None = None
    mix_ratio: list[float] | None = None
    """One weight for the dataset and one for each extra dataset."""
    revision: str | None = None
    license: str | None = None
    """SPDX expression, or the licence's name."""
    origin: str | None = None
    """Where the rows come from, for the record."""
    category: Category = "other"
    """The kind of source, as the training-content summary (AI Act Art. 53(1)(d)) groups them."""
    limit: int | None = Field(default=None, ge=1)
    """Take at most this many rows, chosen by row digest."""
    split: SplitSection = SplitSection()
    shuffle: bool = True
    clean_text: bool = False
    """Collapse white space. Off by default: it destroys code and line breaks."""
    add_eos: bool = True
    """Append the end-of-sequence token to plain-text rows. Chat templates bring their own end of turn."""
    governance: GovernanceSection | None = None
    audit: AuditSection = AuditSection()

    _revision = field_validator("revision")(check_revision)

    @model_validator(mode="after")
    def _mix_fits(self) -> "DataSection":
        if self.mix_ratio is None:
            return self
        wanted = 1 + len(self.extra_datasets or [])
        if len(self.mix_ratio) != wanted:
            raise ValueError(f"mix_ratio has {len(self.mix_ratio)} weights; expected {wanted}, one for each dataset")
        if any(not math.isfinite(weight) or weight < 0 for weight in self.mix_ratio) or not sum(self.mix_ratio):
            raise ValueError("mix_ratio weights must be finite, 0 or more, and not all 0")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The dataset and the extra datasets, in order."""
        return (self.dataset_name_or_path, *(self.extra_datasets or ()))
