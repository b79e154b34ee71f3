"""`model.name_or_path: line:<name>`: the base model is what another line made."""

import re
from dataclasses import dataclass

PREFIX = "line:"
RELEASED = "released"

_FORM = re.compile(r"line:([a-z0-9_]{1,32})(?:@([a-z0-9][a-z0-9_.-]{0,63}))?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class BaseLine:
    """Which model of which line.

    Attributes:
        line: The other line's name.
        alias: What of it: ``released`` is what a release moves.
    """

    line: str
    alias: str = RELEASED

    def __str__(self) -> str:
        return f"{PREFIX}{self.line}@{self.alias}"


def parse_base_line(name: str) -> BaseLine | None:
    """The line that a base model's name means; None where it means no line.

    Raises:
        ValueError: It begins with ``line:`` and is not of the form.
    """
    if not name.startswith(PREFIX):
        return None
    found = _FORM.fullmatch(name)
    if found is None:
        raise ValueError(
            f"{name!r} is not of the form line:<name> or line:<name>@<alias>; a line's name is 1 to 32 of a-z, 0-9 and "
            "_, an alias 1 to 64 of a-z, 0-9, '.', '_' and '-', for example line:support_bot@released"
        )
    return BaseLine(found[1], found[2] or RELEASED)


def check_pin(revision: str | None) -> None:
    """A model of a line is pinned by the digest of its directory, where a Hub model is pinned by its commit.

    Raises:
        ValueError: The revision is something else.
    """
    if revision is not None and not _DIGEST.fullmatch(revision):
        raise ValueError(
            f"revision: a model of another line is pinned by its digest, sha256:<64 hex digits>, not {revision!r}; "
            "forge models list shows digests. Without a revision the alias is looked up when the run begins"
        )
