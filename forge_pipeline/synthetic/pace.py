"""When the next request may start: the recipe's delay, what the endpoint asks for, and back-off after a failure."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

ATTEMPTS = 4
FIRST_WAIT = 1.0  # seconds; doubles with each attempt
LONGEST_WAIT = 60.0  # seconds
LONGEST_ASKED_WAIT = 300.0  # seconds that an endpoint may ask us to wait before we give up on a request


class Pace:
    """Lets requests start one after another, at least `gap` seconds apart and never before a hold is over."""

    def __init__(self, gap: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._clock = gap, clock
        self._next = float("-inf")
        self._turn = asyncio.Lock()  # first come, first served

    async def turn(self) -> None:
        """Wait until the next request may start. It then has started."""
        async with self._turn:
            while (left := self._next - self._clock()) > 0:  # a hold may come while we sleep
                await asyncio.sleep(left)
            self._next = self._clock() + self._gap

    def hold(self, seconds: float) -> None:
        """Let no request start for so long: the endpoint has said so, to all of us."""
        self._next = max(self._next, self._clock() + seconds)


def backoff(attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): half fixed and half drawn.

    Drawn so that requests that failed together do not come back together.
    """
    return min(FIRST_WAIT * 2.0**attempt, LONGEST_WAIT) * (0.5 + draw() / 2)


def asked_wait(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as seconds or as a date (RFC 9110 10.2.3); None without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, IndexError):
        return None
    if moment.tzinfo is None:  # "-0000" says UTC without saying where
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
