"""What the provider has said, and what only looks as if somebody had.

A placeholder (``x``, ``TODO``, white space, ``n/a``, lorem ipsum, punctuation, a template
mark left in place) is the same as nothing, in whichever section of the recipe it stands. A
point may be declared not applicable, but only with a reason: ``not applicable: <reason>``.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.compliance import ComplianceSection, RiskAssessmentSection

_WORDS = frozenset(
    {
        "?", "dummy", "empty", "example", "fixme", "foo", "foo bar", "foobar", "n.a.", "n.a", "n/a", "na", "nan", "nil",
        "no", "none", "not applicable", "not available", "not set", "not specified", "null", "pending", "placeholder",
        "same", "sample text", "see above", "see below", "some text", "string", "tba", "tbc", "tbd", "test", "text",
        "to be added", "to be announced", "to be confirmed", "to be decided", "to be defined", "to be determined",
        "to be done", "todo", "undefined", "unknown", "unspecified", "wip", "yes", "your text here",
    }
)  # fmt: skip
_STARTS = re.compile(r"(?:to ?do|tbd|tba|tbc|fixme|xxx+|lorem ipsum)\b", re.IGNORECASE)
_TEMPLATE_MARK = re.compile(
    r"\breplace (?:this|me|with)\b|\bchange ?me\b|\{\{.*?\}\}"
    r"|\[(?:insert|todo|tbd|your)[^\]]*\]|<(?:insert|todo|tbd|your)[^>]*>",
    re.IGNORECASE,
)
_NOT_APPLICABLE = re.compile(r"not applicable\s*[:\-–—]\s*(?P<reason>.+)", re.IGNORECASE | re.DOTALL)


def is_placeholder(text: str | None) -> bool:
    """Whether `text` states nothing: absent, blank, a stand-in word, or a template that nobody filled in."""
    if text is None:
        return True
    # Format and control characters (zero-width space, soft hyphen) are invisible and say nothing.
    normal = unicodedata.normalize("NFKC", text)
    kept = [c for c in normal if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc")]
    words = " ".join("".join(kept).split())
    letters = [c for c in words.casefold() if c.isalnum()]
    if len(letters) <= 2 or len(set(letters)) == 1:
        return True
    bare = words.casefold().strip(" .!,;:-–—_*#\"'()[]<>")
    return bare in _WORDS or bool(_STARTS.match(words)) or bool(_TEMPLATE_MARK.search(words))


def stated(text: str | None) -> str | None:
    """The text, trimmed, or None if it is a placeholder."""
    return None if text is None or is_placeholder(text) else text.strip()


def all_stated(texts: Iterable[str]) -> list[str]:
    """Those of `texts` that are not placeholders."""
    return [text.strip() for text in texts if not is_placeholder(text)]


@dataclass(frozen=True)
class Declaration:
    """What a provider says about one point: a statement, or why the point does not apply."""

    text: str | None = None
    not_applicable: str | None = None


def declaration(config: ForgeConfig, point: str) -> Declaration:
    """What the recipe's ``compliance.declarations`` says about `point`; empty if nothing real."""
    text = config.compliance.declarations.get(point) if config.compliance else None
    match = _NOT_APPLICABLE.fullmatch(text.strip()) if text else None
    if match:
        return Declaration(not_applicable=stated(match["reason"]))
    return Declaration(text=stated(text))


_NUMBER = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?)(?![\w.])", re.IGNORECASE)


def declared_number(config: ForgeConfig, key: str) -> float | None:
    """The number that the declaration `key` begins with, above 0; words after it say where it is from."""
    text = config.compliance.declarations.get(key, "") if config.compliance else ""
    match = _NUMBER.match(text)
    value = float(match["number"]) if match else 0.0
    return value if math.isfinite(value) and value > 0 else None


def declared_flag(config: ForgeConfig, key: str) -> bool | None:
    """True or False where the declaration `key` begins with yes or no; None where nobody has said."""
    text = config.compliance.declarations.get(key, "") if config.compliance else ""
    word = re.match(r"\s*(yes|no)\b", text, re.IGNORECASE)
    return None if word is None else word[1].lower() == "yes"


# What a recipe declares: whole sections, and single keys of `data`, `data.extra_datasets` and `synthetic`.
_DECLARED_SECTIONS = ("compliance", "risk_assessment")
_DECLARED_KEYS = ("license", "origin")
# Not prose: numbers, yes or no, short versions, words from a closed list.
_NOT_PROSE = re.compile(r"\.(?:system_version|risk_classification|risk_category)$|\['GPAI ")


def placeholders_in(config: ForgeConfig) -> list[str]:
    """Keys that the recipe fills in with something that states nothing, nested ones included.

    An empty text is no placeholder: nobody has said anything there, and the points that ask for it say so.
    """
    values = config.model_dump(mode="json")
    found = [path for name in _DECLARED_SECTIONS for path in _placeholders(values.get(name), name)]
    data, synthetic = values["data"], values.get("synthetic") or {}
    found += _placeholders(data.get("governance"), "data.governance")
    named = [(f"data.extra_datasets[{n}]", each) for n, each in enumerate(data.get("extra_datasets") or [])]
    for path, section in [("data", data), *named, ("synthetic", synthetic)]:
        if isinstance(section, Mapping):
            found += [
                each
                for key in _DECLARED_KEYS
                if section.get(key)
                for each in _placeholders(section[key], f"{path}.{key}")
            ]
    return sorted(found)


def _placeholders(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            inner = f"{path}['{key}']" if path.endswith(".declarations") else f"{path}.{key}"
            yield from _placeholders(part, inner)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _placeholders(part, f"{path}[{index}]")
    elif _states_nothing(value, path):
        yield path


def _states_nothing(value: Any, path: str) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    prose = isinstance(value, str) and value and not _NOT_PROSE.search(path)
    return bool(prose) and not _says_something(value)


def _says_something(text: str) -> bool:
    match = _NOT_APPLICABLE.fullmatch(text.strip())
    return not is_placeholder(match["reason"] if match else text)


def compliance_of(config: ForgeConfig) -> ComplianceSection:
    """The recipe's section, or an empty one."""
    return config.compliance or ComplianceSection()


def risk_of(config: ForgeConfig) -> RiskAssessmentSection:
    """The recipe's section, or an empty one."""
    return config.risk_assessment or RiskAssessmentSection()


def stated_version(config: ForgeConfig) -> str | None:
    """The declared version of the system: any text with a digit in it, because versions are short."""
    version = compliance_of(config).system_version.strip()
    return version if any(c.isdigit() for c in version) else None


def stated_name(config: ForgeConfig) -> str:
    """What pages call the system: its declared name, else the line's."""
    return stated(compliance_of(config).system_name) or config.name
