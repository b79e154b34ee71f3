"""What the assets need to know about the deployment they run in."""

import os
import shutil
from pathlib import Path
from typing import Any

import dagster as dg

from forge_pipeline.errors import ConfigError, StoreError
from resources.home import Home
from resources.store import ArtifactStore

_LEAST_FREE_BYTES = 2 << 30


class DeploymentResource(dg.ConfigurableResource[Any]):
    """FORGE_HOME, the store and the promises a run may rely on.

    Attributes:
        home_directory: FORGE_HOME.
        store_root: Local path or fsspec URL of the artefact store.
        allow_temporary_instance: For tests: accept a Dagster instance that forgets.
        least_free_bytes: A run is refused with less free disk than this, before minutes are spent.
    """

    home_directory: str
    store_root: str
    allow_temporary_instance: bool = False
    least_free_bytes: int = _LEAST_FREE_BYTES

    @property
    def home(self) -> Home:
        return Home(Path(self.home_directory))

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.store_root, self.home.store)

    def work_directory(self, context: dg.AssetExecutionContext) -> Path:
        """A fresh directory for a stage's result, on the store's file system."""
        work: Path = self.home.work / context.run_id / str(context.op_execution_context.op_handle)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        return work / "output"

    def check_persistent(self, instance: dg.DagsterInstance) -> None:
        """The event log is part of the record; an instance that forgets it is refused.

        Raises:
            ConfigError: DAGSTER_HOME is not set.
        """
        if not self.allow_temporary_instance:
            check_persistent(instance)

    def check_disk(self) -> None:
        """Refuse to start on a disk that a run would fill.

        Raises:
            StoreError: Naming what is free and what is asked for.
        """
        self.home.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.home.root).free
        if free < self.least_free_bytes:
            raise StoreError(
                f"{self.home.root} has {free / 1e9:.1f} GB free; a run needs {self.least_free_bytes / 1e9:.1f} GB. "
                "Free some space, or set FORGE_HOME to a larger disk"
            )


def check_persistent(instance: dg.DagsterInstance) -> None:
    """Refuse an instance whose history ends with the process.

    Without DAGSTER_HOME Dagster's commands make one in a temporary folder that calls itself persistent, so the
    variable is asked too.

    Raises:
        ConfigError: Saying what to set.
    """
    if not (instance.is_persistent and os.environ.get("DAGSTER_HOME")):
        raise ConfigError(
            "DAGSTER_HOME is not set, so this run's history, which is the compliance record, would be thrown away. "
            "Set it and run again, for example: export DAGSTER_HOME=$PWD/.forge/dagster"
        )
