"""Phone numbers: international form, and the national forms that are common in text.

A national number is taken only in a form that hardly anything else has: a trunk zero or an
area code in parentheses with groups, a mobile prefix with exactly the right number of
digits, or a word such as "phone" before it. What a date, a thousands separator, a part
number or a bare run of digits could be is not a phone number.

What has such a form must also be a number of the numbering plan of its country (libphonenumber's
metadata), or of a range that is reserved for fiction, which texts are full of.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from forge_pipeline.dataset_audit.labels import OTHERS, is_labeled, words_before

Span = tuple[int, int]

_DATE = re.compile(
    r"(?<![0-9])(?:(?:19|20)[0-9]{2}[-/. ][0-9]{1,2}[-/. ][0-9]{1,2}"
    r"|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:19|20)[0-9]{2})(?![0-9])"
)
_SEPARATORS = re.compile(r"[^0-9]+")
_LEADING_ZERO = re.compile(r"(?<![0-9])0").search
_LAST_GROUP = re.compile(r"[ ().\-/]+[0-9]+$")
_FICTION = re.compile(r"\+1555[0-9]{7}|\+1[2-9][0-9]{2}55501[0-9]{2}|\+447700900[0-9]{3}|\+44[0-9]{2,3}4960[0-9]{3}")
_ZIP_CODE = re.compile(r"0[0-9]{4}-[0-9]{4}")  # of the north-east of the United States
ACCOUNT_BEFORE = re.compile(r"(?<![A-Z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){0,7} $")  # an IBAN that does not fit
PHONE_WORDS = frozenset({
    "phone", "phones", "tel", "telephone", "mobile", "cell", "cellphone", "call", "dial", "fax", "whatsapp", "sms",
    "handy", "telefon", "telefonnummer", "téléphone", "tél", "portable", "telefono", "telefone", "teléfono",
    "cellulare", "celular", "móvil", "movil", "gsm", "cep", "rufnummer", "mobil", "telefoon", "telefonu", "numara",
    "телефон", "тел",
})  # fmt: skip
_START = r"(?<![\w.,+/:)`-])"
_END = r"(?![\w-]|[.,:][0-9])"


@dataclass(frozen=True)
class Form:
    """One way to write a phone number.

    Attributes:
        regions: Countries (ISO 3166-1) that write it so; none: international.
        needs: Of what must stand in the run of digits, or just before it: ``+`` (or 00), ``(``, a space, a zero that
            begins a group.
        digits: The least number of digits in the run.
        grouped: Only runs with separators.
        alone: No further group of digits may stand beside it, since a list of numbers looks like it.
        dashes_suffice: With these separators it need not be a number that its country assigns.
    """

    pattern: re.Pattern[str]
    regions: tuple[str, ...] = ()
    needs: str = ""
    digits: int = 9
    grouped: bool = False
    alone: bool = False
    dashes_suffice: bool = False


def _with_separator(sign: str) -> str:
    return rf"{_START}(?:1{sign})?[2-9][0-9]{{2}}{sign}[2-9][0-9]{{2}}{sign}[0-9]{{4}}{_END}"


_TRUNK_ZERO = ("GB", "DE", "FR", "IT", "NL", "TR", "BE", "AT", "CH", "SE", "AU", "JP", "IN", "KR", "ZA", "IE")

FORMS = (
    # +49 30 901820, +1 (212) 736-1234, 0044 20 7946 0958
    Form(
        re.compile(r"(?<![\w.+)-])(?:\+|00(?=[1-9]))\(?[1-9](?:[ ().\-/]{0,3}[0-9]){6,15}(?![0-9]|[.,][0-9])"),
        needs="+", digits=7,
    ),
    # (212) 736-1234
    Form(
        re.compile(r"(?<![\w)-])\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-]?[0-9]{4}" + _END), ("US",),
        needs="(", digits=10, dashes_suffice=True,
    ),
    # 212-736-1234, 212.736.1234, 212 736 1234, 1-212-736-1234
    Form(
        re.compile("|".join(map(_with_separator, (" ", r"\.", "-")))),
        ("US",),
        digits=10, grouped=True, alone=True, dashes_suffice=True,
    ),
    # (11) 91234-5678
    Form(re.compile(r"(?<![\w)-])\([1-9][0-9]\) ?9?[0-9]{4}-[0-9]{4}" + _END), ("BR",), needs="("),
    # 8 (495) 123-45-67
    Form(re.compile(_START + r"8 ?\([3-9][0-9]{2}\) ?[0-9]{3}-[0-9]{2}-[0-9]{2}" + _END), ("RU",), needs="("),
    # 01 23 45 67 89, 01.23.45.67.89
    Form(
        re.compile(_START + r"0[1-9](?P<fr>[ .-])[0-9]{2}(?:(?P=fr)[0-9]{2}){3}" + _END), ("FR",),
        needs="0", grouped=True, alone=True,
    ),
    # 020 7946 0958, 030/1234567, (0212) 555 44 33, 06-12345678, 0 532 123 45 67
    Form(
        re.compile(r"(?<![\w.,+/:)\[-])\(?0[ ]?[1-9][0-9]{0,4}\)?(?:[ /-][0-9]{2,8}){1,5}" + _END), _TRUNK_ZERO,
        needs="0", grouped=True, alone=True,
    ),
    # 532 123 45 67, 612 34 56 78
    Form(re.compile(_START + r"5[0-9]{2} [0-9]{3} [0-9]{2} [0-9]{2}" + _END), ("TR",), needs=" ", alone=True),
    Form(re.compile(_START + r"[679][0-9]{2} [0-9]{2} [0-9]{2} [0-9]{2}" + _END), ("ES",), needs=" ", alone=True),
    # 138 0013 8000
    Form(re.compile(_START + r"1[3-9][0-9] [0-9]{4} [0-9]{4}" + _END), ("CN",), needs=" ", digits=11, alone=True),
    # 07700900123, 0612345678, 05321234567, 01711234567
    Form(re.compile(_START + r"07[0-9]{9}" + _END), ("GB",), needs="0", digits=11),
    Form(re.compile(_START + r"0[67][0-9]{8}" + _END), ("FR", "NL"), needs="0", digits=10),
    Form(re.compile(_START + r"05[0-9]{9}" + _END), ("TR",), needs="0", digits=11),
    Form(re.compile(_START + r"01[567][0-9]{8,9}" + _END), ("DE",), needs="0", digits=11),
)  # fmt: skip
_INTERNATIONAL = FORMS[0]
_AFTER_A_WORD = re.compile(r"(?<![\w.+])[(]?[0-9](?:[ ().\-/]{0,2}[0-9]){6,13}(?![\w-]|[.,:][0-9])")
_SHORT = re.compile(r"[2-9][0-9]{2}[ .-][0-9]{4}")  # 555-1234


def phone_numbers_in(text: str, start: int, end: int, digits: int, *, announced: bool) -> list[Span]:
    """Spans of the phone numbers in a run of digits and separators.

    Args:
        text: The text.
        start, end: The run: no digit follows it, nor stands before it, with a separator or without.
        digits: How many digits it has.
        announced: Whether one of `PHONE_WORDS` stands somewhere before it.
    """
    first, last = max(0, start - 3), min(len(text), end + 3)
    window = text[first:end]
    has = ("(" if "(" in window else "") + (" " if " " in window else "") + ("0" if _LEADING_ZERO(window) else "")
    has += "+" if "+" in window or "00" in window else ""
    spans: list[Span] = []
    words: list[str] | None = None
    for form in _forms_for(has, min(digits, 12), digits == end - start):
        for match in form.pattern.finditer(text, first, last):
            if words is None:
                words = list(words_before(text, start))
                if is_labeled(words, OTHERS):
                    return []
            span = _international(match, words) if form is _INTERNATIONAL else _national(match, form)
            if span:
                spans.append(span)
    return spans or (_after_a_word(text, start, (first, last), words) if announced else [])


@cache
def _forms_for(has: str, digits: int, compact: bool) -> tuple[Form, ...]:
    return tuple(
        form for form in FORMS if form.needs in has and digits >= form.digits and not (form.grouped and compact)
    )


def _international(match: re.Match[str], words: Sequence[str]) -> Span | None:
    """The longest beginning of the match, by whole groups, that is a number."""
    number = match[0]
    if number.startswith("00") and not is_labeled(words, PHONE_WORDS):
        filled_up = number.isdigit()
        if filled_up or _has_neighbor_before(match, " -") or _is_of_account(match):
            return None
    while True:
        digits = _SEPARATORS.sub("", number)
        full = "+" + (digits[2:] if number.startswith("00") else digits)
        if 8 <= len(full) <= 16 and (_is_assigned(full, None) or _FICTION.fullmatch(full)):
            return match.start(), match.start() + len(number)
        shorter = _LAST_GROUP.sub("", number)
        if shorter == number:
            return None
        number = shorter


def _national(match: re.Match[str], form: Form) -> Span | None:
    number = match[0]
    if _DATE.search(number) or (form.alone and _has_neighbors(match)):
        return None
    if " " in number and _is_of_account(match):
        return None
    digits = _SEPARATORS.sub("", number)
    if form.regions is _TRUNK_ZERO and (not 9 <= len(digits) <= 12 or _ZIP_CODE.fullmatch(number)):
        return None
    if form.dashes_suffice and "-" in number:
        return match.span()
    if any(_is_assigned(digits, region) for region in form.regions) or _FICTION.fullmatch("+44" + digits[1:]):
        return match.span()
    return None


def _has_neighbors(match: re.Match[str]) -> bool:
    """Whether digits stand before or after the number, with a separator of its own between."""
    text, end = match.string, match.end()
    separators = " " if " " in match[0] else ".-"
    after = end + 1 < len(text) and text[end] in separators and text[end + 1].isdigit()
    return after or _has_neighbor_before(match, separators)


def _has_neighbor_before(match: re.Match[str], separators: str) -> bool:
    text, start = match.string, match.start()
    return start > 1 and text[start - 1] in separators and text[start - 2].isdigit()


def _is_of_account(match: re.Match[str]) -> bool:
    return ACCOUNT_BEFORE.search(match.string[max(0, match.start() - 40) : match.start()]) is not None


def _after_a_word(text: str, start: int, window: Span, words: list[str] | None) -> list[Span]:
    """A number of any grouping that a word such as "phone" announces."""
    words = list(words_before(text, start)) if words is None else words
    if not is_labeled(words, PHONE_WORDS):
        return []
    match = _AFTER_A_WORD.search(text, *window)
    if match is None or _DATE.search(match[0]):
        return []
    digits = len(_SEPARATORS.sub("", match[0]))
    return [match.span()] if digits >= 9 or _SHORT.fullmatch(match[0]) else []


@lru_cache(maxsize=4096)
def _is_assigned(number: str, region: str | None) -> bool:
    """Whether the digits, with + or dialled in `region`, are a number of the country's numbering plan."""
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
