"""Bodies of a model's artefacts, of their making, and of its push to the Hub."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool

from forge_pipeline.config.operation import Quantization
from forge_pipeline.server.schemas import RequestBody

ArtifactKind = Literal["model", "gguf", "card", "bundle", "audit_report"]


class ArtifactBody(BaseModel):
    """Something that belongs to a model and can be downloaded, or why it cannot."""

    kind: ArtifactKind
    """``model``: the adapter's or model's directory; ``gguf``: one file for llama.cpp; ``card``: the model card;
    ``bundle``: the Annex IV bundle; ``audit_report``: the page of its dataset's audit."""
    name: str
    """The downloaded file's name."""
    size_mb: float | None
    """Bytes / 10^6, of a directory those of its files; null where there is none."""
    digest: str | None
    """Of the file, or of the directory's manifest; the download's ETag."""
    available: bool
    why: str | None
    """Why it is not."""
    url: str | None


class ArtifactList(BaseModel):
    artifacts: list[ArtifactBody]


class ExportModel(RequestBody):
    """GGUF files and the Annex IV bundle to make of a model."""

    quantizations: list[Quantization] | None = None
    """Those that must be among the files. What is made stands in the job's recipe, which was fixed before training:
    all that it names is made, and one that it does not name is refused."""


class PushModel(RequestBody):
    """A model to push to the Hugging Face Hub, with its card, as one commit."""

    repo_id: Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")]
    """``owner/name``; made where it is not there."""
    private: StrictBool = True
    """Of a repository that is made; one that is there stays as it is."""
    token_env: Annotated[str, Field(strict=True, pattern=r"^(HF|HUGGING_?FACE)_([A-Z0-9]+_)*TOKEN(_[A-Z0-9]+)*$")] = (
        "HF_TOKEN"
    )
    """The server's environment variable that holds the token. The token itself is never sent to this server."""
    unreleased: StrictBool = False
    """Push it though no release was decided. What the audit of its data keeps from leaving stays here all the same."""


class Queued(BaseModel):
    status: Literal["queued"] = "queued"
    job_id: str
    message: str
