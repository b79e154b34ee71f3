"""How fast training goes, and how long it will still take. Pure: the clock is handed in."""

import time
from collections.abc import Callable


class Pace:
    """Told what happens, it knows tokens a second and the time left.

    Evaluations and checkpoints are left out of tokens a second, which compares settings, and count
    in the time left, which a person waits. The first step is no measure of the others (libraries
    choose their kernels in it), so nothing is said about the time left before the second.

    Args:
        clock: Seconds from any origin, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = 0
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None
        self._tokens = 0.0
        self._rate: float | None = None
        self._counted_at = self._heard_at = clock()

    def begin(self, total: int) -> None:
        """The training loop starts. `total`: optimizer updates in all, those of an earlier process included."""
        self._total, self._first, self._last = total, None, None
        self._tokens, self._rate = 0.0, None
        self._counted_at = self._heard_at = self._clock()

    def step_done(self, step: int) -> None:
        """Optimizer update number `step` is made."""
        self._heard_at = self._clock()
        self._last = (step, self._heard_at)
        self._first = self._first or self._last

    def counted(self, tokens: float) -> None:
        """`tokens` went through the model since `begin`, by the Trainer's own running count."""
        now = self._heard_at = self._clock()
        if tokens > self._tokens and now > self._counted_at:
            self._rate = (tokens - self._tokens) / (now - self._counted_at)
            self._tokens, self._counted_at = tokens, now

    def paused(self) -> None:
        """Something that is not a step (an evaluation, a checkpoint) has just ended."""
        now = self._clock()
        self._counted_at += now - self._heard_at
        self._heard_at = now

    def metrics(self) -> dict[str, float]:
        """tokens, tokens_per_second and eta_seconds, as far as they are known."""
        known: dict[str, float] = {}
        if self._rate is not None:
            known |= {"tokens": self._tokens, "tokens_per_second": self._rate}
        if self._first and self._last and self._last[0] > self._first[0]:
            seconds_a_step = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
            known["eta_seconds"] = max(0.0, seconds_a_step * (self._total - self._last[0]))
        return known
