"""What is told to the outside about a stage that ended, well or not: facts, and the switches that ask for them.

    FORGE_METRICS_DIR        folder of node_exporter's textfile collector: see `stage_metrics`
    FORGE_PUSHGATEWAY_URL    address of a Prometheus Pushgateway: see `stage_metrics`
    FORGE_LINEAGE            an OpenLineage server's address, or file:PATH: see `lineage`
    FORGE_LINEAGE_API_KEY    its API key, sent as a bearer token
    FORGE_LINEAGE_NAMESPACE  of jobs and datasets there; forge unless given

They belong to the deployment, not to a recipe. None of them decides anything: what is on record is in the audit
log and the materialization records, and a server that does not answer stops no run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from forge_pipeline.errors import ConfigError
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest


@dataclass(frozen=True)
class StageFacts:
    """One stage of one run, ended well.

    Attributes:
        stage: Its name; with a part of a chain before it, ``sft/fine_tuned_model``.
        run_id: Of the run that it belongs to, a UUID.
        started_at, ended_at: ISO 8601 with a zone; the start is None where nobody knows it.
        digest: Of the artefact; `inputs` are asset key -> digest of those that the stage loaded.
        size, files: Bytes and number of the artefact's files.
        columns: Name and type of each column, where the artefact is a table.
        rows, tokens: Where they were counted.
        usage: As `training.ResourceUsage` names it; what was not measured is left out.
        gates: Decisions that the artefact holds.
    """

    line: str
    stage: str
    run_id: str
    started_at: str | None
    ended_at: str
    digest: Digest
    inputs: Mapping[str, Digest]
    kind: str
    size: int
    files: int
    owners: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    rows: int | None = None
    tokens: int | None = None
    usage: Mapping[str, float | str] = field(default_factory=dict)
    gates: tuple[GateDecision, ...] = ()


@dataclass(frozen=True)
class FailedStage:
    """One stage of one run that stored nothing.

    Attributes:
        line, stage, run_id, started_at, ended_at, inputs, owners, usage: As in `StageFacts`.
        error: Name of the error's class, such as ``TrainingError``.
        message: What it says, secrets masked.
        was_stopped: By a person or a signal, so that nothing is known to be wrong.
    """

    line: str
    stage: str
    run_id: str
    started_at: str | None
    ended_at: str
    error: str
    message: str
    was_stopped: bool = False
    inputs: Mapping[str, Digest] = field(default_factory=dict)
    owners: tuple[str, ...] = ()
    usage: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Observers:
    """Who is told.

    Attributes:
        metrics_dir: Where text files for Prometheus go; None: nowhere.
        pushgateway: Address of a Pushgateway (http, https), with its credentials if it asks for any; None: nobody.
        lineage: Address of a server (http, https), or ``file:PATH``; None: nobody.
    """

    metrics_dir: Path | None = None
    pushgateway: str | None = field(default=None, repr=False)
    lineage: str | None = None
    api_key: str | None = field(default=None, repr=False)
    namespace: str = "forge"

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Observers":
        """From the variables above.

        Raises:
            ConfigError: FORGE_LINEAGE is neither an address nor a file, or FORGE_PUSHGATEWAY_URL is no address.
        """
        lineage, folder = environ.get("FORGE_LINEAGE") or None, environ.get("FORGE_METRICS_DIR")
        pushgateway = environ.get("FORGE_PUSHGATEWAY_URL") or None
        if pushgateway is not None and not pushgateway.startswith(("http://", "https://")):
            # without its value, which may have a password
            raise ConfigError("FORGE_PUSHGATEWAY_URL is no address; expected http://HOST:PORT or https://HOST")
        if lineage is not None and not lineage.startswith(("http://", "https://", "file:")):
            raise ConfigError(f"FORGE_LINEAGE: found {lineage!r}; expected http://HOST:PORT, https://HOST or file:PATH")
        return cls(
            metrics_dir=Path(folder) if folder else None,
            pushgateway=pushgateway,
            lineage=lineage,
            api_key=environ.get("FORGE_LINEAGE_API_KEY") or None,
            namespace=environ.get("FORGE_LINEAGE_NAMESPACE") or "forge",
        )

    @property
    def anybody(self) -> bool:
        """Whether there is anybody to tell."""
        return any((self.metrics_dir, self.pushgateway, self.lineage))
