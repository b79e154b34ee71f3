"""What a thing to plant is, and drawing its parts at random."""

import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Draw = Callable[[Random], str]

ALNUM = string.ascii_letters + string.digits
URL_SAFE = ALNUM + "-_"
BASE64 = ALNUM + "+/"
HEX = "0123456789abcdef"


@dataclass(frozen=True)
class Plant:
    """A kind of thing to plant.

    Attributes:
        kind: The category or family that a detector should report, or the kind of look-alike.
        draw: Makes a value.
        carriers: Sentences that the value stands in, at ``{}``. Where the value's form alone does not say
            what it is, every carrier does.
    """

    kind: str
    draw: Draw
    carriers: tuple[str, ...]


def some(rng: Random, alphabet: str, size: int) -> str:
    """`size` characters drawn from `alphabet`."""
    return "".join(rng.choice(alphabet) for _ in range(size))


def digits(rng: Random, size: int) -> str:
    """`size` decimal digits, leading zeros among them."""
    return some(rng, string.digits, size)


def any_of(*draws: Draw) -> Draw:
    """One of `draws`, another each time."""
    return lambda rng: rng.choice(draws)(rng)
