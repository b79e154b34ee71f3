"""Audits of uploaded datasets: each in a process of its own, one at a time, kept under the dataset's digest.

What is done is a folder, so it is there after a restart; what was under way when the server ended is begun anew by
whoever asks next. An audit that failed is not tried again until somebody says so.
"""

import json
import logging
import shutil
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forge_pipeline.errors import CancelledError, ForgeError
from forge_pipeline.registry import DatasetRow
from forge_pipeline.server.audit_child import PAGE, SUMMARY
from forge_pipeline.server.children import Child, ChildFailedError
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)
_CHILD = "forge_pipeline.server.audit_child"
_LONGEST = 3600.0  # seconds


@dataclass(frozen=True)
class AuditState:
    """How far an audit is; `summary` is `audit_child.summary` of one that is ready."""

    state: Literal["running", "ready", "failed"]
    error: str | None = None
    summary: dict[str, Any] | None = None


class DatasetAudits:
    """Starts audits when they are asked for, and hands out what they found."""

    def __init__(self, settings: ServerSettings) -> None:
        self._folder = settings.audits_dir
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._waiting: deque[DatasetRow] = deque()
        self._failed: dict[str, str] = {}
        self._child: tuple[str, Child] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="dataset-audits", daemon=True)

    def start(self) -> None:
        """Clear away what an earlier server left half-done, and begin to work."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self._folder.glob(".*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self._thread.start()

    def stop(self) -> None:
        """End the audit under way; returns when its process is gone."""
        with self._lock:
            self._closing = True
            child = self._child
        self._wake.set()
        if child is not None:
            child[1].end()
        if self._thread.is_alive():
            self._thread.join(30)

    def state(self, dataset: DatasetRow, *, again: bool = False) -> AuditState:
        """How far the dataset's audit is; the first call has it begin.

        Args:
            again: Begin anew where it failed.
        """
        found = self._place(dataset) / SUMMARY
        if found.is_file():
            return AuditState("ready", summary=json.loads(found.read_bytes()))
        with self._lock:
            if again:
                self._failed.pop(dataset.digest, None)
            if dataset.digest in self._failed:
                return AuditState("failed", self._failed[dataset.digest])
            under_way = self._child is not None and self._child[0] == dataset.digest
            if not under_way and all(each.digest != dataset.digest for each in self._waiting):
                self._waiting.append(dataset)
        self._wake.set()
        return AuditState("running")

    def page(self, dataset: DatasetRow) -> Path | None:
        """The report as a page; None while there is none."""
        path = self._place(dataset) / PAGE
        return path if path.is_file() else None

    def forget(self, dataset: DatasetRow) -> None:
        """Call off the dataset's audit and remove what it found."""
        with self._lock:
            self._waiting = deque(each for each in self._waiting if each.digest != dataset.digest)
            child = self._child if self._child and self._child[0] == dataset.digest else None
            self._failed.pop(dataset.digest, None)
        if child is not None:
            child[1].end()
        shutil.rmtree(self._place(dataset), ignore_errors=True)

    def _place(self, dataset: DatasetRow) -> Path:
        return self._folder / dataset.digest.hex

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            while self._waiting and not self._closing:
                dataset = self._next()
                if dataset is not None:
                    self._audit(dataset)

    def _next(self) -> DatasetRow | None:
        """The dataset whose audit begins now, with its process."""
        with self._lock:
            if self._closing or not self._waiting:
                return None
            dataset = self._waiting.popleft()
            request = {"source": dataset.path, "digest": dataset.digest, "output": str(self._place(dataset))}
            try:
                self._child = (dataset.digest, Child(_CHILD, request))
            except OSError:  # the system has no process to give
                _log.exception("the audit of %s could not be started", dataset.filename)
                self._failed[dataset.digest] = "The audit could not be started; the server's log has the reason"
                return None
            return dataset

    def _audit(self, dataset: DatasetRow) -> None:
        assert self._child is not None
        try:
            self._child[1].result(_LONGEST)
        except CancelledError:
            return
        except ForgeError as error:
            if not isinstance(error, ChildFailedError):
                self._note(dataset, without_paths(str(error)))
                return
            _log.error("the audit of %s: %s", dataset.filename, error)
            self._note(dataset, "The audit failed; the server's log has the reason")
        finally:
            with self._lock:
                self._child = None

    def _note(self, dataset: DatasetRow, words: str) -> None:
        with self._lock:
            self._failed[dataset.digest] = words
