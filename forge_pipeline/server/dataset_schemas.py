"""Bodies of one dataset: what it is, its first rows, its audit."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from forge_pipeline.server.schemas import DatasetSummary, Validation


class DatasetDetails(DatasetSummary):
    digest: str
    """Of the file's bytes."""
    dataset_schema: str | None
    validation: Validation
    preview: list[dict[str, Any]]
    """The first rows, at most 5; long texts are cut and end in an ellipsis."""


class LengthBin(BaseModel):
    """Rows with `from` to `to` characters, both included."""

    model_config = ConfigDict(populate_by_name=True)

    first: int = Field(alias="from")
    to: int
    count: int


class Counted(BaseModel):
    name: str
    count: int


class CountedSeverity(Counted):
    severity: str


class AuditSummary(BaseModel):
    """What a dataset's audit found, as counts; the page at `url` has the rest, and neither shows what was found."""

    num_rows: int
    lengths: list[LengthBin]
    languages: list[Counted]
    """The three most frequent, and ``other``."""
    pii: list[CountedSeverity]
    secrets: list[Counted]
    near_duplicates: int
    """Rows that nearly repeat another one."""
    exact_duplicates: int
    """Rows whose text stands in an earlier row."""
    quality: list[Counted]
    """Rows that a heuristic doubts to be prose, by heuristic."""
    notes: list[str]
    url: str
    """The whole report as a page."""


class DatasetAuditBody(BaseModel):
    state: Literal["running", "ready", "failed"]
    error: str | None
    report: AuditSummary | None
