"""The words just before a number, which say what it is: ``invoice no. 4711``, ``Tel: ...``."""

from collections.abc import Container, Iterable, Iterator
from string import ascii_letters

_REACH = 48  # characters
_COUNT = 6  # words
_GLUE = frozenset(" \t:=#.-–('\"[“„«*`_~+/")  # what may stand between a word and its number
_BREAKS = frozenset("0123456789;!?\n")  # what ends the phrase that a number belongs to
_ASCII_GLUE = "".join(sorted(filter(str.isascii, _GLUE)))
_ASCII_BETWEEN = "".join(char for char in map(chr, range(128)) if not char.isalpha() and char not in _BREAKS)

_FILLERS = frozenset({
    "number", "numbers", "no", "num", "nr", "nbr", "code", "is", "was", "are", "were", "be", "the", "a", "an", "of",
    "my", "your", "our", "his", "her", "its", "their", "to", "at", "on", "me", "us", "you", "it", "called", "with",
    "new", "old", "current", "nummer", "numéro", "numero", "número", "le", "la", "el", "il", "de", "du", "del", "das",
    "der", "die", "mijn", "mein", "meine", "ist", "est", "es", "é",
})  # fmt: skip

ORDERS = frozenset({
    "order", "orders", "invoice", "tracking", "ticket", "serial", "part", "parts", "sku", "isbn", "issn", "imei",
    "meid", "iccid", "imsi", "ean", "upc", "gtin", "asin", "timestamp", "timestamps", "epoch", "batch", "lot",
    "commit", "parcel", "shipment", "awb", "receipt", "voucher", "coupon", "vin", "revision", "build",
})  # fmt: skip
"""Labels of numbers that are nobody's, whatever their check digits say."""

OTHERS = ORDERS | frozenset({
    "model", "version", "id", "ids", "uuid", "transaction", "account", "item", "items", "case", "ref", "reference",
    "page", "line", "lines", "doi", "rfc", "bug", "issue", "pull", "port", "seed", "offset", "address", "size",
    "count", "population", "ns", "ms", "bytes", "article", "product", "catalog", "quote", "release", "pmid", "arxiv",
    "patent", "hash", "checksum", "crc", "hex", "error", "errno", "status", "pid", "uid", "gid", "inode", "block",
    "height", "chapter", "section", "figure", "table", "eq", "equation", "iso", "din", "en", "astm", "oid", "cas",
    "cve", "zip", "postcode", "postal", "license", "licence", "form", "room", "flight", "train", "bus", "lane",
    "score", "rev",
})  # fmt: skip
"""Labels of numbers that are no phone numbers."""


def words_before(text: str, start: int) -> Iterator[str]:
    """Up to six words before `start`, in lower case, the nearest first; none past another number or a line's end."""
    before = text[max(0, start - _REACH) : start]
    return _ascii_words_before(before) if before.isascii() else _any_words_before(text, start)


def _ascii_words_before(before: str) -> Iterator[str]:
    glue = _ASCII_GLUE
    for _ in range(_COUNT):
        before, glue = before.rstrip(glue), _ASCII_BETWEEN
        rest = before.rstrip(ascii_letters)
        if len(rest) == len(before):
            return
        yield before[len(rest) :].lower()
        before = rest


def _any_words_before(text: str, start: int) -> Iterator[str]:
    end, lowest, between = start, max(0, start - _REACH), _GLUE
    for _ in range(_COUNT):
        while end > lowest and not text[end - 1].isalpha():
            if text[end - 1] in _BREAKS or (between and text[end - 1] not in between):
                return
            end -= 1
        begin, between = end, frozenset()
        while begin > lowest and text[begin - 1].isalpha():
            begin -= 1
        if begin == end:
            return
        yield text[begin:end].lower()
        end = begin


def is_labeled(words: Iterable[str], labels: Container[str]) -> bool:
    """Whether the nearest of `words` that is more than a filler is one of `labels`.

    >>> is_labeled(words_before("your order no. is 12", 18), ORDERS)
    True
    >>> is_labeled(words_before("order two of 12", 13), ORDERS)
    False
    """
    for word in words:
        if word in labels:
            return True
        if word not in _FILLERS:
            return False
    return False
