"""One model line's audit log and registry as Dagster resources.

The log is written first and its anchor (log id, size, root) goes into the Dagster
event's metadata afterwards, so neither record can be changed without the other showing it.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from forge_pipeline.audit_log import LOG_FILE, AuditLogger
from forge_pipeline.registry import Registry
from resources.home import Home


class AuditLogResource(dg.ConfigurableResource[AuditLogger]):
    """Hands out the audit log of a model line.

    Attributes:
        directory: FORGE_HOME; the line's log lies under ``audit_log/<line>``.
    """

    directory: str

    def logger(self, line: str, run_id: str) -> AuditLogger:
        directory = Home(Path(self.directory)).audit_log(line)
        directory.mkdir(parents=True, exist_ok=True)
        return AuditLogger(str(directory), run_id=run_id)

    def path(self, line: str) -> Path:
        """The line's log file."""
        return Home(Path(self.directory)).audit_log(line) / LOG_FILE

    def log(self, line: str, run_id: str, event: str, /, **fields: Any) -> dict[str, Any]:
        """Append an event and return the anchor as Dagster metadata.

        Raises:
            OSError: It could not be written; the caller's stage must fail.
        """
        logger = self.logger(line, run_id)
        logger.log_event(event, **fields)
        anchor = logger.anchor()
        return {"audit/log_id": anchor.log_id, "audit/size": anchor.size, "audit/root": str(anchor.root)}


class RegistryResource(dg.ConfigurableResource[Registry]):
    """The catalogue of models and datasets that the REST API reads too."""

    url: str

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.url)
