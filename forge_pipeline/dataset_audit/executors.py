"""Where the parts of an audit are done: here, in threads, in processes, or on a Ray cluster.

An executor does one thing: map a function over items and give the results in the order of
the items. What it computes depends on the items alone, so every executor gives the same
report, byte for byte.

Threads share what is loaded, but wait for each other where Python itself looks at a text.
Processes do not: where there is much to do, and the system can fork a process that does
nothing else yet, the work goes to its children. Ray is for several machines: starting it
costs more than auditing a hundred thousand rows.
"""

import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar, cast

from forge_pipeline import _optional

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")

T = TypeVar("T")
R = TypeVar("R")

_USAGE = "RAY_USAGE_STATS_ENABLED"
_WAITING = 4  # results that may wait to be taken, for each worker


class Executor(Protocol):
    """Does work, somewhere.

    Attributes:
        in_memory: Functions and items are used as they are. Otherwise they are pickled, and large arrays had better
            travel as files.
        beside: One whose functions and items are used as they are, in this process; None where the work is elsewhere.
    """

    @property
    def in_memory(self) -> bool: ...

    @property
    def beside(self) -> "Executor | None": ...

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """The results in the order of `items`. The first error is raised; work that has not begun is dropped."""
        ...

    def ahead(self, function: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        """As `map`, for work that nothing else waits for: begun where something is idle, its results asked for last."""
        ...

    def done(self) -> None:
        """Say that no more work will come but for `beside`: processes end while this one goes on."""
        ...


class Here:
    """One item after another, in this thread."""

    in_memory = True

    @property
    def beside(self) -> "Executor":
        return self

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        return map(function, items)

    def ahead(self, function: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        return lambda: list(map(function, items))

    def done(self) -> None:
        pass


def _in_order(pool: Pool, workers: int, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """The results of a pool's workers, few of them waiting at a time."""
    waiting: deque[Future[R]] = deque()
    rest = iter(items)
    try:
        for item in islice(rest, _WAITING * workers):
            waiting.append(pool.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            for item in islice(rest, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        for future in waiting:
            future.cancel()


@dataclass(frozen=True)
class Threads:
    """A pool of threads."""

    pool: ThreadPoolExecutor
    workers: int
    in_memory: bool = field(default=True, init=False)

    @property
    def beside(self) -> "Executor":
        return self

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        return _in_order(self.pool, self.workers, function, items)

    def ahead(self, function: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        begun = [self.pool.submit(function, item) for item in items]
        return lambda: [future.result() for future in begun]

    def done(self) -> None:
        pass


@dataclass(frozen=True)
class Processes:
    """A pool of processes that were forked from this one, and so have loaded what it has."""

    pool: Pool
    threads: Threads
    ending: list[Future[None]] = field(default_factory=list, init=False)
    forked: "list[_Forked]" = field(default_factory=list, init=False)
    in_memory: bool = field(default=False, init=False)

    @property
    def beside(self) -> "Executor":
        return self.threads

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        with warnings.catch_warnings():
            # Python counts threads of libraries too (Arrow's, BLAS's), which see to a fork themselves.
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
            self.pool.submit(os.getpid)  # the first work forks all of them
        return _in_order(self.pool, self.threads.workers, function, items)

    def ahead(self, function: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        """In processes of their own, forked now: before those of `map`, while this one loads what they will need."""
        most = max(1, self.threads.workers - 1)
        shares = [items[first::most] for first in range(min(most, len(items)))]
        begun = [_Forked.begin(function, share) for share in shares]
        self.forked.extend(begun)

        def results() -> list[R]:
            done = [iter(child.result()) for child in begun]
            return [next(done[index % len(done)]) for index in range(len(items))]

        return results

    def done(self) -> None:
        self.ending.append(self.threads.pool.submit(self.pool.shutdown))  # which waits for them, beside this thread


@dataclass(frozen=True)
class _Forked:
    """A child that does some work, tells what came of it, and ends."""

    process: Any
    told: Any

    @classmethod
    def begin(cls, function: Callable[[T], R], items: Sequence[T]) -> "_Forked":
        import multiprocessing

        told, tell = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_tell, args=(tell, function, items), daemon=True)
        child.start()
        tell.close()
        return cls(child, told)

    def result(self) -> list[Any]:
        """What the function gave for each item; raises what it raised."""
        try:
            results, error = self.told.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"a process of the audit ended with exit code {self.process.exitcode}") from None
        if error is not None:
            raise error
        return cast(list[Any], results)

    def end(self) -> None:
        """Stop it if it is still at work."""
        self.process.terminate()
        self.process.join()
        self.told.close()


def _tell(tell: Any, function: Callable[[T], R], items: Sequence[T]) -> None:
    """In a child: send (results, None) or (None, what was raised)."""
    try:
        tell.send(([function(item) for item in items], None))
    except Exception as error:
        tell.send((None, error))


def may_fork() -> bool:
    """Whether children of this process can do its work: on Linux, with no thread of Python beside this one."""
    multiprocessing = sys.modules.get("multiprocessing")  # whose daemons may have no children
    is_daemon = multiprocessing is not None and multiprocessing.current_process().daemon
    return sys.platform == "linux" and threading.active_count() == 1 and not is_daemon


@dataclass(frozen=True)
class RayTasks:
    """Tasks of the Ray cluster that this process is connected with.

    The nodes must see the audited files and the working directory under the same paths.
    """

    ray: Any
    in_memory: bool = field(default=False, init=False)
    beside: None = field(default=None, init=False)

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        task, shared = self.ray.remote(_call), self.ray.put(function)
        most = _WAITING * max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        rest = iter(items)
        waiting = deque(task.remote(shared, item) for item in islice(rest, most))
        try:
            while waiting:
                result: R = self._get(waiting.popleft())
                waiting.extend(task.remote(shared, item) for item in islice(rest, 1))
                yield result
        finally:
            for reference in waiting:
                self.ray.cancel(reference)

    def ahead(self, function: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        task = self.ray.remote(_call)
        begun = [task.remote(function, item) for item in items]
        return lambda: [self._get(reference) for reference in begun]

    def _get(self, reference: Any) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error  # what the function raised

    def done(self) -> None:
        pass


def _call(function: Callable[[T], R], item: T) -> R:
    """Ray takes plain functions only, no partial ones or methods."""
    return function(item)


@contextmanager
def open_executor(engine: Engine = "local", workers: int = 1, *, fork: bool = False) -> Iterator[Executor]:
    """An executor for the time of a `with` block.

    Ray: a cluster that this process is connected with is used and left as it is; otherwise one is joined (environment
    variable ``RAY_ADDRESS``) or started on this machine with `workers` processes, and left or stopped at the end.

    Args:
        engine: ``local`` or ``ray``.
        workers: Threads, or processes of a Ray cluster that is started here.
        fork: Whether several workers of this machine are processes, where `may_fork` allows it. Load what they need
            before: they are forked when their first work is due.

    Raises:
        OptionalDependencyError: Ray is asked for and not installed.
    """
    if engine == "ray":
        yield from _ray(workers)
    elif workers == 1:
        yield Here()
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="dataset-audit") as pool:
            threads = Threads(pool, workers)
            if fork and may_fork():
                import multiprocessing
                from concurrent.futures import ProcessPoolExecutor

                with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as processes:
                    executor = Processes(processes, threads)
                    try:
                        yield executor
                    finally:
                        for child in executor.forked:
                            child.end()
                        wait(executor.ending)
            else:
                yield threads


def _ray(workers: int) -> Iterator[Executor]:
    ray = _optional.require("ray", extra="ray", purpose="Audits on a Ray cluster")
    if ray.is_initialized():
        yield RayTasks(ray)
        return
    with _init(ray, workers):
        yield RayTasks(ray)


@contextmanager
def _init(ray: Any, workers: int) -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, or start one here that tells nobody of it."""
    quiet = {"log_to_driver": False, "configure_logging": False}
    before = os.environ.get(_USAGE)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        os.environ[_USAGE] = "0"
        try:
            ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
        finally:
            os.environ.update({_USAGE: before}) if before is not None else os.environ.pop(_USAGE)
    try:
        yield
    finally:
        ray.shutdown()  # of a cluster that was joined, this ends the connection only
