"""What the compiled search for anchors knows: classes of bytes, and the three bytes that an anchor may begin with.

`anchor_kernels` finds the anchors of the gates of `secret_scan` and `pii`: exactly where the RE2 patterns match, which
stay what defines them. It looks at every byte once. The three bytes that end there are a number of 18 bits, six for
each byte (`codes`); a table of bits says whether anything may begin so (`beginnings`). Few places are looked at closer.
"""

from collections.abc import Iterable
from functools import cache
from string import ascii_letters, digits
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import pii, secret_scan
from forge_pipeline.dataset_audit.kept_tables import kept_tables

WORD, DIGIT, VALUE, FILL, NAME, SKIPPED, HEX, ID = (1 << bit for bit in range(8))
"""Bits of `AnchorTables.kinds`; VALUE, NAME, ... are the classes of the gate of `secret_scan`."""
BASE64, CALM, SEPARATOR, QUOTE = (1 << bit for bit in range(8, 12))
"""URL-safe base64; what may stand in an Azure secret; between digits; quotes before a value."""

ANYWHERE, AT_EDGE, AT_SECOND = 1, 2, 4
"""Words at the first of three bytes, or only where a word begins; and what begins at or around the second one."""
SECRET, PERSONAL = 1, 2
"""Kinds of anchors: of `secret_scan` and of `pii`."""
KIND_BITS = 2
NOT_ASCII_DIGIT, NOT_ASCII_SEPARATOR = 1, 2
POINTS = 0x20000
"""`points` ends here."""

_KINDS = {
    WORD: ascii_letters + digits + "_",
    DIGIT: digits,
    VALUE: ascii_letters + digits + "_-./+=~!%:|",
    FILL: ascii_letters + digits + "_-+/=:.\\",
    NAME: ascii_letters + digits + "_.-",
    SKIPPED: " \t>\"'`(\\=:",
    HEX: digits + "abcdefABCDEF",
    ID: digits + "CFGHJKLMNPRTVWXYZ",
    BASE64: ascii_letters + digits + "_-",
    CALM: ascii_letters + digits + "_~.-",
    SEPARATOR: " ().-/+",
    QUOTE: "\"'`(\\",
}
_SINGLE = ascii_letters + "0_-.:@ "  # a code each; all digits share that of 0
WORD_CODES = 54  # of the codes, those below are of characters of words
_CODES = {char: code for code, char in enumerate(_SINGLE)} | dict.fromkeys(digits, _SINGLE.index("0"))
_GROUPING, _BLANK, _LEAD, _NOT_ASCII, _OTHER = range(len(_SINGLE), len(_SINGLE) + 5)
_CODES |= dict.fromkeys("()/", _GROUPING) | dict.fromkeys("\t\n\r\f", _BLANK)
# First bytes of digits, letters and separators that are folded to ASCII; and of the long s and of the Kelvin sign.
_LEADS = frozenset({chr(code).encode()[0] for code in pii._FOLD} | {0xC5, 0xE2})
_ALL = range(_OTHER + 1)


class AnchorTables(NamedTuple):
    """What `anchor_kernels.find_anchors` looks things up in.

    Attributes:
        codes: Six bits for each byte; shape (256,).
        beginnings: One bit for each number of three codes, and another where a word's character stands before the three
            and no word begins; shape (2**16,).
        anchors: What may begin so, as bits (ANYWHERE, AT_EDGE, AT_SECOND); shape (2**18,).
        kinds: Bits for each byte, see above; shape (256,).
        points: What a character beyond ASCII is folded to, by code point; shape (POINTS,).
        heads: Index of the first literal that begins with these two bytes, or -1; shape (2**16,).
        literals: Bytes of the keys' beginnings, one after the other in the order of their first two bytes.
        places: Where each literal begins, and how many bytes of `FILL` must follow; shape (literals + 1, 2).
    """

    codes: npt.NDArray[np.uint8]
    beginnings: npt.NDArray[np.uint8]
    anchors: npt.NDArray[np.uint8]
    kinds: npt.NDArray[np.uint16]
    points: npt.NDArray[np.uint8]
    heads: npt.NDArray[np.int16]
    literals: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int64]


