"""What the provider has said, and what only looks as if somebody had.

A placeholder (``x``, ``TODO``, white space, ``n/a``, lorem ipsum, punctuation, a template
mark left in place) is the same as nothing. A point may be declared not applicable, but only
with a reason: ``not applicable: <reason>``.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

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
