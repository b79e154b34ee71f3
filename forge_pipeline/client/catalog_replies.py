"""What the API answers about models and datasets; `replies` has the rest.

Sizes are in units of 10^6 bytes.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field


@dataclass(frozen=True)
class Model:
    """`uid` is the digest of the model's content; a metric that is not the task's is None."""

    id: int
    uid: str
    name: str
    base_model: str
    task: str
    created_at: str
    size_mb: float
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class ModelPage:
    models: list[Model]
    has_more: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelDetails(Model):
    provider: str | None
    strategy: str | None
    training_params: dict[str, Any]
    job_id: str | None


@dataclass(frozen=True)
class Artifact:
    kind: str
    name: str
    size_mb: float | None
    digest: str | None
    available: bool
    why: str | None
    url: str | None


@dataclass(frozen=True)
class Artifacts:
    artifacts: list[Artifact]


@dataclass(frozen=True)
class RowCheck:
    valid: bool
    errors: list[str]
    error_count: int = 0
    dataset_schema: str | None = None


@dataclass(frozen=True)
class Uploaded:
    """`filename` is what to give as `dataset`; it may differ from the name that was sent."""

    status: str
    filename: str
    num_examples: int
    validation: RowCheck


@dataclass(frozen=True)
class Dataset:
    filename: str
    num_examples: int
    size_mb: float
    uploaded_at: str


@dataclass(frozen=True)
class Datasets:
    datasets: list[Dataset]


@dataclass(frozen=True, kw_only=True)
class DatasetDetails(Dataset):
    digest: str
    dataset_schema: str | None
    validation: RowCheck
    preview: list[dict[str, Any]]


@dataclass(frozen=True)
class LengthBin:
    """Rows of `first` to `to` characters."""

    first: Annotated[int, Field(alias="from")]
    to: int
    count: int


@dataclass(frozen=True)
class Count:
    name: str
    count: int
    severity: str | None = None


@dataclass(frozen=True)
class AuditReport:
    num_rows: int
    lengths: list[LengthBin]
    languages: list[Count]
    pii: list[Count]
    secrets: list[Count]
    near_duplicates: int
    exact_duplicates: int
    quality: list[Count]
    url: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AuditState:
    """`state` is ``running``, ``ready`` or ``failed``."""

    state: str
    error: str | None
    report: AuditReport | None