@cache
def anchor_tables() -> AnchorTables:
    """The tables for the gates as they are."""
    gates = f"{secret_scan.GATE}\0{pii.GATE}\0{pii.FOLD_GATE}".encode()
    return AnchorTables(**kept_tables("anchors", ("anchor_tables", "secret_scan", "pii"), _made, data=gates))


def _made() -> dict[str, npt.NDArray[Any]]:
    codes = np.array([_code(byte) for byte in range(256)], dtype=np.uint8)
    kinds = np.zeros(256, dtype=np.uint16)
    for kind, chars in _KINDS.items():
        kinds[list(chars.encode())] |= kind
    points = np.zeros(POINTS, dtype=np.uint8)
    for code, folded in pii._FOLD.items():
        is_separator = not folded.isalnum() and folded != "@"
        points[code] = NOT_ASCII_SEPARATOR if is_separator else NOT_ASCII_DIGIT
    anchors = _anchors()
    beginnings = np.packbits(np.concatenate([anchors != 0, anchors & ~np.uint8(AT_EDGE) != 0]), bitorder="little")
    return AnchorTables(codes, beginnings, anchors, kinds, points, *_literals())._asdict()


def _code(byte: int) -> int:
    if byte < 0x80:
        return _CODES.get(chr(byte), _OTHER)
    return _LEAD if byte in _LEADS else _NOT_ASCII


def _of(chars: Iterable[str]) -> list[int]:
    return sorted({_code(ord(char)) for char in chars})


_NAMES = ("key", "sec", "pas", "pwd", "cre", "web", "tok", "_pa", "-pa", "bea", "bas")  # in either case
_PASSPORTS = ("pas", "rei")  # too
_MARKS = ("eyJ", "sig", "PRI", ":AA", "-us", ".at", ".we")


def _anchors() -> npt.NDArray[np.uint8]:
    may = np.zeros((64, 64, 64), dtype=np.uint8)

    def add(what: int, first: Iterable[int], second: Iterable[int], third: Iterable[int]) -> None:
        may[np.ix_(list(first), list(second), list(third))] |= what

    for name in _NAMES:
        add(ANYWHERE, *(_of((char, char.upper())) for char in name))
    for word in _PASSPORTS:
        add(AT_EDGE, *(_of((char, char.upper())) for char in word))
    for beginning in (*_MARKS, *(literal[:3] for literal in secret_scan._LITERALS)):
        what = AT_EDGE if beginning[0].isalnum() else ANYWHERE
        add(what, *(_of(char) for char in beginning), *[_of(_KINDS[FILL])] * (3 - len(beginning)))
    base64 = _of(_KINDS[BASE64])
    add(AT_EDGE, _of("MN"), _of("DTjz"), base64)
    add(AT_EDGE, _of("O"), _of("DT"), base64)
    add(ANYWHERE, _of("Q"), _of("~"), _of(_KINDS[CALM]))
    number, words = _of("0"), _of(_KINDS[WORD])
    add(AT_SECOND, set(_ALL) - set(number), number, [*_of("0 -."), _GROUPING])
    add(AT_SECOND, number, _of("."), number)
    add(AT_SECOND, _of(_KINDS[HEX]), _of(":"), _of(_KINDS[HEX] + ":"))
    add(AT_SECOND, set(_ALL) - {*_of(" @"), _BLANK}, _of("@"), [*words, _LEAD, _NOT_ASCII, _OTHER])
    add(AT_SECOND, set(_ALL) - set(words), _of(set(_KINDS[ID]) - set(digits)), _of(_KINDS[ID]))
    add(AT_SECOND, _ALL, [_LEAD], _ALL)
    return may.reshape(-1)


def _literals() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    ordered = sorted(literal.encode() for literal in secret_scan._LITERALS)
    heads = np.full(1 << 16, -1, dtype=np.int16)
    for index, literal in reversed(list(enumerate(ordered))):
        heads[literal[0] | literal[1] << 8] = index
    starts = np.cumsum([0, *map(len, ordered)])
    fills = [secret_scan.filled(literal.decode()) for literal in ordered]
    places = np.stack([starts, np.array([*fills, 0])], axis=1).astype(np.int64)
    return heads, np.frombuffer(b"".join(ordered), dtype=np.uint8), np.ascontiguousarray(places)
