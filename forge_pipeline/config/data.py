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


class DatasetEntry(Section):
    """One more dataset, with what the provider declares about it."""

    name_or_path: str = Field(min_length=1)
    """As `dataset_name_or_path`."""
    revision: str | None = None
    license: str | None = None
    origin: str | None = None
    category: Category = "other"

    _revision = field_validator("revision")(check_revision)


class DocumentsSection(Section):
    """How PDF, DOCX, EPUB, HTML, Markdown and text files become rows."""

    chunk_by: Literal["structure", "tokens"] = "structure"
    """``structure``: chapters, headings and paragraphs, put together up to `chunk_tokens`. ``tokens``: windows."""
    chunk_tokens: int = Field(default=512, ge=16)
    """Most tokens of the recipe's tokenizer in one row."""
    overlap_tokens: int = Field(default=0, ge=0)
    """Tokens that a window shares with the one before it (`chunk_by: tokens`)."""
    min_characters: int = Field(default=1, ge=1)
    """Shorter chunks are left out, and counted."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> "DocumentsSection":
        if self.overlap_tokens >= self.chunk_tokens:
            raise ValueError("overlap_tokens must be below chunk_tokens, or a window would never move on")
        return self


class SplitSection(Section):
    """How rows without a declared split are divided. Deterministic by row digest, repeats kept together."""

    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    test: float = Field(default=0.0, ge=0.0, lt=1.0)
    seed: int = 42
    keep_together: Literal["near_duplicates", "same_words"] = "near_duplicates"
    """What may not be torn apart: near-duplicate clusters at `audit.minhash_jaccard`, or only rows with equal words."""

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> "SplitSection":
        if self.validation + self.test >= 1.0:
            raise ValueError("validation + test must be below 1.0, so that rows are left to train on")
        return self


class ContaminationSection(Section):
    """Benchmark items in training rows: shared n-grams and near-duplicates."""

    enabled: bool = True
    """Off is never a pass: the gate `not_contaminated` is then not evaluated, and no longer asked for."""
    ngram: int = Field(default=13, ge=3)
    """Words in a row that an item and a training row must share."""
    min_words: int = Field(default=8, ge=1)
    """Shorter items say too little to be looked for; they are counted apart."""
    jaccard: float = Field(default=0.85, gt=0.0, le=1.0)
    """An item is found too where its words and a row's are this similar."""


class CleanSection(Section):
    """What `clean_dataset` does to the rows before they are audited and trained on. Every change is counted."""

    enabled: bool = False
    secrets: Literal["keep", "mask", "remove"] = "mask"
    """Credentials: masked in the text, or the whole row removed."""
    pii: Literal["keep", "mask", "remove"] = "mask"
    pii_categories: list[str] | None = None
    """Which categories of personal data; None means all that the audit knows."""
    exact_duplicates: Literal["keep", "remove"] = "remove"
    """Keep the first row of rows with the same text in a split."""
    near_duplicates: Literal["keep", "remove"] = "keep"
    """Keep the first row of each near-duplicate cluster in a split."""
    split_overlap: Literal["keep", "remove"] = "remove"
    """Remove training rows that stand in validation or test too, exactly or nearly."""
    contaminated: Literal["keep", "remove"] = "keep"
    """Remove training rows that hold a benchmark item."""
    quality: list[str] | None = None
    """Names of quality filters; a row that fails one of them is removed."""
    languages: list[str] | None = None
    """ISO 639-1 codes to keep; rows identified as another language are removed."""


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
    emit_croissant: bool = True
    html_report: bool = True
    """A self-contained page with charts beside the report."""
    token_counts: bool = True
    """Lengths in tokens of the recipe's tokenizer, beside lengths in characters."""
    workers: int = Field(default=1, ge=1)
    contamination: ContaminationSection = ContaminationSection()
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
    extra_datasets: list[str | DatasetEntry] | None = None
    """More datasets: names, or entries that declare licence, origin, category and revision."""
    mix_ratio: list[float] | None = None
    """One weight for the dataset and one for each extra dataset."""
    mix_temperature: float | None = Field(default=None, gt=0.0)
    """Instead of weights: each dataset weighs its rows to the power of 1/temperature. 1 keeps sizes, more evens out."""
    mix_replacement: bool = False
    """Small datasets are repeated to fill their share, instead of large ones being cut."""
    mix_rows: int | None = Field(default=None, ge=1)
    """Training rows of the mix, with replacement; None: as many as the datasets have together."""
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
    documents: DocumentsSection = DocumentsSection()
    governance: GovernanceSection | None = None
    clean: CleanSection = CleanSection()
    audit: AuditSection = AuditSection()

    _revision = field_validator("revision")(check_revision)

    @model_validator(mode="after")
    def _mix_fits(self) -> "DataSection":
        if self.mix_rows is not None and not self.mix_replacement:
            raise ValueError("mix_rows says how many rows to draw with replacement; set mix_replacement: true")
        if self.mix_temperature is not None and self.mix_ratio is not None:
            raise ValueError("mix_ratio and mix_temperature are two ways to say the same; set one of them")
        if self.mix_ratio is None:
            return self
        wanted = 1 + len(self.extra_datasets or [])
        if len(self.mix_ratio) != wanted:
            raise ValueError(f"mix_ratio has {len(self.mix_ratio)} weights; expected {wanted}, one for each dataset")
        if any(not math.isfinite(weight) or weight < 0 for weight in self.mix_ratio) or not sum(self.mix_ratio):
            raise ValueError("mix_ratio weights must be finite, 0 or more, and not all 0")
        return self

    @property
    def datasets(self) -> tuple[DatasetEntry, ...]:
        """The dataset and the extra datasets, in order, each with its declarations."""
        first = DatasetEntry(
            name_or_path=self.dataset_name_or_path,
            revision=self.revision,
            license=self.license,
            origin=self.origin,
            category=self.category,
        )
        extra = (
            DatasetEntry(name_or_path=entry) if isinstance(entry, str) else entry for entry in self.extra_datasets or ()
        )
        return (first, *extra)

    @property
    def names(self) -> tuple[str, ...]:
        """The dataset and the extra datasets, in order."""
        return tuple(entry.name_or_path for entry in self.datasets)
