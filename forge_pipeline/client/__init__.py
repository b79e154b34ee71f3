"""A typed, synchronous client of the REST API.

    from forge_pipeline.client import ForgeClient

    with ForgeClient("http://localhost:8000") as forge:
        rows = forge.upload_dataset("rows.jsonl")
        started = forge.start_training(task="text-generation", model_name="owner/base", dataset=rows.filename)
        job = forge.wait(started.job_id, on_progress=lambda job: print(job.progress, job.loss))
        print(forge.generate(job.model_id, "What is machine learning?").generated_text)

Every method is one operation of the API, under the name that `/openapi.json` gives it where it has a good one, and
returns a frozen dataclass. What the server refuses is a `ForgeApiError`; a server that cannot be reached a
`ForgeUnreachableError`. A request that starts something carries an `Idempotency-Key`, so that a repetition after a
broken connection is not a second job. Needs the extra `client`.
"""

from forge_pipeline.client.catalog_replies import (
    Artifact,
    AuditState,
    Dataset,
    DatasetDetails,
    Model,
    ModelDetails,
    ModelPage,
    Uploaded,
)
from forge_pipeline.client.client import ForgeClient
from forge_pipeline.client.errors import ForgeApiError, ForgeUnreachableError
from forge_pipeline.client.replies import (
    Approval,
    Chat,
    Generated,
    Health,
    Info,
    Job,
    JobEvent,
    JobLogs,
    JobPage,
    RolledBack,
    Started,
    TrainingStatus,
    Validated,
)
from forge_pipeline.client.start_body import StartBody

__all__ = [
    "Approval",
    "Artifact",
    "AuditState",
    "Chat",
    "Dataset",
    "DatasetDetails",
    "ForgeApiError",
    "ForgeClient",
    "ForgeUnreachableError",
    "Generated",
    "Health",
    "Info",
    "Job",
    "JobEvent",
    "JobLogs",
    "JobPage",
    "Model",
    "ModelDetails",
    "ModelPage",
    "RolledBack",
    "StartBody",
    "Started",
    "TrainingStatus",
    "Uploaded",
    "Validated",
]
