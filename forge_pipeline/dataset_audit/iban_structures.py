"""What a country's account numbers look like: SWIFT's IBAN registry, as schwifty keeps it.

The registry is read from schwifty's files. To import schwifty costs 60 milliseconds of a process
(countries, banks, metadata of packages), more than an audit of three thousand rows; where its files
do not lie as they did, schwifty itself is asked.
"""

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_FIELD = re.compile(r"(?P<size>[0-9]+)!(?P<kind>[nac])")
_CHECK_DIGITS = "(?:0[2-9]|[1-8][0-9]|9[0-8])"  # what ISO 7064 gives; 00, 01 and 99 pass MOD 97 too
_CHARACTERS = {"n": "[0-9]", "a": "[A-Z]", "c": "[A-Za-z0-9]"}


def has_structure(number: str) -> bool:
    """Whether an IBAN whose length and MOD 97-10 are right has its country's structure, and check digits of 02 to 98.

    Args:
        number: Without separators, in upper case.

    >>> has_structure("DE89370400440532013000"), has_structure("GB8212341234569876543")
    (True, False)
    """
    if _registry() is None:
        return _is_known_to_schwifty(number)
    structure = _structure_of(number[:2])
    return structure is not None and structure.fullmatch(number) is not None


@cache
def _structure_of(country: str) -> re.Pattern[str] | None:
    spec = (_registry() or {}).get(country)
    if spec is None:
        return None
    fields = (f"{_CHARACTERS[kind]}{{{size}}}" for size, kind in _FIELD.findall(spec))
    return re.compile(country + _CHECK_DIGITS + "".join(fields))


@cache
def _registry() -> dict[str, str] | None:
    """``4!n12!c`` of each country: what follows the check digits; None where schwifty does not keep it so."""
    entries: dict[str, str] = {}
    try:
        files = sorted(path for folder in _folders() for path in (folder / "iban_registry").glob("*.json"))
        for path in files:  # the later one has the last word
            table = json.loads(path.read_bytes())
            entries |= {country: entry["bban_spec"] for country, entry in table.items() if "bban_spec" in entry}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not entries or not all(isinstance(spec, str) and _FIELD.sub("", spec) == "" for spec in entries.values()):
        return None
    return entries


def _folders() -> list[Path]:
    package = find_spec("schwifty")
    return [Path(folder) for folder in (package and package.submodule_search_locations) or ()]


def _is_known_to_schwifty(number: str) -> bool:
    import schwifty

    try:
        schwifty.IBAN(number)
    except schwifty.exceptions.SchwiftyException:
        return False
    return True
