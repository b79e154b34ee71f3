"""What a person is found by: one identifier, and every spelling of it that counts as the same.

======  =======================================================================================================
kind    matches
======  =======================================================================================================
email   letter case does not count; what stands after a ``+`` in the local part does not count (RFC 5233
        sub-addressing: one mailbox); dots do count, since few providers ignore them; an internationalized
        domain is found in both spellings (RFC 5891). ``@`` may be written ``%40`` or ``\\u0040``.
phone   the number in E.164 (ITU-T; parsed by libphonenumber) however it is grouped: with ``+`` or ``00``,
        ``+49 (0)30``, or as it is dialled within its country
iban    the compact form (ISO 13616) with any grouping by spaces or hyphens, in either case
words   anything else, a name for instance: whole words, in this spelling and case; white space is alike
======  =======================================================================================================

Beside text in these spellings, `encoded_in` and `byte_forms` find the identifier in base64 (at each of the three
alignments), hexadecimal, UTF-16, percent-encoding and JSON escapes. What is disguised otherwise
(``jane [at] example.org``), misspelled, or shown in an image is not found; say so to whoever asked.
"""

import base64
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args
from urllib.parse import quote

from forge_pipeline.errors import ConfigError

Kind = Literal["email", "phone", "iban", "words"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_EMAIL = re.compile(
    r"(?P<local>[^\s@<>\"',;:()\[\]\\]{1,64})@(?P<domain>[^\s@<>\"',;:()\[\]\\/]+\.[^\s@<>\"',;:()\[\]\\/.]{2,})"
)
_PHONE = re.compile(r"(?:\+|00|\()?[0-9][0-9 ().\-/\u00a0]{5,24}")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
# ``jane@example.org.jsonl`` is a file named after somebody; ``jane@example.org.uk`` is somebody else.
_ENDINGS = (
    r"(?:jsonl?|ndjson|csv|tsv|parquet|arrow|feather|txt|pdf|docx|epub|html?|gz|zst|bz2|xz|zip|ya?ml|log|bak)(?!\w)"
)
_LEAST, _MOST = 3, 400  # characters of an identifier
_SHORTEST_CODE = 8  # characters: shorter base64 or hex turns up by chance


@dataclass(frozen=True)
class Subject:
    """One identifier. Neither `repr` nor an error message ever shows it.

    Attributes:
        kind: How spellings are compared.
        typed: As it was given, trimmed.
        normal: The one spelling that stands for all: equal people have equal `normal`.
        region: Country (ISO 3166-1) that a phone number belongs to.
    """

    kind: Kind
    typed: str = field(repr=False)
    normal: str = field(repr=False)
    region: str | None = None

    @classmethod
    def parse(cls, identifier: str, *, kind: Kind | None = None, region: str | None = None) -> "Subject":
        """Recognize an identifier.

        Args:
            identifier: As a person writes it.
            kind: What it is; None: found out.
            region: Where a phone number without country code is dialled, as ``DE``.

        Raises:
            ConfigError: It is empty, too short to mean one person, too long, or not of the `kind` that was named.
        """
        typed = identifier.strip()
        if not _LEAST <= len(typed) <= _MOST or not typed.isprintable():
            raise ConfigError(
                f"the identifier has {len(typed)} characters; expected {_LEAST} to {_MOST} printable ones: an e-mail "
                "address, a phone number, an IBAN or a name"
            )
        if kind is not None and kind not in KINDS:
            raise ConfigError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
        for name, read in _READERS.items():
            if kind in (None, name) and (found := read(typed, region)):
                return cls(name, typed, *found)
        if kind not in (None, "words"):
            hint = " with its country code, or name its region" if kind == "phone" else ""
            raise ConfigError(f"the identifier is no {kind}; give one{hint}, or ask for it as words")
        return cls("words", typed, " ".join(unicodedata.normalize("NFC", typed).split()))

    def spans(self, text: str) -> Iterator[tuple[str, bool]]:
        """Each place where `text` names the subject, as it is spelled there, and whether exactly as `typed`."""
        if not text.isascii():
            text = unicodedata.normalize("NFC" if self.kind == "words" else "NFKC", text)
        if len(text) < self._least or not any(mark in text for mark in self._marks):
            return
        for match in self._pattern.finditer(text):
            yield match[0], match[0] == self.typed

    def count(self, text: str) -> int:
        """How often `text` names the subject, encoded forms included."""
        return sum(1 for _ in self.spans(text)) + self.encoded_in(text)

    def encoded_in(self, text: str) -> int:
        """How often `text` holds an encoded form of the identifier."""
        if len(text) < _SHORTEST_CODE:
            return 0
        return sum(text.count(form) for form in self._codes if form in text)

    def masked(self, text: str, replacement: str = "[erased]") -> str:
        """`text` with every place that names the subject replaced; a text that does not is returned as it is."""
        if not self.count(text):
            return text
        if not text.isascii():
            text = unicodedata.normalize("NFC" if self.kind == "words" else "NFKC", text)
        text = self._pattern.sub(replacement, text)
        for form in self._codes:
            text = text.replace(form, replacement)
        return text

    @cached_property
    def byte_forms(self) -> tuple[bytes, ...]:
        """What bytes that are not UTF-8 text may hold of it: UTF-16 in both orders."""
        wide = {spelling.encode(order) for spelling in self._spellings for order in ("utf-16-le", "utf-16-be")}
        return tuple(sorted(wide))

    @cached_property
    def _spellings(self) -> tuple[str, ...]:
        """The usual ways to write it, for forms that a pattern cannot look into."""
        found = {self.typed, self.normal}
        if self.kind == "email":
            found |= {self.typed.lower(), self.typed.upper()}
        elif self.kind == "iban":
            found |= {self.normal.lower(), " ".join(re.findall(".{1,4}", self.normal))}
        elif self.kind == "phone":
            import phonenumbers as library

            number = library.parse(self.normal)
            forms = library.PhoneNumberFormat
            kinds = (forms.INTERNATIONAL, forms.NATIONAL)
            found |= {library.format_number(number, kind) for kind in kinds}
        return tuple(sorted(found))

    @cached_property
    def _codes(self) -> tuple[str, ...]:
        found: set[str] = set()
        for spelling in self._spellings:
            data = spelling.encode()
            for raw in (data, spelling.encode("utf-16-le"), spelling.encode("utf-16-be")):
                found |= {raw.hex(), raw.hex().upper(), *_base64_forms(raw)}
            found |= {quote(spelling, safe=""), quote(spelling, safe="").lower(), quote(spelling, safe="@")}
            found.add(json.dumps(spelling)[1:-1])
        longest = {form for form in found if len(form) >= _SHORTEST_CODE} - set(self._spellings)
        return tuple(sorted(form for form in longest if not self._pattern.search(form)))

    @cached_property
    def _least(self) -> int:
        """Characters of the shortest spelling. A phone number may stand without its country code."""
        return 4 if self.kind == "phone" else min(len(self.normal), len(self.typed))

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """One of these stands in every text with a spelling: most texts need no search."""
        if self.kind == "email":
            return ("@", "%40", "\\u0040")
        if self.kind == "words":
            return (max(self.normal.split(), key=len),)
        return (self.normal[-1], self.normal[-1].lower())  # a digit; of an IBAN perhaps a letter

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _PATTERNS[self.kind](self.normal)


def normal_forms(text: str, kind: Kind, *, regions: Iterable[str] = (), words: Iterable[int] = ()) -> Iterator[str]:
    """The `Subject.normal` of everything in `text` that could be an identifier of `kind`.

    Args:
        regions: Where phone numbers without country code may be dialled.
        words: For ``words``: how many words names have.
    """
    if kind == "email":
        text = text.replace("%40", "@")
        yield from (found[0] for match in _EMAIL.finditer(text) if (found := _email(match[0].rstrip(".!?"), None)))
    elif kind == "iban":
        for match in re.finditer(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}", text):
            yield from _iban_prefixes(match[0])
    elif kind == "phone":
        import phonenumbers as library

        if sum(char.isdigit() for char in text) >= 6:
            for region in {None, *regions}:
                for each in library.PhoneNumberMatcher(text, region, leniency=library.Leniency.POSSIBLE):
                    yield library.format_number(each.number, library.PhoneNumberFormat.E164)
    else:
        tokens = re.findall(r"\w+(?:[\-'’.]\w+)*", unicodedata.normalize("NFC", text))
        for size in set(words):
            yield from (" ".join(tokens[at : at + size]) for at in range(len(tokens) - size + 1))


def _email(typed: str, region: str | None) -> tuple[str, None] | None:
    del region
    match = _EMAIL.fullmatch(unicodedata.normalize("NFKC", typed))
    if not match:
        return None
    local = match["local"].partition("+")[0] or match["local"]
    return f"{local}@{_unicode_domain(match['domain'])}".lower(), None


def _unicode_domain(domain: str) -> str:
    try:
        return domain.encode("ascii").decode("idna") if "xn--" in domain.lower() else domain
    except UnicodeError:
        return domain


def _iban(typed: str, region: str | None) -> tuple[str, None] | None:
    from forge_pipeline.dataset_audit.checksums import iban

    del region
    compact = re.sub(r"[\s-]", "", typed).upper()
    return (compact, None) if _IBAN.fullmatch(compact) and iban(compact) else None


def _iban_prefixes(found: str) -> Iterator[str]:
    from forge_pipeline.dataset_audit.checksums import IBAN_LENGTHS

    compact = re.sub(r"[ -]", "", found).upper()
    length = IBAN_LENGTHS.get(compact[:2])
    if length is not None and (number := _iban(compact[:length], None)):
        yield number[0]


def _phone(typed: str, region: str | None) -> tuple[str, str | None] | None:
    """E.164 and region. Bare digits are a phone number only where a region is named."""
    if not _PHONE.fullmatch(typed) or not (typed.startswith(("+", "00")) or region):
        return None
    import phonenumbers as library

    number = "+" + typed[2:] if typed.startswith("00") and not region else typed
    try:
        parsed = library.parse(number, region)
    except library.NumberParseException:
        return None
    if not library.is_possible_number(parsed):
        return None
    e164 = library.format_number(parsed, library.PhoneNumberFormat.E164)
    return e164, library.region_code_for_number(parsed) or region


_Reader = Callable[[str, str | None], tuple[str, str | None] | None]
_READERS: dict[Kind, _Reader] = {
    "email": _email,
    "iban": _iban,
    "phone": _phone,
}


def _email_pattern(normal: str) -> re.Pattern[str]:
    local, _, domain = normal.rpartition("@")
    domains = {domain}
    with suppress(UnicodeError):  # a label that IDNA does not know, or one that is too long
        domains.add(domain.encode("idna").decode("ascii"))
    others = "|".join(re.escape(each) for each in sorted(domains))
    at = r"(?:@|%40|\\u0040)"
    # ``mary.jane@...`` is somebody else, and so is ``jane@example.org.uk``.
    return re.compile(
        rf"(?<![\w.%'+\-]){re.escape(local)}(?:\+[^\s@<>\"',;:()]*)?{at}(?:{others})(?![\w\-]|\.(?!{_ENDINGS})\w)",
        re.IGNORECASE,
    )


def _phone_pattern(normal: str) -> re.Pattern[str]:
    import phonenumbers as library

    number = library.parse(normal)
    country = str(number.country_code)
    significant = library.national_significant_number(number)
    region = library.region_code_for_number(number)
    trunk = (library.ndd_prefix_for_region(region, True) if region else None) or ""
    gap = r"[\s().\-/\u00a0]{0,3}"

    def spaced(digits: str) -> str:
        return gap.join(digits)

    inside = spaced(significant)
    zero = rf"(?:\(?{spaced(trunk)}\)?{gap})?" if trunk else ""
    forms = [rf"(?:\+|00{gap}|011{gap})?{gap}{spaced(country)}{gap}{zero}{inside}"]
    forms.append(rf"{spaced(trunk)}{gap}{inside}" if trunk else inside)
    if len(significant) >= 9:
        forms.append(inside)
    return re.compile(rf"(?<![0-9])(?:{'|'.join(forms)})(?![0-9])")


def _iban_pattern(normal: str) -> re.Pattern[str]:
    body = r"[\s\-\u00a0]?".join(re.escape(char) for char in normal)
    return re.compile(rf"(?<![A-Za-z0-9]){body}(?![A-Za-z0-9])", re.IGNORECASE)


def _words_pattern(normal: str) -> re.Pattern[str]:
    body = r"\s+".join(re.escape(word) for word in normal.split(" "))
    before = r"(?<!\w)" if normal[0].isalnum() or normal[0] == "_" else ""
    after = r"(?!\w)" if normal[-1].isalnum() or normal[-1] == "_" else ""
    return re.compile(before + body + after)


_PATTERNS = {"email": _email_pattern, "phone": _phone_pattern, "iban": _iban_pattern, "words": _words_pattern}


def _base64_forms(data: bytes) -> Iterator[str]:
    """`data` in base64 as it looks at each alignment, without the characters that its neighbours have a part in."""
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        text = base64.b64encode(b"\0" * before + data).decode()
        whole = (before + len(data)) * 8 // 6
        yield text[skipped:whole]
        yield text[skipped:whole].replace("+", "-").replace("/", "_")
