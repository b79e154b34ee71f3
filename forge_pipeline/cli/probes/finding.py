"""One thing that was looked at."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name, in a word or two.
        words: What was found.
        fix: What to do about it; empty where there is nothing to do.
    """

    what: str
    state: State
    words: str
    fix: str = ""
