"""Personal data: category -> form -> validator.

A category that has check digits is reported only where they fit. Numbers that carry little
or no redundancy (a bare nine-digit BSN, a ten-digit phone number) need a word before them
that says what they are. Version numbers, time stamps, UUIDs, part and order numbers are not
personal data.

The search looks around anchors: an ``@``, a run of at least seven digits, a dotted quad, the
beginning of an identifier. `GATE` is the RE2 pattern of the anchors. All patterns look at ASCII
digits; a text with other digits, or with typographer's spaces and dashes in its numbers, is first
written in ASCII, character for character (`folded`). None looks over more than a bounded stretch.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, overload

from forge_pipeline.dataset_audit import checksums
from forge_pipeline.dataset_audit.anchors import Gate
from forge_pipeline.dataset_audit.finding import Finding, Severity, counts, masked, without_overlaps
from forge_pipeline.dataset_audit.iban_structures import has_structure
from forge_pipeline.dataset_audit.labels import ORDERS, is_labeled, words_before
from forge_pipeline.dataset_audit.phone_numbers import ACCOUNT_BEFORE, PHONE_WORDS, phone_numbers_in

Span = tuple[int, int]

SEVERITY: dict[str, Severity] = {
    "email": "medium",
    "iban": "critical",
    "credit_card": "critical",
    "us_ssn": "high",
    "fr_ssn": "high",
    "br_cpf": "high",
    "it_fiscal_code": "high",
    "de_tax_id": "high",
    "pl_pesel": "high",
    "tr_id": "high",
    "de_id": "high",
    "uk_nino": "high",
    "es_dni": "high",
    "nl_bsn": "high",
    "in_aadhaar": "high",
    "passport": "high",
    "ipv4": "low",
    "ipv6": "low",
    "phone": "low",
}
"""Severity of each category; the order of the keys is the order of precedence."""

CATEGORIES = tuple(SEVERITY)
_RANK = {category: rank for rank, category in enumerate(CATEGORIES)}


# --- writing numbers in ASCII -------------------------------------------------------------------------------------

# The zeros of the scripts that have digits of their own (Unicode category Nd); nine more follow each.
_ZEROS = (
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20,
    0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0,
    0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0,
    0x11450, 0x114D0, 0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x11F50, 0x16A60,
    0x16AC0, 0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E4F0, 0x1E950, 0x1FBF0,
)  # fmt: skip
_SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DASHES = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
_WIDE = {code: chr(code - 0xFEE0) for code in (*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}  # letters
_WIDE |= {0xFF0B: "+", 0xFF08: "(", 0xFF09: ")", 0xFF0E: ".", 0xFF0F: "/", 0xFF20: "@"}
_FOLD = (
    {zero + digit: str(digit) for zero in _ZEROS for digit in range(10)}
    | dict.fromkeys(map(ord, _SPACES), " ")
    | dict.fromkeys(map(ord, _DASHES), "-")
    | _WIDE
)


def _points(codes: Iterable[int]) -> str:
    return "".join(f"\\x{{{code:x}}}" for code in codes)


_OTHER_DIGITS = "[" + "".join(f"\\x{{{zero:x}}}-\\x{{{zero + 9:x}}}" for zero in _ZEROS) + "]"
_OTHER_SEPARATORS = f"[{_points(map(ord, _SPACES + _DASHES))}{_points((0xFF0B, 0xFF08, 0xFF09, 0xFF0E, 0xFF0F))}]"
_ASCII_SEPARATORS = r"[ ().\-/+]{0,2}"
FOLD_GATE = (
    rf"{_OTHER_DIGITS}|[\x{{ff20}}-\x{{ff3a}}\x{{ff41}}-\x{{ff5a}}]"
    rf"|[0-9)]{_ASCII_SEPARATORS}{_OTHER_SEPARATORS}|{_OTHER_SEPARATORS}{_ASCII_SEPARATORS}[0-9]"
)
"""RE2 pattern of the texts in which `folded` may bring something to light."""


_FOLDABLE = re.compile(re.sub(r"\\x\{([0-9a-f]+)\}", lambda code: re.escape(chr(int(code[1], 16))), FOLD_GATE))


def needs_folding(text: str) -> bool:
    """Whether `folded` may bring something to light in `text`."""
    return not text.isascii() and _FOLDABLE.search(text) is not None


def folded(text: str) -> str:
    """The text with digits of other scripts, wide letters, the spaces and dashes of print in ASCII; of equal length.

    >>> folded("٠٥٣٢\u202f１２３–45")
    '0532 123-45'
    """
    return text if text.isascii() else text.translate(_FOLD)


# --- addresses ----------------------------------------------------------------------------------------------------

_LOCAL = "._%+-'"  # characters of a local part that are no letters or digits
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,62})\.){1,8}(?P<tld>[^\W\d_]{2,24}|xn--[a-zA-Z0-9-]{2,50})(?![\w-])")
_RESERVED_DOMAINS = frozenset(
    ["test", "example", "invalid", "localhost", "local", "internal", "lan", "corp", "home", "onion"]
)  # RFC 2606, 6762
# Also methods and file name extensions: after a short name they are what code says, x@w.data.
_CODE_DOMAINS = frozenset({
    "data", "dot", "map", "zip", "java", "cat", "call", "select", "open", "int", "style", "sort", "name", "now", "py",
    "rs", "sh", "md", "so", "pl", "ps", "cc", "mov",
})  # fmt: skip
_REMOTE_COMMAND = re.compile(r"\b(?:ssh|scp|sftp|rsync|mosh|sshfs|ssh-copy-id)\b[^\n@]{0,60}$")
_ALPHANUMERIC = re.compile(r"[^\W_]")
_PROTOCOLS = ("openssh.com", "libssh.org", "lysator.liu.se")  # SSH names its algorithms so (RFC 4251, 6)
_URL_ENDS = re.compile(r"[\s/]")
_MESSAGE_ID = re.compile(r"(?i)(?:message-id|in-reply-to|references|content-id|cid)[\"']?:?\s*[\"']?<?$")


@cache
def _top_level_domains() -> frozenset[str]:
    table = json.loads((Path(__file__).parent / "rules" / "top_level_domains.json").read_text(encoding="utf-8"))
    return frozenset(table["domains"].split()) | _RESERVED_DOMAINS


def _is_top_level(domain: str) -> bool:
    domain = domain.lower()
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode()
        except UnicodeError:
            return False
    return domain in _top_level_domains()


def _email_around(text: str, at: int) -> Span | None:
    """The span of the address whose @ is at `at`."""
    start, lowest = at, max(0, at - 64)
    while start > lowest and (text[start - 1].isalnum() or text[start - 1] in _LOCAL):
        start -= 1
    local_goes_on = start == lowest > 0 and (text[start - 1].isalnum() or text[start - 1] in _LOCAL)
    while start < at and text[start] in ".'":
        start += 1
    if local_goes_on or start == at or text[at - 1] == "." or (start and text[start - 1] in "@"):
        return None
    match = _DOMAIN.match(text, at + 1)
    if match is None or not _is_top_level(match["tld"]) or ".." in text[start:at]:
        return None
    return None if _is_no_address(text, start, match) else (start, match.end())


def _is_no_address(text: str, start: int, domain: re.Match[str]) -> bool:
    after = text[domain.end() : domain.end() + 60]
    before = text[max(0, start - 80) : start]
    label, _, rest = domain[0].partition(".")
    local = text[start : domain.start() - 1]
    if not _ALPHANUMERIC.search(local) or (domain[0] in _PROTOCOLS and "-" in local):
        return True
    if after.startswith("("):  # W@x.mean() is a matrix product
        return True
    if (
        "." not in rest
        and rest.lower() in _CODE_DOMAINS
        and (len(label) <= 2 or re.fullmatch(r"v?[0-9]+x?|self", label))
    ):
        return True
    if re.match(r":(?://|~|[^\s:]*/|[^\s:]*\.git\b)|/[^\s:]+\.git\b", after):  # git and scp: user@host:path
        return True
    if "://" in before and not _URL_ENDS.search(before.rsplit("://", 1)[1]):
        return True
    if any(command in before for command in ("ssh", "scp", "sftp", "rsync", "mosh")) and _REMOTE_COMMAND.search(before):
        return True
    return before.endswith(("<", ":", " ", '"')) and _MESSAGE_ID.search(before[-24:]) is not None


_QUAD = re.compile(r"(?<![\w.+-])[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w-]|\.[0-9])")
_NOT_AN_ADDRESS = re.compile(
    r"(?i)(?:(?<![a-z])(?:version|release|build|ver|rev|section|chapter|figure|table|clause|oid|firmware|driver"
    r"|upgraded? to|v)"
    r"|§|[a-z)]/|[=<>~!^]=|[~^])\.?[\s:=#]{0,3}$"
)
_IS_AN_ADDRESS = re.compile(r"(?i)(?:\bip|\baddr|\bhost|server|\bdns|\bfrom|\bping|://)\w*[\s:=]{0,3}(?:is\s)?$")


def _ipv4(match: re.Match[str]) -> Span | None:
    octets = [int(octet) for octet in match[0].split(".")]
    no_host = octets[0] in (0, 127) or octets[0] >= 224 or octets[:2] == [169, 254]  # RFC 1122, 3927, 5771
    if max(octets) > 255 or no_host:
        return None
    if any(len(octet) > 1 and octet[0] == "0" for octet in match[0].split(".")):
        return None
    before = _before(match, 40)
    is_network = octets[3] == 0 and re.match(r"/[0-9]", match.string[match.end() : match.end() + 2])
    if _NOT_AN_ADDRESS.search(before) or is_network:
        return None
    if max(octets) < 10 and not _IS_AN_ADDRESS.search(before):  # 1.2.3.4 is a section or a version
        return None
    return match.span()


# Global unicast, unique local, link local (RFC 4291, RFC 4193).
_COLONS = re.compile(
    r"(?<![\w:.])(?i:[23][0-9a-f]{3}|f[cd][0-9a-f]{2}|fe[89ab][0-9a-f])(?::[0-9A-Fa-f]{0,4}){2,8}(?![\w:])", re.ASCII
)


def _ipv6(match: re.Match[str]) -> Span | None:
    if not any(map(str.isdigit, match[0])):  # fead::beef is also a C++ scope
        return None
    try:
        ipaddress.IPv6Address(match[0])
    except ValueError:
        return None
    return match.span()


# --- numbers ------------------------------------------------------------------------------------------------------

_RUN = re.compile(r"[0-9](?:[ ().\-/]{0,3}+[0-9]){6,}+")
_SIGNS = " ().-/"
_IN_RUNS = frozenset(_SIGNS + "0123456789")
_NO_NUMBER = re.compile(
    r"[0-9]{1,12}\.[0-9]{3,}"  # decimal fractions
    r"(?:[ ()\-/]{1,3}[0-9]{1,12}\.[0-9]{3,})*(?:[ ()\-/]{1,3}[0-9]{1,4}\.?)?"
    r"|(?:19|20)[0-9]{2}[-/.][0-9]{2}[-/.][0-9]{2}(?:[ -]{1,3}[0-9]{1,2})?"  # a date, perhaps with an hour
    r"|(?:19|20)[0-9]{2}[-/ ]{1,3}(?:19|20)[0-9]{2}"  # years
)
_E = r"(?![\w-]|\.[0-9])"
_S = r"(?<![\w.+-])"
_SSN_WORD = re.compile(r"(?i)(?:\bssn\b|social security)[^0-9\n]{0,20}$")
_NIR_WORD = re.compile(r"(?i)(?:\bnir\b|insee|s[ée]cu)[^0-9\n]{0,24}$")
_BSN_WORD = re.compile(r"(?i)(?:\bbsn\b|burgerservice|sofi-?n|citizen service)[^0-9\n]{0,24}$")
_CPF_WORD = re.compile(r"(?i)(?:\bcpf\b|cadastro de pessoa)[^0-9\n]{0,16}$")
_PESEL_WORD = re.compile(r"(?i)\bpesel\w*\b[^0-9\n]{0,24}$")
_AADHAAR_WORD = re.compile(r"(?i)(?:\baadh?aar|\buidai|आधार)[^0-9\n]{0,24}$")
_TAX_WORD = re.compile(
    r"(?i)(?:steuer-?(?:\s?id\b|liche\s|identifikation|nummer)|\bidnr\b|\bsteueridnr|\btax\s(?:id|identification)|\btin\b)"
    r"[^0-9\n]{0,30}$"
)
_DNI_WORD = re.compile(r"(?i)\b(?:dni|nif|nie|documento)\b[^0-9\n]{0,20}$")
_CARD_WORD = re.compile(r"(?i)(?:card|visa|master|amex|maestro|\bpan\b|karte|carte|tarjeta|carta|kart)[^0-9\n]{0,24}$")
_FOUR_MORE = re.compile(r"[ -][0-9]{4}(?![0-9])")
_CARD_GROUPS = ([4, 4, 4, 4], [4, 6, 5], [4, 6, 4], [4, 4, 4, 4, 3], [4, 4, 4, 7], [6, 13], [5, 5, 5])
_CARD_SHAPES = [(len(groups), groups) for groups in _CARD_GROUPS]


@dataclass(frozen=True)
class Detector:
    """One row of the table of numbers: candidates by `pattern`, then `accept` narrows or refuses (None) the span.

    Attributes:
        digits: The least number of digits of the runs that are looked at: a run may hold more than its number.
        compact: How many digits a run without separators has that may be the number: no pattern takes a part of one.
        signs: What must stand in the run, or beside it.
        labels: One of these, in lower case, must stand somewhere before it.
    """

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], Span | None]
    digits: int = 7
    signs: str = ""
    labels: tuple[str, ...] = ()
    compact: range = range(7, 100)


def _before(match: re.Match[str], length: int = 48) -> str:
    return match.string[max(0, match.start() - length) : match.start()]


def _is_order(match: re.Match[str]) -> bool:
    return is_labeled(words_before(match.string, match.start()), ORDERS)


def _card(match: re.Match[str]) -> Span | None:
    """The groups of a card, perhaps with an expiry date or a check number after them."""
    number = match[0]
    groups = [*map(len, number.replace("-", " ").split(" "))]
    if groups[0] >= 14:
        rare = groups[0] > 16  # and the number of many other things
        fits = [number[: groups[0]]] if not rare or _CARD_WORD.search(_before(match)) else []
    else:
        shapes = [shape for size, shape in _CARD_SHAPES if groups[:size] == shape]
        # A further group of four makes it the number of something longer.
        shapes = [shape for shape in shapes if groups[len(shape) : len(shape) + 1] != [4]]
        fits = [number[: sum(shape) + len(shape) - 1] for shape in shapes]
    card = next((card for card in fits if checksums.credit_card(card.translate(_UNGROUPED))), None)
    if card is None or _has_group_before(match) or _is_order(match):
        return None
    return match.start(), match.start() + len(card)


def _has_group_before(match: re.Match[str]) -> bool:
    """Whether the number goes on to the left, as the account in ``DE88 3704 0044 0532 0130 00`` does."""
    text, start = match.string, match.start()
    return start > 1 and text[start - 1] in " -" and text[start - 2].isdigit()


def _is_part(match: re.Match[str]) -> bool:
    """Whether the number goes on in groups, to the left or to the right."""
    goes_on = _FOUR_MORE.match(match.string, match.end()) is not None
    return goes_on or _has_group_before(match) or ACCOUNT_BEFORE.search(_before(match)) is not None


def _is_argument(match: re.Match[str]) -> bool:
    """A bare number between the parentheses of a call: default_rng(17273783424)."""
    text, start, end = match.string, match.start(), match.end()
    called = start > 1 and text[start - 1] == "(" and (text[start - 2].isalnum() or text[start - 2] == "_")
    return called and match[0].isdigit() and text[end : end + 1] in (")", ",")


def _checked(
    check: Callable[[str], bool], *, needs: re.Pattern[str] | None = None, alone: bool = False
) -> Callable[[re.Match[str]], Span | None]:
    """Accept where `check` holds for the number without separators and, if given, `needs` ends the text before.

    `alone`: and where it is not part of a longer list of groups.
    """

    def accept(match: re.Match[str]) -> Span | None:
        if not check(match[0].translate(_UNGROUPED)):
            return None
        if needs and not needs.search(_before(match)):
            return None
        if (alone and _is_part(match)) or _is_argument(match) or _is_order(match):
            return None
        return match.span()

    return accept


def _dni(number: str) -> bool:
    """A DNI or NIE; a day with Z or T after it is a time stamp."""
    return checksums.es_dni(number) and not re.fullmatch(r"(?:19|20)[0-9]{2}[01][0-9][0-3][0-9][TZ]", number)


_NUMBERS = (
    Detector("credit_card", re.compile(rf"{_S}[0-9](?:[ -]?[0-9]){{13,22}}{_E}"), _card, 14, compact=range(14, 24)),
    Detector("ipv4", _QUAD, _ipv4, signs="."),
    Detector("us_ssn", re.compile(rf"{_S}[0-9]{{3}}-[0-9]{{2}}-[0-9]{{4}}{_E}"), _checked(checksums.us_ssn), 9, "-"),
    Detector(
        "us_ssn", re.compile(rf"{_S}[0-9]{{3}} ?[0-9]{{2}} ?[0-9]{{4}}{_E}"),
        _checked(checksums.us_ssn, needs=_SSN_WORD), 9, labels=("ssn", "social"), compact=range(9, 10),
    ),
    Detector(
        "fr_ssn",
        re.compile(rf"{_S}[12] ?[0-9]{{2}} ?(?:0[1-9]|1[0-2]) ?[0-9]{{2}} ?[0-9]{{3}} ?[0-9]{{3}} ?[0-9]{{2}}{_E}"),
        _checked(checksums.fr_ssn),
        15,
        compact=range(15, 16),
    ),
    Detector(
        "fr_ssn",
        re.compile(rf"{_S}[3478] ?[0-9]{{2}} ?[0-9]{{2}} ?[0-9]{{2}} ?[0-9]{{3}} ?[0-9]{{3}} ?[0-9]{{2}}{_E}"),
        _checked(checksums.fr_ssn, needs=_NIR_WORD),
        15,
        labels=("nir", "insee", "secu", "sécu"),
        compact=range(15, 16),
    ),
    Detector(
        "br_cpf",
        re.compile(rf"{_S}[0-9]{{3}}\.[0-9]{{3}}\.[0-9]{{3}}-[0-9]{{2}}(?![\w-])"), _checked(checksums.br_cpf),
        11, ".-",
    ),
    Detector(
        "br_cpf", re.compile(rf"{_S}[0-9]{{11}}{_E}"), _checked(checksums.br_cpf, needs=_CPF_WORD), 11,
        labels=("cpf", "cadastro"), compact=range(11, 12),
    ),
    Detector("tr_id", re.compile(rf"{_S}[1-9][0-9]{{10}}{_E}"), _checked(checksums.tr_id), 11, compact=range(11, 12)),
    Detector(
        "de_tax_id", re.compile(rf"{_S}[1-9][0-9] ?[0-9]{{3}} ?[0-9]{{3}} ?[0-9]{{3}}{_E}"),
        _checked(checksums.de_tax_id, needs=_TAX_WORD), 11, labels=("steuer", "idnr", "tax", "tin"),
        compact=range(11, 12),
    ),
    Detector(
        "es_dni",
        re.compile(r"(?<![\w./-])(?:[0-9]{8}|[XYZ]-?[0-9]{7})-?[TRWAGMYFPDXBNJZSQVHLCKE](?![\w-])"), _checked(_dni),
        signs="A", compact=range(7, 9),
    ),
    Detector(
        "es_dni",
        re.compile(r"(?<![\w./-])(?:[0-9]{8}|[0-9]{2}\.[0-9]{3}\.[0-9]{3}|[XYZ][- ]?[0-9]{7})[- ]?[A-Za-z](?![\w-])"),
        _checked(lambda number: _dni(number.upper()), needs=_DNI_WORD), labels=("dni", "nif", "nie", "documento"),
        compact=range(7, 9),
    ),
    Detector(
        "nl_bsn", re.compile(rf"{_S}[0-9]{{3,4}}[. ]?[0-9]{{2,3}}[. ]?[0-9]{{2,3}}{_E}"),
        _checked(checksums.nl_bsn, needs=_BSN_WORD), 9, labels=("bsn", "burger", "sofi", "citizen"),
        compact=range(9, 10),
    ),
    Detector(
        "pl_pesel",
        re.compile(rf"{_S}[0-9]{{11}}{_E}"),
        _checked(checksums.pl_pesel, needs=_PESEL_WORD), 11, labels=("pesel",), compact=range(11, 12),
    ),
    Detector(
        "in_aadhaar", re.compile(rf"{_S}[2-9][0-9]{{3}}(?P<sep>[ -])[0-9]{{4}}(?P=sep)[0-9]{{4}}{_E}"),
        _checked(checksums.in_aadhaar, alone=True), 12, compact=range(0),
    ),
    Detector(
        "in_aadhaar", re.compile(rf"{_S}[2-9][0-9]{{11}}{_E}"), _checked(checksums.in_aadhaar, needs=_AADHAAR_WORD), 12,
        labels=("aadha", "adhaar", "uidai", "आधार"), compact=range(12, 13),
    ),
)  # fmt: skip
_LABELS = tuple(dict.fromkeys(label for detector in _NUMBERS for label in detector.labels))
_ANNOUNCEMENTS = Gate("(?i)" + "|".join(sorted({*_LABELS, *PHONE_WORDS})))
_GLUE = " \t:=#.-–('\"[“„«*`_~+/№°º"  # what may stand between a word and its number
_LETTER = re.compile(r"[A-Za-z]")
_DELETED = str.maketrans("", "", " ().-/")
_UNGROUPED = str.maketrans("", "", " .-/")


@cache
def _detectors_for(digits: int, compact: bool, signs: str, labels: tuple[str, ...]) -> tuple[Detector, ...]:
    return tuple(
        detector
        for detector in sorted(_NUMBERS, key=lambda detector: _RANK[detector.kind])
        if (digits in detector.compact if compact else detector.digits <= digits)
        and set(detector.signs) <= set(signs)
        and (not detector.labels or set(detector.labels) & set(labels))
    )


def _numbers_at(text: str, at: int, found: list[Finding]) -> int:
    """What the run of digits around `at`, the index of a digit, holds; returns where to go on."""
    run = _RUN.match(text, _beginning_of_run(text, at) if at and text[at - 1] in _IN_RUNS else at)
    if run is None:
        return at + 1
    start, end = run.span()
    value = run[0]
    resume = end
    if text.startswith("@", end):  # the anchor of an address takes the character before
        resume = end - 1
    elif text.startswith(":", end):  # the last group may begin an IPv6 address
        resume = start + len(value.rstrip("0123456789"))
    if (value.startswith(("19", "20")) or "." in value) and _NO_NUMBER.fullmatch(value):
        return resume
    digits = len(value) if value.isdigit() else len(value.translate(_DELETED))
    first, last = max(0, start - 2), min(len(text), end + 4)
    before = text[max(0, start - 48) : start]
    context = before.lower() if before.rstrip(_GLUE)[-1:].isalpha() and _is_announced(before) else ""
    signs = "." if "." in value else ""
    signs += "-" if "-" in value else ""
    signs += "A" if _LETTER.search(text[end:last] + text[first:start]) else ""
    labels = tuple([label for label in _LABELS if label in context]) if context else ()
    compact = digits == end - start
    for detector in _detectors_for(min(digits, 24), compact, signs, labels):
        for match in detector.pattern.finditer(text, first, last):
            span = detector.accept(match)
            if span:
                found.append(Finding(detector.kind, span, SEVERITY[detector.kind]))
                if span[0] <= start and end <= span[1]:  # all of it: what comes after it in precedence is nothing
                    return resume
    if context or not compact or text[start] == "0" or text[max(0, start - 1) : start] in ("+", "(", " +"):
        phones = phone_numbers_in(text, start, end, digits, announced=context != "")
        found += [Finding("phone", span, "low") for span in phones]
    return resume


def _is_announced(before: str) -> bool:
    """Whether a word that tells what a number is stands anywhere in `before`."""
    data = before.encode("utf-8", errors="surrogatepass")
    return _ANNOUNCEMENTS.first(data, 0, len(data)) >= 0


def _beginning_of_run(text: str, at: int) -> int:
    """Index of the first digit of the run that the digit at `at` belongs to."""
    while at:
        before = at - 1
        while before >= 0 and at - before <= 3 and text[before] in _SIGNS:
            before -= 1
        if before < 0 or not "0" <= text[before] <= "9":
            break
        at = before
    return at


# --- identifiers of letters and digits ----------------------------------------------------------------------------

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}|[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11,30})"
)


def _iban(match: re.Match[str]) -> Span | None:
    """A match runs on through later words; the country says where the number ends."""
    length = checksums.IBAN_LENGTHS.get(match[0][:2].upper())
    if length is None:
        return None
    taken, end = "", match.start()
    for char in match[0]:
        end += 1
        taken += char.upper() if char.isalnum() else ""
        if len(taken) == length:
            break
    after = match.string[end : end + 1]
    if (after.isascii() and after.isalnum()) or not checksums.iban(taken) or not has_structure(taken):
        return None
    return match.start(), end


_NINO = re.compile(r"(?<![\w-])[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?![\w-])")
_DE_ID = re.compile(r"(?<![\w-])(?P<number>[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}[0-9])D?(?![\w-])")
_DE_ID_WORD = re.compile(r"(?i)(?:personalausweis|ausweis-?n|\bausweis\b|identity card|\bid card)[^0-9\n]{0,24}$")
_DE_DOCUMENT = re.compile(r"(?<![\w-])[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}(?![\w-])")
_PASSPORT = re.compile(
    r"(?i)(?<!\w)(?:passport|reisepass|passeport|pasaporte|passaporto|paspoort|pasaport)"
    r"(?:[ -]?(?:no|nr|num|number|nummer|numarasi|numarası|n°|nº|#)(?!\w))?[^\w\n]{0,4}(?:is |ist |est |es |no |nr )?"
    r"[^\w\n]{0,3}(?P<number>(?-i:[A-Z]{1,3}[0-9]{6,8}|[0-9]{9}|[0-9]{2}[A-Z]{2}[0-9]{5}"
    r"|[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8,9}))(?![\w-])"
)
# Both begin with names or a date; what their gates look for stands in their middle.
_FISCAL_CODE = re.compile(
    r"(?i)(?<![\w-])[a-z]{3} ?[a-z]{3} ?[0-9]{2}[a-ehlmpr-t][0-9]{2} ?[a-z][0-9]{3}[a-z](?![\w-])", re.ASCII
)
_CORSICAN = re.compile(rf"{_S}[1-478] ?[0-9]{{2}} ?[0-9]{{2}} ?2[AB] ?[0-9]{{3}} ?[0-9]{{3}} ?[0-9]{{2}}{_E}")


def _identifier_at(text: str, at: int, found: list[Finding]) -> int:
    """An identifier that begins with a letter at `at`; returns the index to go on from."""
    # Asking for their first characters is quicker than letting patterns fail.
    char, following = text[at], text[at + 1 : at + 2]
    if text[at + 2 : at + 4].isdecimal() and (match := _IBAN.match(text, at)) and (span := _iban(match)):
        found.append(Finding("iban", span, "critical"))
        return span[1]
    may_be_nino = following in _CAPITALS
    if may_be_nino and (match := _NINO.match(text, at)) and match[0][:2] not in _NO_NINO and not _is_order(match):
        found.append(Finding("uk_nino", match.span(), "high"))
    may_be_de = char in _DE_ID_FIRST
    if may_be_de and (match := _DE_ID.match(text, at)):
        looks_drawn = sum(map(str.isdigit, match["number"])) >= 4
        if looks_drawn and checksums.de_id(match["number"]) and not _is_order(match):
            found.append(Finding("de_id", match.span("number"), "high"))
    elif may_be_de and (match := _DE_DOCUMENT.match(text, at)) and _DE_ID_WORD.search(_before(match)):
        if any(map(str.isdigit, match[0])):
            found.append(Finding("de_id", match.span(), "high"))
    elif char in "PpRr" and (match := _PASSPORT.match(text, at)) and any(map(str.isdigit, match["number"])):
        found.append(Finding("passport", match.span("number"), "high"))
    elif char in "Ff" and (match := _COLONS.match(text, at)) and (span := _ipv6(match)):
        found.append(Finding("ipv6", span, "low"))
    return at + 1


_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DE_ID_FIRST = frozenset("CFGHJKLMNPRTVWXYZ")
_NO_NINO = ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


def _around(text: str, at: int, found: list[Finding]) -> None:
    """A tax code or a NIR whose middle is at `at`."""
    for pattern, kind, check in _WITH_LETTERS:
        for match in pattern.finditer(text, max(0, at - 14), min(len(text), at + 24)):
            if check(match[0].replace(" ", "").upper()):
                found.append(Finding(kind, match.span(), "high"))


_WITH_LETTERS: tuple[tuple[re.Pattern[str], str, Callable[[str], bool]], ...] = (
    (_FISCAL_CODE, "it_fiscal_code", checksums.it_fiscal_code),
    (_CORSICAN, "fr_ssn", checksums.fr_ssn),
)


# --- all of them --------------------------------------------------------------------------------------------------

_ID_CHAR = "[0-9CFGHJKLMNPRTVWXYZ]"
GATE = "|".join((
    r"[^\s@]@[\w\[\x{80}-\x{10FFFF}]",  # an address; the bracket is for `secret_scan`, whose anchor is the same
    r"(?:^|[^0-9.])[0-9](?:[ ()\-/]{0,3}[0-9]){6}",  # a number, no fraction
    r"[0-9]\.[0-9]{2,3}\.[0-9]{2}|\) ?[0-9]{3}\.[0-9]{4}",  # a number with points
    r"\b[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
    r"\b(?:[23][0-9A-Fa-f]{3}|[fF][c-eC-E][0-9A-Fa-f]{2}):[0-9A-Fa-f:]",
    r"\b[A-Z]{2}[0-9]{2}[ \-]?[A-Z0-9]{4}[ \-]?[A-Z0-9]{4}",  # IBAN
    r"\b[a-z]{2}[0-9]{2}[ \-]?[a-z0-9]{4}[ \-]?[a-z0-9]{4}[ \-]?[a-z0-9]{3}",
    r"\b[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]\b",  # NINO
    rf"\b[CFGHJKLMNPRTVWXYZ]{_ID_CHAR}{{8}}(?:[0-9]D?)?\b",  # identity card
    r"[a-ehlmpr-tA-EHLMPR-T][0-9]{2} ?[A-Za-z][0-9]{3}[A-Za-z]\b",  # the day in a codice fiscale
    r"[AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}\b",  # the department of a Corsican NIR
    r"\b(?i:passport|reisepass|passeport|pasaporte|passaporto|paspoort)",
))  # fmt: skip
"""RE2 pattern of the anchors in a text that is `folded`."""

PREFILTER = f"{GATE}|{FOLD_GATE}"
"""RE2 pattern that matches every text in which `find_pii` can find something."""

_GATE = Gate(GATE)


def personal_at(text: str, at: int, found: list[Finding]) -> int:
    """Add what the anchor at `at` belongs to; returns the index from which to look for the next one.

    Args:
        text: The text, `folded`.
        at: Index of a character; if no anchor is there, nothing is found.
        found: Receives the candidates, which may overlap.
    """
    char, following = text[at], text[at + 1 : at + 2]
    if following == "@":
        span = _email_around(text, at + 1)
        if span:
            found.append(Finding("email", span, "medium"))
    if "0" <= char <= "9":
        quad = _QUAD.match(text, at) if "." in text[at + 1 : at + 4] else None
        if quad and (span := _ipv4(quad)):
            found.append(Finding("ipv4", span, "low"))
        colons = _COLONS.match(text, at) if text.startswith(":", at + 4) else None
        if colons and (span := _ipv6(colons)):
            found.append(Finding("ipv6", span, "low"))
        return max(_numbers_at(text, at, found), at + 1)
    resume = at + 1
    if char.isascii() and char.isalpha():
        if "0" <= following <= "9" or following == " ":
            _around(text, at, found)
        resume = _identifier_at(text, at, found)
    if char == ")" and following == " ":
        following, at = text[at + 2 : at + 3], at + 1
    if resume <= at + 1 and "0" <= following <= "9":  # the gate takes what stands before a number
        resume = max(_numbers_at(text, at + 1, found), at + 1)
    return resume


def find_pii(text: str) -> list[Finding]:
    """Personal data in `text`, in order, without overlaps. Anything but a str has none."""
    if not isinstance(text, str):
        return []
    readable = folded(text)
    found: list[Finding] = []
    _GATE.walk(readable, lambda at: personal_at(readable, at, found))
    return without_overlaps(found, _RANK)


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
