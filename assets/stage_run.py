"""A stage's function as Dagster runs it: one typed event or none, one message for an error, nobody left untold."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from forge_pipeline.errors import ForgeError
from resources.evidence import AuditLogResource
from resources.failed_stages import note_stopped
from resources.last_word import failure

if TYPE_CHECKING:
    from assets.line import Line


def as_stage(line: "Line", function: Callable[..., Any]) -> Callable[..., Iterator[dg.MaterializeResult[Any]]]:
    """The function as Dagster wants it: a typed event, or none, and the library's errors as one message.

    No retry: what a `ForgeError` says would be said again.
    """
    expected = inspect.signature(function).return_annotation

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Iterator[dg.MaterializeResult[Any]]:
        if "recipe" in kwargs:
            kwargs["recipe"] = line.recipe_of(kwargs["recipe"])
        try:
            value = function(*args, **kwargs)
        except ForgeError as error:
            _tell(line, inspect.signature(function).bind(*args, **kwargs).arguments, str(error))
            raise failure(f"{function.__name__}: {type(error).__name__}: {error}") from error
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:
            _note_stopped(line, inspect.signature(function).bind(*args, **kwargs).arguments, error)
            raise
        if isinstance(value, expected):
            yield dg.MaterializeResult(value=value)
        elif value is not None:
            words = f"{function.__name__} returned {type(value).__name__}; it declares {expected.__name__}"
            raise failure(words)

    return run


def _tell(line: "Line", arguments: Mapping[str, Any], reason: str) -> None:
    """Tell the recipe's webhook that the stage failed: a run started by `dagster asset materialize` has no daemon."""
    from assets.notifications import notify_from_run

    context, recipe = arguments.get("context"), arguments.get("recipe") or line.config
    audit_log = _audit_log_of(arguments)
    if context is not None and recipe is not None and audit_log is not None:
        notify_from_run(context, line, recipe, "failure", reason, audit_log=audit_log)


def _note_stopped(line: "Line", arguments: Mapping[str, Any], error: BaseException) -> None:
    """Dagster calls no hook for a step that was interrupted."""
    context, audit_log = arguments.get("context"), _audit_log_of(arguments)
    if context is not None and audit_log is not None:
        note_stopped(context, line.owners, error, audit_log)


def _audit_log_of(arguments: Mapping[str, Any]) -> AuditLogResource | None:
    """The audit log, of a stage that takes it or whose process knows where it lies."""
    audit_log, process = arguments.get("audit_log"), arguments.get("stage_process")
    if audit_log is None and process is not None:
        return AuditLogResource(directory=process.home)
    return audit_log
