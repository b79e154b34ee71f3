"""Sizes and spans of time as people write them: ``10GB``, ``30d``."""

import argparse
import re
from datetime import timedelta

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SPANS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_size(text: str) -> int:
    """Bytes: ``500MB``, ``1.5 GB``, ``2GiB``, ``1000``; kilo is 1000, kibi 1024.

    Raises:
        argparse.ArgumentTypeError: It is no size.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]i?)?b?", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 500MB, 10GB or 2GiB")
    unit = found[2] or ""
    return int(float(found[1]) * (_UNITS.get(unit) or _BINARY[unit]))


def parse_span(text: str) -> timedelta:
    """A span of time: ``30d``, ``12h``, ``90m``, ``2w``.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([mhdw])", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a span of time; write 30d, 12h, 90m or 2w")
    return timedelta(**{_SPANS[found[2]]: float(found[1])})


def size_text(size: int) -> str:
    """``1.2 GB``; decimal units."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
