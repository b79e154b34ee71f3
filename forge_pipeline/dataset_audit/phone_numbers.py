"""Phone numbers: international form, and the national forms that are common in text.

A national number is taken only in a form that hardly anything else has: a trunk zero
or an area code in parentheses with groups, a mobile prefix with exactly the right
number of digits, or a word such as "phone" before it. What a date, a thousands
separator, a part number or a bare run of digits could be is not a phone number.
"""

import re

_MAX_DIGITS = 15  # ITU-T E.164

# ITU country codes of one and two digits; the rest have three.
_ONE_DIGIT = ("1", "7")
_TWO_DIGITS = re.compile(r"2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]")
_THREE_DIGITS = re.compile(r"(?:2[1-69]|3[578]|42|5[09]|6[789]|8[0578]|9[679])[0-9]")

_OTHER_NUMBER = re.compile(
    r"(?i)\b(?:order|invoice|tracking|ticket|serial|part|sku|isbn|issn|imei|ean|upc|gtin|model|version|timestamp|epoch|id"
    r"|uuid|commit|transaction|account|item|batch|lot|case|ref|reference|case|page|line|doi|rfc|bug|issue)"
    r"\s?(?:number|no\.?|num|nr\.?|id|code)?\s?[:=#]{0,2}\s?(?:is\s|was\s)?$"
)
_DATE = re.compile(
    r"(?:[0-9]{4}[-/. ][0-9]{1,2}[-/. ][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:19|20)[0-9]{2})(?![0-9])"
)
_NANP = re.compile(r"1?[2-9][0-9]{2}[2-9][0-9]{6}")
_MOBILE = re.compile(r"07[0-9]{9}|0[67][0-9]{8}|05[0-9]{9}|01[567][0-9]{8,9}")  # UK; FR, NL; TR; DE
_START = r"(?<![\w.,+/:)-])"
_END = r"(?![\w-]|[.,:][0-9])"

PATTERNS = (
    # +49 30 901820, +1 (212) 736-1234, 0044 20 7946 0958
    re.compile(r"(?<![\w.+)-])(?:\+|00(?=[1-9]))[ ]?\(?[1-9](?:[ ().\-/]{0,2}[0-9]){7,14}(?![0-9])"),
    # (212) 736-1234, (11) 91234-5678
    re.compile(r"(?<![\w)-])\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-]?[0-9]{4}" + _END),
    re.compile(r"(?<![\w)-])\([1-9][0-9]\) ?9?[0-9]{4}-[0-9]{4}" + _END),
    # 212-736-1234, 212.736.1234, 212 736 1234, 1-212-736-1234
    re.compile(_START + r"(?:1[ .-])?[2-9][0-9]{2}(?P<us>[ .-])[2-9][0-9]{2}(?P=us)[0-9]{4}" + _END),
    # 01 23 45 67 89, 01.23.45.67.89
    re.compile(_START + r"0[1-9](?P<fr>[ .-])[0-9]{2}(?:(?P=fr)[0-9]{2}){3}" + _END),
    # 020 7946 0958, 030/1234567, (0212) 555 44 33, 06-12345678, 0 532 123 45 67
    re.compile(r"(?<![\w.,+/:)-])\(?0[ ]?[1-9][0-9]{0,4}\)?(?:[ /-][0-9]{2,8}){1,5}" + _END),
    # 532 123 45 67 (Turkey), 612 34 56 78 (Spain)
    re.compile(_START + r"5[0-9]{2} [0-9]{3} [0-9]{2} [0-9]{2}" + _END),
    re.compile(_START + r"[679][0-9]{2} [0-9]{2} [0-9]{2} [0-9]{2}" + _END),
    # 07700900123
    re.compile(_START + r"0[1567][0-9]{8,10}" + _END),
    # phone: 2127361234, call 555-1234
    re.compile(
        r"(?i:(?<![a-z])(?:phone|tel|telephone|mobile|cell|call|fax|whatsapp|dial|handy|telefon|téléphone|telefono)"
        r"[^0-9a-z\n]{0,3}(?:number|no|nr|me at|us at|at|is)?[^0-9a-z\n]{0,3})"
        r"(?P<number>[0-9](?:[ ().\-/]{0,2}[0-9]){6,13})(?![\w-]|[.,:][0-9])"
    ),
)  # fmt: skip


def span_of_number(match: re.Match[str], context: str) -> tuple[int, int] | None:
    """The span of the phone number in a match of one of `PATTERNS`, or None if it is none.

    Args:
        match: The match.
        context: The text just before it.
    """
    start, end = match.span("number") if "number" in match.re.groupindex else match.span()
    text = match.string[start:end]
    digits = re.sub(r"[^0-9]", "", text)
    if _DATE.match(text.lstrip("(")) or _OTHER_NUMBER.search(context):
        return None
    if text.startswith(("+", "00")):
        length = _international_length(digits.removeprefix("00") if text.startswith("00") else digits)
        if not length:
            return None
        return start, start + _position_after(text, length + (2 if text.startswith("00") else 0))
    if "number" in match.re.groupindex:
        return (start, end) if len(digits) >= 9 or re.fullmatch(r"[2-9][0-9]{2}[ .-][0-9]{4}", text) else None
    if text.startswith(("(0", "0")):
        grouped = not text.isdigit()
        fits = 9 <= len(digits) <= 12 if grouped else bool(_MOBILE.fullmatch(digits))
        return (start, end) if fits else None
    return start, end


def _international_length(digits: str) -> int | None:
    """Digits that belong to the number, country code included; None if no country has such numbers."""
    if digits[0] == "1":
        return 11 if _NANP.match(digits) else None
    if digits[0] in _ONE_DIGIT:
        return 11 if len(digits) >= 11 else None
    known = _TWO_DIGITS.match(digits) or _THREE_DIGITS.match(digits)
    return min(len(digits), _MAX_DIGITS) if known and len(digits) >= 9 else None


def _position_after(text: str, digits: int) -> int:
    """Index just after the given number of digits."""
    seen = 0
    for index, char in enumerate(text):
        seen += char.isdigit()
        if seen == digits:
            return index + 1
    return len(text)
