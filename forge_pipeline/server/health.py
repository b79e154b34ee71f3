"""Whether this server is alive, and whether it can take work.

Alive: its event loop answers. Ready: the databases answer, the watchers of jobs have looked lately, there is room
on the disk, and Dagster can start runs. A supervisor restarts what is not alive, and sends no work to what is
not ready.
"""

import logging
import shutil
import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import State

from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)

WATCHED_WITHIN = 15.0  # seconds since a watcher's last look; it looks about twice a second
_ROOM = 256 * 2**20  # bytes; a checkpoint of the smallest model that is worth training


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"


def not_ready(state: State, *, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """Why no work can be taken now, in words without paths; empty when it can."""
    settings: ServerSettings = state.settings
    reasons = [words for words in (_database(state), _watchers(state, clock())) if words]
    try:
        free = shutil.disk_usage(settings.data_dir).free
        if free < _ROOM:
            reasons.append(f"disk: {free // 2**20} MiB are free under the data directory; {_ROOM // 2**20} are needed")
    except OSError as error:
        reasons.append(f"disk: the data directory cannot be looked at ({error.strerror})")
    if state.launcher_state != "ready":
        reasons.append(f"launcher: {state.launcher_state}")
    return reasons


def _database(state: State) -> str | None:
    for name, ask in (("jobs", state.jobs.active), ("registry", lambda: state.registry.list_models(limit=1))):
        try:
            ask()
        except (SQLAlchemyError, OSError) as error:
            _log.warning("the database of %s does not answer: %s", name, error)
            return f"database: {name} does not answer ({type(error).__name__})"
    return None


def _watchers(state: State, now: float) -> str | None:
    late = now - state.watched_at
    return None if late < WATCHED_WITHIN else f"watcher: jobs were last looked at {late:.0f} s ago"
