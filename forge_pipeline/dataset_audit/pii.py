"""Personal data in text: category -> pattern -> validator, one table.

A category that has check digits is reported only where they fit. Numbers that carry
little or no redundancy (a bare nine-digit BSN, a ten-digit phone number) need a word
before them that says what they are. Version numbers, time stamps, UUIDs, part and
order numbers are not personal data. All patterns look at ASCII digits, and no pattern
backtracks over more than a bounded stretch of text.

`PREFILTER` is an RE2 pattern that matches every text in which `find_pii` can find
something, so that a whole column is narrowed to its candidates at memory speed.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

from forge_pipeline.dataset_audit import checksums, phone_numbers
from forge_pipeline.dataset_audit.finding import Finding, Severity, counts, masked, without_overlaps

Span = tuple[int, int]

# Top-level "domains" that are file name extensions, as in icon@2x.png.
_FILE_EXTENSIONS = re.compile(
    r"(?i)avif|bmp|cfg|class|conf|css|csv|dll|exe|gif|go|gz|html?|ico|ini|jar|java|jpe?g|jsx?|json|lock|log|md|map|min|mjs"
    r"|mp[34]|parquet|pdf|png|py|pyc|rb|rs|scss|sh|so|sql|svg|tar|toml|tsx?|txt|vue|wasm|wav|webp|xml|ya?ml|zip"
)
_NOT_AN_ADDRESS = re.compile(
    r"(?i)(?:version|release|build|ver|rev|section|chapter|figure|table|clause|oid|§)\.?[\s:=#]{0,3}$"
)
_IS_AN_ADDRESS = re.compile(r"(?i)(?:\bip|\baddr|\bhost|server|\bdns|\bfrom|\bping)\w*[\s:=]{0,3}(?:is\s)?$")
_ORDER_NUMBER = re.compile(
    r"(?i)\b(?:order|invoice|tracking|ticket|serial|part|sku|isbn|issn|imei|ean|upc|gtin|timestamp|epoch|batch|lot|commit)"
    r"\s?(?:number|no\.?|num|nr\.?|id|code)?\s?[:=#]{0,2}\s?(?:is\s|was\s)?$"
)
_SSN_WORD = re.compile(r"(?i)(?:\bssn\b|social security)[^0-9\n]{0,20}$")
_BSN_WORD = re.compile(r"(?i)(?:\bbsn\b|burgerservice|sofi-?n|citizen service)[^0-9\n]{0,24}$")
_CPF_WORD = re.compile(r"(?i)(?:\bcpf\b|cadastro de pessoa)[^0-9\n]{0,16}$")
_CARD_GROUPS = ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 7))


@dataclass(frozen=True)
class Detector:
    """One row of the table: candidates by `pattern`, then `accept` narrows or refuses (None) the span."""

    kind: str
    severity: Severity
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], Span | None]


def before(match: re.Match[str], length: int = 40) -> str:
    """The text just before a match, for the words that say what a number is."""
    return match.string[max(0, match.start() - length) : match.start()]


def _email(match: re.Match[str]) -> Span | None:
    local, domain = match[0].rsplit("@", 1)
    in_url_userinfo = re.search(r"://[^\s/@]*$", before(match, 80))
    called = match.string[match.end() : match.end() + 1] == "("  # W@x.mean() is a matrix product
    is_ssh_remote = local == "git" and match.string[match.end() : match.end() + 1] in (":", "/")
    if _FILE_EXTENSIONS.fullmatch(domain.rsplit(".", 1)[1]) or ".." in match[0] or local.endswith("."):
        return None
    return None if in_url_userinfo or called or is_ssh_remote else match.span()


def _iban(match: re.Match[str]) -> Span | None:
    """The match runs on through later words; the country says where the number ends."""
    length = checksums.IBAN_LENGTHS.get(match[0][:2])
    if length is None:
        return None
    taken, end = "", match.start()
    for char in match[0]:
        end += 1
        taken += char if char.isalnum() else ""
        if len(taken) == length:
            break
    after = match.string[end : end + 1]
    return (match.start(), end) if checksums.iban(taken) and not (after.isascii() and after.isalnum()) else None


def _card(match: re.Match[str]) -> Span | None:
    groups = tuple(len(group) for group in re.split(r"[ -]", match[0]))
    grouped_like_a_card = len(groups) == 1 or groups in _CARD_GROUPS
    if not grouped_like_a_card or _ORDER_NUMBER.search(before(match)):
        return None
    return match.span() if checksums.credit_card(re.sub(r"[ -]", "", match[0])) else None


def _checked(check: Callable[[str], bool], *, needs: re.Pattern[str] | None = None) -> Callable[..., Span | None]:
    """Accept where `check` holds for the number without separators and, if given, `needs` ends the text before."""

    def accept(match: re.Match[str]) -> Span | None:
        if needs and not needs.search(before(match)):
            return None
        if not check(re.sub(r"[ .\-/]", "", match[0])) or _ORDER_NUMBER.search(before(match)):
            return None
        return match.span()

    return accept


def _uk_nino(match: re.Match[str]) -> Span | None:
    return None if match[0][:2] in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ") else match.span()


def _de_id(match: re.Match[str]) -> Span | None:
    looks_random = sum(char.isdigit() for char in match[1]) >= 4 and not _ORDER_NUMBER.search(before(match))
    return match.span(1) if looks_random and checksums.de_id(match[1]) else None


def _ipv4(match: re.Match[str]) -> Span | None:
    octets = [int(octet) for octet in match[0].split(".")]
    if any(octet > 255 for octet in octets) or octets[0] in (0, 127) or octets == [255] * 4:
        return None
    if any(len(octet) > 1 and octet[0] == "0" for octet in match[0].split(".")):
        return None
    if _NOT_AN_ADDRESS.search(before(match)):
        return None
    if max(octets) < 10 and not _IS_AN_ADDRESS.search(before(match)):  # 1.2.3.4 is a section or a version
        return None
    return match.span()


def _ipv6(match: re.Match[str]) -> Span | None:
    groups = [group for group in match[0].split(":") if group]
    if len(groups) < 3 and not match[0].lower().startswith(("fe80", "2", "fc", "fd")):
        return None
    if not any(char.isdigit() for char in match[0]):  # dead::beef is also a C++ scope
        return None
    try:
        ipaddress.IPv6Address(match[0])
    except ValueError:
        return None
    return match.span()


def _phone(match: re.Match[str]) -> Span | None:
    return phone_numbers.span_of_number(match, before(match))


_DETECTORS = (
    Detector(
        "email", "medium",
        re.compile(r"(?<![\w.%+-])[\w%+-][\w.%+-]{0,63}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"), _email,
    ),
    Detector(
        "iban", "critical",
        re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}"), _iban,
    ),
    Detector(
        "credit_card", "critical",
        re.compile(r"(?<![\w.+-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-]|\.[0-9])"), _card,
    ),
    Detector(
        "us_ssn", "high",
        re.compile(r"(?<![\w.+-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-]|\.[0-9])"), _checked(checksums.us_ssn),
    ),
    Detector(
        "us_ssn", "high",
        re.compile(r"(?<![\w.+-])[0-9]{3} ?[0-9]{2} ?[0-9]{4}(?![\w-]|\.[0-9])"),
        _checked(checksums.us_ssn, needs=_SSN_WORD),
    ),
    Detector(
        "fr_ssn", "high",
        re.compile(
            r"(?<![\w.+-])[1-478] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}(?![\w-]|\.[0-9])"
        ), _checked(checksums.fr_ssn),
    ),
    Detector(
        "br_cpf", "high",
        re.compile(r"(?<![\w.+-])[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![\w-])"), _checked(checksums.br_cpf),
    ),
    Detector(
        "br_cpf", "high",
        re.compile(r"(?<![\w.+-])[0-9]{11}(?![\w-]|\.[0-9])"), _checked(checksums.br_cpf, needs=_CPF_WORD),
    ),
    Detector(
        "tr_id", "high", re.compile(r"(?<![\w.+-])[1-9][0-9]{10}(?![\w-]|\.[0-9])"), _checked(checksums.tr_id),
    ),
    Detector(
        "de_id", "high",
        re.compile(r"(?<![\w-])([CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}[0-9])D?(?![\w-])"), _de_id,
    ),
    Detector(
        "uk_nino", "high",
        re.compile(
            r"(?<![\w-])[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?![\w-])"
        ), _uk_nino,
    ),
    Detector(
        "es_dni", "high",
        re.compile(r"(?<![\w.-])(?:[0-9]{8}|[XYZ]-?[0-9]{7})[- ]?[TRWAGMYFPDXBNJZSQVHLCKE](?![\w-])"),
        _checked(checksums.es_dni),
    ),
    Detector(
        "nl_bsn", "high",
        re.compile(r"(?<![\w.+-])[0-9]{3,4}[. ]?[0-9]{2,3}[. ]?[0-9]{2,3}(?![\w-]|\.[0-9])"),
        _checked(checksums.nl_bsn, needs=_BSN_WORD),
    ),
    Detector(
        "ipv4", "low",
        re.compile(r"(?<![\w.+-])[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w-]|\.[0-9])"), _ipv4,
    ),
    Detector(
        "ipv6", "low",
        re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}|:)(?::[0-9A-Fa-f]{0,4}){2,8}(?![\w:])"), _ipv6,
    ),
    *(Detector("phone", "low", pattern, _phone) for pattern in phone_numbers.PATTERNS),
)  # fmt: skip

SEVERITY: dict[str, Severity] = {detector.kind: detector.severity for detector in _DETECTORS}
"""Severity of each category; the order of the keys is the order of precedence."""

CATEGORIES = tuple(SEVERITY)

PREFILTER = (
    r"[^\s@]@[^\s@]+\."
    r"|[A-Z]{2}[0-9]{2}[ \-]?[A-Z0-9]"
    r"|[0-9](?:[ ().\-/]{0,3}[0-9]){6}"
    r"|[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"
    r"|[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
    r"|[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}[0-9]"
    r"|:[0-9A-Fa-f]{0,4}:"
    r"|[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3}"
)


def find_pii(text: str) -> list[Finding]:
    """Personal data in `text`, in order, without overlaps. Anything but a str has none."""
    if not isinstance(text, str):
        return []
    candidates = []
    for detector in _DETECTORS:
        for match in detector.pattern.finditer(text):
            span = detector.accept(match)
            if span:
                candidates.append(Finding(detector.kind, span, detector.severity))
    return without_overlaps(candidates, CATEGORIES) if candidates else []


def detect_pii(text: str) -> dict[str, int]:
    """Category -> number of findings. Anything but a str has none."""
    return counts(find_pii(text), CATEGORIES)


@overload
def mask_pii(text: str, replacement: str = "[REDACTED]", *, return_counts: Literal[False] = False) -> str: ...
@overload
def mask_pii(
    text: str, replacement: str = "[REDACTED]", *, return_counts: Literal[True]
) -> tuple[str, dict[str, int]]: ...
@overload
def mask_pii(
    text: str, replacement: str = "[REDACTED]", *, return_counts: bool
) -> str | tuple[str, dict[str, int]]: ...
def mask_pii(
    text: str, replacement: str = "[REDACTED]", *, return_counts: bool = False
) -> str | tuple[str, dict[str, int]]:
    """Replace every finding. Anything but a str is returned as it is.

    Args:
        text: The text.
        replacement: What stands in place of each finding.
        return_counts: Return (masked text, category -> count) instead.
    """
    findings = find_pii(text)
    result = masked(text, findings, replacement) if findings else text
    return (result, counts(findings, CATEGORIES)) if return_counts else result
