"""Ask a model, in this process: one thread holds the models and answers one question at a time.

So a model is loaded once however many ask for it first, and questions are answered in the order they came. Who waits
longer than `ServerSettings.playground_wait` for the turn is told to come again; who goes away is not answered any
further.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from forge_pipeline.errors import CancelledError
from forge_pipeline.registry import ModelRow
from forge_pipeline.server.errors import UnavailableError
from forge_pipeline.server.loaded_models import LoadedModels
from forge_pipeline.server.questions import Question, Reply, answer
from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_Event = str | Reply | Exception | None  # None: its turn has come


class Answering:
    """A question on its way; made by `Playground.ask`.

    first = await answering.next()       a piece of text, or the whole `Reply` at the end
    answering.abandon()                  in any case, when nobody reads on
    """

    def __init__(self, wait: float) -> None:
        self._wait, self._waiting = wait, True
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._abandoned = threading.Event()
        self.future: Future[None] | None = None

    async def next(self) -> str | Reply:
        """The next piece of text; the reply once all pieces are there.

        Raises:
            UnavailableError: Other questions kept the models busy for too long.
            Exception: What answering raised.
        """
        if self._waiting:
            try:
                await asyncio.wait_for(self._events.get(), self._wait)
            except TimeoutError:
                self.abandon()
                raise UnavailableError(
                    f"The playground is busy with other requests: no turn within {self._wait:g} s; try again"
                ) from None
            self._waiting = False
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        assert event is not None
        return event

    async def reply(self) -> Reply:
        """The whole answer."""
        while isinstance(event := await self.next(), str):
            pass
        return event

    def abandon(self) -> None:
        """Stop answering, within one layer of the model; nothing happens where the answer is complete."""
        self._abandoned.set()
        if self.future is not None:
            self.future.cancel()

    @property
    def is_abandoned(self) -> bool:
        return self._abandoned.is_set()

    def tell(self, event: _Event) -> None:
        """From the models' thread."""
        with suppress(RuntimeError):  # the server has ended, and nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Playground:
    """The loaded models and their thread."""

    def __init__(self, settings: ServerSettings) -> None:
        self._wait = settings.playground_wait
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="playground")
        self.models = LoadedModels(settings)

    def ask(self, row: ModelRow, question: Question) -> Answering:
        """Put a question to a model. Called in the event loop.

        Raises:
            UnavailableError: The server is ending.
        """
        answering = Answering(self._wait)
        try:
            answering.future = self._thread.submit(self._answer, row, question, answering)
        except RuntimeError as error:
            raise UnavailableError("The server is ending") from error
        return answering

    def forget(self, row: ModelRow) -> None:
        """Drop a model that was deleted, after the question that is being answered."""
        with suppress(RuntimeError):
            self._thread.submit(self.models.drop, str(row.uid))

    def close(self) -> None:
        """Stop answering and end the thread."""
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _answer(self, row: ModelRow, question: Question, answering: Answering) -> None:
        if answering.is_abandoned:
            return
        answering.tell(None)
        try:
            answering.tell(self._reply(row, question, answering))
        except CancelledError:
            answering.tell(UnavailableError("The server is ending"))
        except Exception as error:  # it belongs to whoever asked, and is raised there
            answering.tell(self._explained(error))

    def _reply(self, row: ModelRow, question: Question, answering: Answering) -> Reply:
        from forge_pipeline.models.interruption import interruptible

        def is_cancelled() -> bool:
            return answering.is_abandoned or self._closing.is_set()

        with self.models.lent(row, base=question.base) as loaded, interruptible(loaded.model, is_cancelled):
            began = time.monotonic()
            reply = answer(loaded, question, _unless_empty(answering.tell))
            return replace(reply, milliseconds=round((time.monotonic() - began) * 1000))

    def _explained(self, error: Exception) -> Exception:
        """Memory that ran out is given back, and is no fault of the server's."""
        torch = sys.modules.get("torch")
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError) if torch else MemoryError):
            return error
        _log.warning("out of memory while answering; every loaded model is given up", exc_info=error)
        # The frames that failed hold tensors.
        error.__traceback__ = None
        self.models.clear()
        return UnavailableError("There is not enough free memory to answer now; a training may hold it")


def _unless_empty(tell: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: tell(text) if text else None
