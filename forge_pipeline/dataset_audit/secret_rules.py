"""The forms that vendors give their keys: data, read once from ``rules/secrets.json``.

The table comes from betterleaks (MIT; name, version and license stand in the file) and is
renewed by `rules_import`. What `secret_scan` adds stands there.
"""

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path


@dataclass(frozen=True)
class PrefixedRule:
    """A key that begins with letters of its vendor's choice.

    Attributes:
        literal: Those letters.
        pattern: The whole key, as a regular expression over ASCII.
        entropy: A key of less Shannon entropy (bits a character) is none.
    """

    family: str
    literal: str
    pattern: str
    entropy: float

    @cached_property
    def token(self) -> re.Pattern[str]:
        """The pattern where no letter or digit goes on to the left, and no longer key to the right."""
        return re.compile(rf"(?<![A-Za-z0-9_]){self.pattern}(?![A-Za-z0-9_-])", re.ASCII)


@dataclass(frozen=True)
class AssignedRule:
    """A value after its vendor's name.

    Attributes:
        words: One of these, in lower case, stands before the value...
        names: ...and this regular expression matches there.
        value: The whole value, as a regular expression over ASCII.
        entropy: As in `PrefixedRule`.
    """

    family: str
    words: tuple[str, ...]
    names: str
    value: str
    entropy: float


@dataclass(frozen=True)
class SecretRules:
    """What the file holds."""

    prefixed: tuple[PrefixedRule, ...]
    assigned: tuple[AssignedRule, ...]


@cache
def load_secret_rules() -> SecretRules:
    """The table of rules, in the order of the file."""
    text = (Path(__file__).parent / "rules" / "secrets.json").read_text(encoding="utf-8")
    table = json.loads(text)
    return SecretRules(
        prefixed=tuple(
            PrefixedRule(row["family"], row["literal"], row["pattern"], row["entropy"]) for row in table["prefixed"]
        ),
        assigned=tuple(
            AssignedRule(row["family"], tuple(row["words"]), row["names"], row["value"], row["entropy"])
            for row in table["assigned"]
        ),
    )


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """`pattern` over ASCII; compiled when a text first needs it, since most rules never match anything."""
    return re.compile(pattern, re.ASCII)
