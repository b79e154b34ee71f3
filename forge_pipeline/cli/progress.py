"""How the terminal shows progress: a bar where there is a terminal and rich, else a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from forge_pipeline.progress import Progress, Report, describe, figures, silent

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def showing_progress(*, quiet: bool) -> Iterator[Report]:
    """A reporter for the time of the block; it writes to stderr only."""
    if quiet:
        yield silent
    elif sys.stderr.isatty() and (bars := _rich_bars()) is not None:
        with bars as report:
            yield report
    else:
        yield _Lines()


class _Lines:
    """At most one line of a stage each few seconds, and its last."""

    def __init__(self) -> None:
        self._stage = ""
        self._last = float("-inf")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        done = progress.total is not None and progress.step >= progress.total
        if progress.stage == self._stage and not done and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._stage, self._last = progress.stage, now
        print(describe(progress), file=sys.stderr, flush=True)


def _rich_bars() -> "_RichBars | None":
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return None
    return _RichBars()


class _RichBars:
    """One bar for each stage."""

    def __enter__(self) -> Report:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.fields[stage]:>22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._bars.start()
        self._tasks: dict[str, int] = {}
        return self._report

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def _report(self, progress: Progress) -> None:
        from rich.progress import TaskID

        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task("", total=None, stage=progress.stage)
        numbers = figures(progress.metrics, brief=True)
        self._bars.update(
            TaskID(self._tasks[progress.stage]),
            completed=progress.step,
            total=progress.total,
            description="  ".join(part for part in (progress.message, numbers) if part),
        )
