"""One uploaded dataset: what is known about it, its first rows, its removal."""

import itertools
import json
from pathlib import Path
from typing import Any

from forge_pipeline.registry import DatasetRow, Registry
from forge_pipeline.server import places
from forge_pipeline.server.dataset_audits import DatasetAudits
from forge_pipeline.server.errors import ConflictError, NotFoundError, RequestError
from forge_pipeline.server.jobs import ACTIVE, Job, JobTable
from forge_pipeline.server.settings import ServerSettings

_ROWS = 5
_LINES = 50  # looked at for a preview
_LONGEST_LINE = 1 << 20  # bytes of a line that a preview reads; a longer one is left out
_TEXT, _ITEMS, _DEPTH = 1000, 20, 6  # characters of a text, entries of a list or object, levels


class DatasetShelf:
    """The datasets of the registry, and what uses them."""

    def __init__(self, settings: ServerSettings, registry: Registry, jobs: JobTable, audits: DatasetAudits) -> None:
        self._settings, self._registry, self._jobs, self._audits = settings, registry, jobs, audits

    def row(self, filename: str) -> DatasetRow:
        """The registry's row.

        Raises:
            NotFoundError: There is no such dataset.
        """
        found = None if "\0" in filename else self._registry.find_dataset(filename)
        if found is None:
            raise NotFoundError("There is no such dataset; GET /api/datasets lists them")
        return found

    def preview(self, dataset: DatasetRow) -> list[dict[str, Any]]:
        """The first rows that are JSON objects, at most 5, long texts cut."""
        rows: list[dict[str, Any]] = []
        try:
            with Path(dataset.path).open("rb") as file:
                for _ in range(_LINES):
                    line = file.readline(_LONGEST_LINE)
                    if not line or len(rows) == _ROWS:
                        break
                    if line.endswith(b"\n") or len(line) < _LONGEST_LINE:
                        rows += _row(line)
        except FileNotFoundError as error:
            raise NotFoundError(f"The file of dataset {dataset.filename} is gone") from error
        return rows

    def delete(self, dataset: DatasetRow) -> None:
        """Forget a dataset, and remove its file and its audit.

        Raises:
            ConflictError: A job that waits or runs learns from it.
            NotFoundError: Somebody else has just deleted it.
        """
        user = next((job for job in self._unfinished() if self._uses(job, Path(dataset.path))), None)
        if user is not None:
            raise ConflictError(
                f"Job {user.id} is {user.status} and learns from {dataset.filename}; cancel it, or wait for its end"
            )
        if not self._registry.delete_dataset(dataset.filename):
            raise NotFoundError("There is no such dataset; GET /api/datasets lists them")
        path = Path(dataset.path)
        if path.resolve().is_relative_to(self._settings.datasets_dir.resolve()):
            path.unlink(missing_ok=True)
        if all(each.digest != dataset.digest for each in self._registry.list_datasets()):
            self._audits.forget(dataset)

    def _unfinished(self) -> list[Job]:
        return [job for status in ACTIVE for job in self._jobs.page(limit=10_000, status=status) if job.kind == "train"]

    def _uses(self, job: Job, path: Path) -> bool:
        """A job names a dataset as it was asked to: by the upload's name, or by a path."""
        try:
            return places.dataset_file(self._settings, str(job.request["dataset"])) == path.resolve()
        except (NotFoundError, RequestError, KeyError):
            return False


def _row(line: bytes) -> list[dict[str, Any]]:
    """The row of a line, or none where the line holds no object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return [_cut(value, _DEPTH)] if isinstance(value, dict) else []


def _cut(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _words(value) if len(value) <= _TEXT else _words(value[:_TEXT]) + "…"
    if isinstance(value, dict | list) and not depth:
        return "…"
    if isinstance(value, dict):
        return {_words(key[:_TEXT]): _cut(each, depth - 1) for key, each in itertools.islice(value.items(), _ITEMS)}
    if isinstance(value, list):
        kept = [_cut(each, depth - 1) for each in value[:_ITEMS]]
        return [*kept, "…"] if len(value) > _ITEMS else kept
    return value


def _words(text: str) -> str:
    """Half of a surrogate pair is allowed in JSON's escapes, and in no UTF-8 that a reply could be."""
    return text.encode("utf-8", "replace").decode()
