"""`ReportIOManager`: frozen results as canonical JSON."""

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import REPORT_FILE, read_report, write_report
from resources.io_managers.base import ForgeIOManager


class ReportIOManager(ForgeIOManager):
    """Stores a frozen dataclass or pydantic model as ``report.json`` (RFC 8785), typed by the asset's annotation."""

    def write(self, value: Any, directory: Path) -> Path:
        if not (is_dataclass(value) or isinstance(value, BaseModel)):
            raise ConfigError(
                f"ReportIOManager serves dataclasses and pydantic models; the asset returned {type(value)!r}"
            )
        write_report(directory / REPORT_FILE, value)
        return directory

    def read(self, directory: Path, expected: type) -> Any:
        if not (is_dataclass(expected) or (isinstance(expected, type) and issubclass(expected, BaseModel))):
            raise ConfigError(
                f"ReportIOManager serves dataclasses and pydantic models; the asset is annotated {expected!r}"
            )
        return read_report(directory / REPORT_FILE, expected)
