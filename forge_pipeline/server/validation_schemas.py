"""Body of a dry run: what a start would meet, and what it would take."""

from pydantic import BaseModel, ConfigDict, Field


class FieldProblem(BaseModel):
    field: str
    """A field of the start body; empty where several do not go together."""
    message: str


class DatasetCheck(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    num_examples: int
    row_schema: str | None = Field(alias="schema")
    errors: list[str]
    """One for each line that the strategy cannot learn from, the first 100."""


class Estimate(BaseModel):
    """Memory by the same rules as ``forge fit-check``, in GiB; nothing of the model is loaded."""

    training_gib: float
    serving_gib: float
    """To answer one request of `max_seq_length` tokens with transformers in 16 bits."""
    available_gib: float
    fits: bool
    advice: list[str]
    """Changes that would fit, least change first."""
    seconds: float | None
    """From earlier jobs of this server with the same model and settings; null without any."""
    how: str
    """``formula`` or ``simulated``, the finer one that `exact` asks for."""
    notes: list[str]


class Validated(BaseModel):
    valid: bool
    """Whether a start with this body would be accepted, while no other training runs."""
    errors: list[FieldProblem]
    dataset: DatasetCheck | None
    estimate: Estimate | None
    notes: list[str]
    """Why there is no estimate."""
