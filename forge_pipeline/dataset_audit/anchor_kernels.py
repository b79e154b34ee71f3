"""The anchors of the gates of `secret_scan` and `pii` in a whole column, compiled. Imports numba; see `machine_code`.

Each function below answers for one alternative of a gate, whose text stands in its docstring. RE2 and these functions
find the same places in any text; the tests hold one against the other. The time is linear in the bytes: what has no
bound of its own (the characters of a name) is looked at once and remembered.
"""

# numba infers the types of these loops.
# mypy: disable-error-code="call-arg, no-any-return, return-value, untyped-decorator"

from typing import Any

import numpy as np
from numba import types

from forge_pipeline.dataset_audit.anchor_tables import (
    ANYWHERE,
    AT_EDGE,
    AT_SECOND,
    BASE64,
    CALM,
    DIGIT,
    FILL,
    HEX,
    ID,
    KIND_BITS,
    NAME,
    NOT_ASCII_DIGIT,
    NOT_ASCII_SEPARATOR,
    PERSONAL,
    POINTS,
    QUOTE,
    SECRET,
    SEPARATOR,
    SKIPPED,
    VALUE,
    WORD,
    WORD_CODES,
    AnchorTables,
)
from forge_pipeline.dataset_audit.kernels import load64
from forge_pipeline.dataset_audit.machine_code import inner, loop
from forge_pipeline.dataset_audit.text_kernels import TEXT

I64, U64 = np.int64, np.uint64
_VALUE_SIZE = 16
_COLON, _AT, _POINT, _SPACE, _COMMA, _DASH = (I64(ord(char)) for char in ":@. ,-")
_LONG_S, _KELVIN = 0x17F, 0x212A
_CHUNK = 4096


def _packed(word: str) -> Any:
    """Up to eight characters as a number, the first one lowest."""
    return U64(int.from_bytes(word.encode(), "little"))


_BEARER = _packed("bearer")
_TOKEN = _packed("token")
_BASIC = _packed("basic")
_IS = _packed("is")
_WAS = _packed("was")
_KEY = _packed("key")
_ID = _packed("id")
_VALUE = _packed("value")
_SECRET = _packed("secret")
_PASSW = _packed("passw")
_PASSPHRA = _packed("passphra")
_SE = _packed("se")
_PWD = _packed("pwd")
_CREDENTI = _packed("credenti")
_AL = _packed("al")
_WEBHOOK = _packed("webhook")
_PAT = _packed("pat")
_AA_SIGN = _packed(":AA")
_US_SIGN = _packed("-us")
_ATLASV_SIGN = _packed(".atlasv1")
__SIGN = _packed(".")
_WEBHOOK_SIGN = _packed(".webhook")
_OFFICE_SIGN = _packed(".office.")
_COM_SIGN = _packed("com")
_EYJ_SIGN = _packed("eyJ")
_SIG_SIGN = _packed("sig=")
_PRIVATE_SIGN = _packed("PRIVATE ")
_KEY_SIGN = _packed("KEY")
_REISEPAS = _packed("reisepas")
_S = _packed("s")
_PAS = _packed("pas")
_PASSPORT = _packed("passport")
_PASSEPOR = _packed("passepor")
_T = _packed("t")
_PASAPORT = _packed("pasaport")
_E = _packed("e")
_PASSAPOR = _packed("passapor")
_TO = _packed("to")
_PASPOORT = _packed("paspoort")

_OFFSETS = types.Array(types.int64, 1, "C", readonly=True)
_tables = types.NamedTuple(  # type: ignore[no-untyped-call]
    (
        *(
            types.Array(kind, 1, "C")
            for kind in (types.uint8, types.uint8, types.uint8, types.uint16, types.uint8, types.int16)
        ),
        types.Array(types.uint8, 1, "C", readonly=True),
        types.Array(types.int64, 2, "C"),
    ),
    AnchorTables,
)


@inner
def _byte(data: Any, at: Any) -> Any:
    """The byte at `at`; 0, which no pattern looks for, beyond either end."""
    return I64(data[at]) if 0 <= at < len(data) else I64(0)


@inner
def _kind(data: Any, at: Any, kinds: Any) -> Any:
    return I64(kinds[data[at]]) if 0 <= at < len(data) else I64(0)


@inner
def _all(data: Any, at: Any, count: Any, kind: Any, kinds: Any) -> bool:
    """Whether `count` bytes from `at` on are of the kind."""
    end = at + count
    while at < end and _kind(data, at, kinds) & kind:
        at += 1
    return at == end


@inner
def _after(data: Any, at: Any, kind: Any, kinds: Any) -> int:
    """The first index from `at` on of a byte that is not of the kind."""
    while at < len(data) and kinds[data[at]] & kind:
        at += 1
    return at


@inner
def _eight(data: Any, at: Any) -> Any:
    """The eight bytes from `at` on, the first one lowest; 0 beyond the end."""
    if at >= 0 and at + 8 <= len(data):
        return load64(data.ctypes.data + at)
    eight = U64(0)
    for index in range(8):
        eight |= U64(_byte(data, at + index)) << U64(8 * index)
    return eight


@inner
def _stands(data: Any, at: Any, word: Any, size: Any) -> bool:
    """Whether the word of `size` bytes stands at `at`."""
    return _eight(data, at) & (~U64(0) >> U64(64 - 8 * size)) == word


@inner
def _is(data: Any, at: Any, word: Any, size: Any) -> bool:
    """As `_stands`, in whatever case; the word in lower case, all letters."""
    return (_eight(data, at) | U64(0x2020202020202020)) & (~U64(0) >> U64(64 - 8 * size)) == word


@inner
def _is_upper(byte: Any) -> bool:
    return 65 <= byte <= 90


@inner
def _is_lower(byte: Any) -> bool:
    return 97 <= byte <= 122


@inner
def _is_letter(byte: Any) -> bool:
    return 97 <= (byte | 0x20) <= 122


@inner
def _is_alphanumeric(data: Any, at: Any, count: Any, upper: Any, kinds: Any) -> bool:
    """``[A-Z0-9]{count}``, or ``[a-z0-9]{count}``."""
    for index in range(count):
        byte = _byte(data, at + index)
        is_own = _is_upper(byte) if upper else _is_lower(byte)
        if not is_own and not 48 <= byte <= 57:
            return False
    return True


@inner
def _past(data: Any, at: Any, first: Any, second: Any) -> int:
    """Past one of two bytes that may stand at `at`."""
    byte = _byte(data, at)
    return at + 1 if byte in (first, second) else at


@inner
def _beginning(data: Any, at: Any) -> int:
    """Where the character begins that has the byte at `at`."""
    while at > 0 and I64(data[at]) & 0xC0 == 0x80:
        at -= 1
    return at


# --- values that are assigned to a name ---------------------------------------------------------------------------


@inner
def _is_value(data: Any, at: Any, kinds: Any) -> bool:
    """What follows an operator: ``[ \\t>"'`(\\\\=:]*(?:(?i:bearer|token|basic)[ \\t]+)?["'`(\\\\]*VALUE{16}``."""
    end = _after(data, at, SKIPPED, kinds)
    first = end
    while first > at and (data[first - 1] == 61 or data[first - 1] == 58):  # = and : belong to values too
        first -= 1
    if _all(data, first, _VALUE_SIZE, VALUE, kinds):
        return True
    if _is(data, end, _BEARER, 6):
        end += 6
    elif _is(data, end, _TOKEN, 5) or _is(data, end, _BASIC, 5):
        end += 5
    else:
        return False
    rest = end
    while _byte(data, rest) == 32 or _byte(data, rest) == 9:
        rest += 1
    return rest > end and _all(data, _after(data, rest, QUOTE, kinds), _VALUE_SIZE, VALUE, kinds)


@inner
def _is_assigned(data: Any, at: Any, kinds: Any) -> bool:
    """``["'`\\])]*[ \\t]*(?:[:=(]|,[ \\t]*["'`]|(?i:is|was)[ \\t:])`` and a value."""
    byte = _byte(data, at)
    while byte == 34 or byte == 39 or byte == 96 or byte == 93 or byte == 41:
        at += 1
        byte = _byte(data, at)
    while byte == 32 or byte == 9:
        at += 1
        byte = _byte(data, at)
    if byte == 58 or byte == 61 or byte == 40:
        return _is_value(data, at + 1, kinds)
    if byte == _COMMA:
        at += 1
        while _byte(data, at) == 32 or _byte(data, at) == 9:
            at += 1
        byte = _byte(data, at)
        return (byte == 34 or byte == 39 or byte == 96) and _is_value(data, at + 1, kinds)
    length = 2 if _is(data, at, _IS, 2) else 3 if _is(data, at, _WAS, 3) else 0
    byte = _byte(data, at + length)
    return length > 0 and (byte == 32 or byte == 9 or byte == 58) and _is_value(data, at + length + 1, kinds)


@inner
def _follows_name(data: Any, at: Any, kinds: Any) -> bool:
    """``(?: (?i:key|token|value|id)s?)?``, an operator and a value."""
    if _is_assigned(data, at, kinds):
        return True
    if _byte(data, at) != _SPACE:
        return False
    length = 3 if _is(data, at + 1, _KEY, 3) else 2 if _is(data, at + 1, _ID, 2) else 0
    if _is(data, at + 1, _TOKEN, 5) or _is(data, at + 1, _VALUE, 5):
        length = 5
    if not length:
        return False
    end = at + 1 + length
    return _is_assigned(data, end + 1 if _byte(data, end) | 0x20 == 115 else end, kinds)


@inner
def _name_goes_on(data: Any, first: Any, kinds: Any, seen: Any) -> bool:
    """What follows a name that may go on from `first` with ``[a-z0-9_.-]*``. `seen` remembers the last such run.

    An operator may end the run: ``keyis ...``.
    """
    if not seen[0] <= first <= seen[1]:
        end = _after(data, first, NAME, kinds)
        seen[0], seen[1] = first, end
        seen[2] = _follows_name(data, end, kinds)
        seen[3] = _is(data, end - 2, _IS, 2) and _is_assigned(data, end - 2, kinds)
        seen[4] = _is(data, end - 3, _WAS, 3) and _is_assigned(data, end - 3, kinds)
    return seen[2] != 0 or (seen[3] != 0 and first <= seen[1] - 2) or (seen[4] != 0 and first <= seen[1] - 3)


@inner
def _is_name(data: Any, at: Any, kinds: Any, seen: Any) -> bool:
    """The names of `secret_scan.GATE`, with their values."""
    first = _byte(data, at) | 0x20
    length = 0
    if first == 107:
        length = 3 if _is(data, at, _KEY, 3) else 0
    elif first == 115:
        length = 6 if _is(data, at, _SECRET, 6) else 0
    elif first == 112:
        length = (
            5 if _is(data, at, _PASSW, 5) else 10 if (_is(data, at, _PASSPHRA, 8) and _is(data, at + 8, _SE, 2)) else 0
        )
        length = 3 if _is(data, at, _PWD, 3) else length
    elif first == 99:
        length = 10 if (_is(data, at, _CREDENTI, 8) and _is(data, at + 8, _AL, 2)) else 0
    elif first == 119:
        length = 7 if _is(data, at, _WEBHOOK, 7) else 0
    elif first == 116 and _is(data, at, _TOKEN, 5):
        if _byte(data, at + 5) | 0x20 == 105:  # a tokenizer
            return _follows_name(data, at + 5, kinds)
        length = 5
    elif _byte(data, at) == 95 or _byte(data, at) == _DASH:
        return _is(data, at + 1, _PAT, 3) and _follows_name(data, at + 4, kinds)
    return length > 0 and _name_goes_on(data, at + length, kinds, seen)


@inner
def _is_scheme(data: Any, at: Any, kinds: Any) -> bool:
    """``(?i:bearer|basic)[ \\t]{1,3}["'`(\\\\]*VALUE{16}``."""
    end = at + 6 if _is(data, at, _BEARER, 6) else at + 5
    if end == at + 5 and not _is(data, at, _BASIC, 5):
        return False
    rest = end
    while rest < end + 3 and (_byte(data, rest) == 32 or _byte(data, rest) == 9):
        rest += 1
    return rest > end and _all(data, _after(data, rest, QUOTE, kinds), _VALUE_SIZE, VALUE, kinds)


# --- what keys begin with, and marks ------------------------------------------------------------------------------


@inner
def _is_literal(data: Any, at: Any, heads: Any, literals: Any, places: Any, kinds: Any) -> bool:
    """The beginning of a vendor's keys, and as much more as tells it from words."""
    index = I64(heads[_byte(data, at) | _byte(data, at + 1) << 8])
    if index < 0:
        return False
    head = I64(literals[places[index, 0] + 1])
    while index < len(places) - 1:
        start, stop = places[index, 0], places[index + 1, 0]
        if I64(literals[start]) != _byte(data, at) or I64(literals[start + 1]) != head:
            return False
        end = start
        while end < stop and _byte(data, at + end - start) == I64(literals[end]):
            end += 1
        if end == stop:
            is_pat = stop - start == 3 and I64(literals[stop - 1]) == 116
            if (is_pat and _is_pat(data, at + 3)) or (
                not is_pat and _all(data, at + stop - start, places[index, 1], FILL, kinds)
            ):
                return True
        index += 1
    return False


@inner
def _needs_edge(data: Any, at: Any, kinds: Any) -> bool:
    """Whether a key that begins at `at` must begin a word: with a letter or digit it must, with ``$`` or ``_`` not."""
    return (_kind(data, at, kinds) & WORD) != 0 and _byte(data, at) != 95


@inner
def _is_pat(data: Any, at: Any) -> bool:
    """``pat[A-Za-z0-9]{14}\\.``."""
    for index in range(14):
        byte = _byte(data, at + index)
        if not _is_letter(byte) and not 48 <= byte <= 57:
            return False
    return _byte(data, at + 14) == _POINT


@inner
def _is_mark(data: Any, at: Any, kinds: Any) -> bool:
    """``:AA[..]{9}|Q~[..]{9}|-us[0-9]|\\.atlasv1\\.|\\.webhook\\.office\\.com``."""
    first = _byte(data, at)
    if first == _COLON:
        return _stands(data, at, _AA_SIGN, 3) and _all(data, at + 3, 9, BASE64, kinds)
    if first == 81:
        return _byte(data, at + 1) == 126 and _all(data, at + 2, 9, CALM, kinds)
    if first == _DASH:
        return _stands(data, at, _US_SIGN, 3) and _all(data, at + 3, 1, DIGIT, kinds)
    return first == _POINT and (
        (_stands(data, at, _ATLASV_SIGN, 8) and _stands(data, at + 8, __SIGN, 1))
        or (
            _stands(data, at, _WEBHOOK_SIGN, 8)
            and _stands(data, at + 8, _OFFICE_SIGN, 8)
            and _stands(data, at + 16, _COM_SIGN, 3)
        )
    )


@inner
def _is_mark_at_edge(data: Any, at: Any, kinds: Any) -> bool:
    """``\\b(?:eyJ[..]{8}|[MN][DTjz][..]{9}|O[DT][..]{9}|sig=|PRIVATE KEY)``."""
    first, second = _byte(data, at), _byte(data, at + 1)
    if first == 101:
        return _stands(data, at, _EYJ_SIGN, 3) and _all(data, at + 3, 8, BASE64, kinds)
    if first == 115:
        return _stands(data, at, _SIG_SIGN, 4)
    if first == 80:
        return _stands(data, at, _PRIVATE_SIGN, 8) and _stands(data, at + 8, _KEY_SIGN, 3)
    discord = second == 68 or second == 84 or ((second == 106 or second == 122) and first != 79)
    return discord and 77 <= first <= 79 and _all(data, at + 2, 9, BASE64, kinds)


@inner
def _is_passport(data: Any, at: Any) -> bool:
    """``\\b(?i:passport|reisepass|passeport|pasaporte|passaporto|paspoort)``."""
    first = _byte(data, at) | 0x20
    if first == 114:
        return _is(data, at, _REISEPAS, 8) and _is(data, at + 8, _S, 1)
    if first != 112 or not _is(data, at, _PAS, 3):
        return False
    return (
        _is(data, at, _PASSPORT, 8)
        or (_is(data, at, _PASSEPOR, 8) and _is(data, at + 8, _T, 1))
        or (_is(data, at, _PASAPORT, 8) and _is(data, at + 8, _E, 1))
        or (_is(data, at, _PASSAPOR, 8) and _is(data, at + 8, _TO, 2))
        or _is(data, at, _PASPOORT, 8)
    )


# --- numbers ------------------------------------------------------------------------------------------------------


@inner
def _is_number(data: Any, at: Any, kinds: Any) -> bool:
    """``[0-9](?:[ ()\\-/]{0,3}[0-9]){6}``."""
    for _ in range(6):
        at += 1
        for _ in range(3):
            byte = _byte(data, at)
            at += byte == 32 or byte == 40 or byte == 41 or byte == 45 or byte == 47
        if not 48 <= _byte(data, at) <= 57:
            return False
    return True


@inner
def _is_quad(data: Any, at: Any, kinds: Any) -> bool:
    """``[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]``."""
    for _ in range(3):
        end = _after(data, at, DIGIT, kinds)
        if not 0 < end - at <= 3 or _byte(data, end) != _POINT:
            return False
        at = end + 1
    return _all(data, at, 1, DIGIT, kinds)


@inner
def _is_iban(data: Any, at: Any, upper: Any, kinds: Any) -> bool:
    """``[0-9]{2}[ \\-]?[A-Z0-9]{4}[ \\-]?[A-Z0-9]{4}``; in lower case three more."""
    if not _all(data, at, 2, DIGIT, kinds):
        return False
    second = _past(data, at + 2, _SPACE, _DASH)
    third = _past(data, second + 4, _SPACE, _DASH)
    if not _is_alphanumeric(data, second, 4, upper, kinds) or not _is_alphanumeric(data, third, 4, upper, kinds):
        return False
    return upper or _is_alphanumeric(data, _past(data, third + 4, _SPACE, _DASH), 3, upper, kinds)


@inner
def _is_nino(data: Any, at: Any, kinds: Any) -> bool:
    """``[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]\\b``."""
    for _ in range(3):
        if not _all(data, at, 2, DIGIT, kinds):
            return False
        at = _past(data, at + 2, _SPACE, _SPACE)
    return 65 <= _byte(data, at) <= 68 and not _kind(data, at + 1, kinds) & WORD


@inner
def _is_fiscal(data: Any, at: Any, kinds: Any) -> bool:
    """``[0-9]{2} ?[A-Za-z][0-9]{3}[A-Za-z]\\b``."""
    if not _all(data, at, 2, DIGIT, kinds):
        return False
    at = _past(data, at + 2, _SPACE, _SPACE)
    if not _is_letter(_byte(data, at)) or not _all(data, at + 1, 3, DIGIT, kinds):
        return False
    return _is_letter(_byte(data, at + 4)) and not _kind(data, at + 5, kinds) & WORD


@inner
def _is_corsican(data: Any, at: Any, kinds: Any) -> bool:
    """``[0-9]{3} ?[0-9]{3} ?[0-9]{2}\\b``."""
    second = _past(data, at + 3, _SPACE, _SPACE)
    third = _past(data, second + 3, _SPACE, _SPACE)
    return (
        _all(data, at, 3, DIGIT, kinds)
        and _all(data, second, 3, DIGIT, kinds)
        and _all(data, third, 2, DIGIT, kinds)
        and not _kind(data, third + 2, kinds) & WORD
    )


@inner
def _is_of_fiscal_month(byte: Any) -> bool:
    """``[a-ehlmpr-tA-EHLMPR-T]``."""
    lower = byte | 0x20
    return (
        97 <= lower <= 101 or lower == 104 or lower == 108 or lower == 109 or lower == 112 or 114 <= lower <= 116
    ) and (_is_letter(byte))


@inner
def _is_group_after_parenthesis(data: Any, at: Any, kinds: Any) -> bool:
    """``[0-9]{3}\\.[0-9]{4}``."""
    return _all(data, at, 3, DIGIT, kinds) and _byte(data, at + 3) == _POINT and _all(data, at + 4, 4, DIGIT, kinds)


@inner
def _is_pointed(data: Any, at: Any, kinds: Any) -> bool:
    """``\\.[0-9]{2,3}\\.[0-9]{2}``."""
    if not _all(data, at + 1, 2, DIGIT, kinds):
        return False
    second = at + 3 if _byte(data, at + 3) == _POINT else at + 4
    if second == at + 4 and not _all(data, at + 3, 1, DIGIT, kinds):
        return False
    return _byte(data, second) == _POINT and _all(data, second + 1, 2, DIGIT, kinds)


@inner
def _look(data: Any, first: Any, last: Any, codes: Any, beginnings: Any, hits: Any) -> int:
    """The places from `first` to `last` at which three bytes end that an anchor may begin with; their number."""
    four = U64(codes[10])
    for index in range(first - 3, first):
        four = four << U64(6) | U64(codes[data[index]] if index >= 0 else codes[10])
    count = U64(0)
    for index in range(U64(first), U64(last)):
        four = (four << U64(6) | U64(codes[data[index]])) & U64(0xFFFFFF)
        key = four & U64(0x3FFFF) | U64((four >> U64(18)) < U64(WORD_CODES)) << U64(18)
        hits[count] = index
        count += U64(beginnings[key >> U64(3)] >> (key & U64(7))) & U64(1)
    return I64(count)


@inner
def _put(out: Any, count: Any, place: Any, kind: Any) -> int:
    """Keep an anchor where there is room, count it in any case."""
    if count < len(out):
        out[count] = place << KIND_BITS | kind
    return count + 1


@inner
def _around_number(data: Any, at: Any, kinds: Any, out: Any, count: Any) -> int:
    """The anchors at the digit at `at`, before which no digit stands, and at what stands before it."""
    before, second = _byte(data, at - 1), _byte(data, at - 2)
    if before != _POINT and _is_number(data, at, kinds):
        count = _put(out, count, _beginning(data, at - 1) if at else at, PERSONAL)
    if not _kind(data, at - 1, kinds) & WORD and _is_quad(data, at, kinds):
        count = _put(out, count, at, PERSONAL)
    closed = 1 if before == 41 else 2 if before == 32 and second == 41 else 0
    if closed and _is_group_after_parenthesis(data, at, kinds):
        count = _put(out, count, at - closed, PERSONAL)
    if _is_of_fiscal_month(before) and _is_fiscal(data, at, kinds):
        count = _put(out, count, at - 1, PERSONAL)
    spaced = 1 if before == 32 else 0
    letter, pair = _byte(data, at - 1 - spaced), at - 2 - spaced
    if (letter == 65 or letter == 66) and _is_corsican(data, at, kinds):
        count = _put(out, count, at - 1 - spaced, PERSONAL)
    if not _is_letter(letter) or _kind(data, pair - 1, kinds) & WORD:
        return count
    upper = _is_upper(letter)
    if not (_is_upper(_byte(data, pair)) if upper else _is_lower(_byte(data, pair)) and not spaced):
        return count
    if (not spaced and _is_iban(data, at, upper, kinds)) or (upper and _is_nino(data, at, kinds)):
        count = _put(out, count, pair, PERSONAL)
    return count


@inner
def _is_colons(data: Any, at: Any, kinds: Any) -> bool:
    """``\\b(?:[23][0-9A-Fa-f]{3}|[fF][c-eC-E][0-9A-Fa-f]{2}):[0-9A-Fa-f:]``."""
    if _kind(data, at - 1, kinds) & WORD or not _all(data, at, 4, HEX, kinds) or _byte(data, at + 4) != _COLON:
        return False
    first, second = _byte(data, at), _byte(data, at + 1) | 0x20
    begins = first == 50 or first == 51 or (first | 0x20 == 102 and 99 <= second <= 101)
    return begins and (_byte(data, at + 5) == _COLON or _all(data, at + 5, 1, HEX, kinds))


@inner
def _is_card(data: Any, at: Any, kinds: Any) -> bool:
    """``\\b[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}(?:[0-9]D?)?\\b``: an identity card."""
    if _kind(data, at - 1, kinds) & WORD or not _all(data, at, 9, ID, kinds) or _kind(data, at, kinds) & DIGIT:
        return False
    end = at + 9
    if _kind(data, end, kinds) & DIGIT:
        end += 1
        if _byte(data, end) == 68:
            end += 1
    return not _kind(data, end, kinds) & WORD


@inner
def _is_address(data: Any, at: Any, kinds: Any) -> bool:
    """``[^\\s@]@[\\w\\[\\x{80}-\\x{10FFFF}]``, for the @ at `at`."""
    before, after = _byte(data, at - 1), _byte(data, at + 1)
    if at == 0 or before == _AT or before == 32 or before == 9 or before == 10 or before == 12 or before == 13:
        return False
    return after >= 0x80 or after == 91 or (_kind(data, at + 1, kinds) & WORD) != 0


# --- beyond ASCII -------------------------------------------------------------------------------------------------


@inner
def _code_point(data: Any, at: Any) -> int:
    """The code point at `at`, of a character that is not ASCII."""
    lead = _byte(data, at)
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | _byte(data, at + 1) & 0x3F
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (_byte(data, at + 1) & 0x3F) << 6 | _byte(data, at + 2) & 0x3F
    low = (_byte(data, at + 2) & 0x3F) << 6 | _byte(data, at + 3) & 0x3F
    return (lead & 0x07) << 18 | (_byte(data, at + 1) & 0x3F) << 12 | low


@inner
def _around_separator(data: Any, at: Any, size: Any, kinds: Any, out: Any, count: Any) -> int:
    """A separator of print beside a number: ``[0-9)][ ().\\-/+]{0,2}S|S[ ().\\-/+]{0,2}[0-9]``."""
    for back in range(1, 4):
        byte = _byte(data, at - back)
        if 48 <= byte <= 57 or byte == 41:
            count = _put(out, count, at - back, PERSONAL)
        if not _kind(data, at - back, kinds) & SEPARATOR:
            break
    for ahead in range(3):
        if 48 <= _byte(data, at + size + ahead) <= 57:
            return _put(out, count, at, PERSONAL)
        if not _kind(data, at + size + ahead, kinds) & SEPARATOR:
            break
    return count


@inner
def _three(data: Any, at: Any, codes: Any) -> Any:
    """The number of the three bytes from `at` on; before the first byte stands a line's end."""
    first = codes[data[at]] if at >= 0 else codes[10]
    second = codes[data[at + 1]] if at >= -1 else codes[10]
    return U64(first) << U64(12) | U64(second) << U64(6) | U64(codes[data[at + 2]])


@inner
def _around_second(data: Any, at: Any, kinds: Any, points: Any, out: Any, count: Any) -> int:
    """The anchors of what has its first mark behind the byte at `at`: numbers, signs, what is not ASCII."""
    middle = _byte(data, at + 1)
    if 48 <= middle <= 57:
        if not _kind(data, at, kinds) & DIGIT:
            count = _around_number(data, at + 1, kinds, out, count)
    elif middle >= 0xC2:
        point = _code_point(data, at + 1)
        if point in (_LONG_S, _KELVIN):
            return -1
        folded = points[point] if point < POINTS else 0
        if folded == NOT_ASCII_DIGIT:
            count = _put(out, count, at + 1, PERSONAL)
        elif folded == NOT_ASCII_SEPARATOR:
            size = 2 if point < 0x800 else 3 if point < 0x10000 else 4
            count = _around_separator(data, at + 1, size, kinds, out, count)
    elif middle == _POINT:
        if _kind(data, at, kinds) & DIGIT and _is_pointed(data, at + 1, kinds):
            count = _put(out, count, at, PERSONAL)
    elif middle == _COLON:
        if at >= 3 and _is_colons(data, at - 3, kinds):
            count = _put(out, count, at - 3, PERSONAL)
    elif middle == _AT:
        if _is_address(data, at + 1, kinds):
            after = _byte(data, at + 2)
            of_host = after == 91 or (
                after != 95 and _kind(data, at + 2, kinds) & WORD != 0
            )  # in a URL with a password
            count = _put(out, count, _beginning(data, at), SECRET | PERSONAL if of_host else PERSONAL)
    elif _kind(data, at + 1, kinds) & ID and _is_card(data, at + 1, kinds):
        count = _put(out, count, at + 1, PERSONAL)
    return count


@inner
def _find_in(data: Any, tables: Any, seen: Any, hits: Any, out: Any, count: Any) -> int:
    """The anchors of one text, by their places in it, behind the `count` that `out` holds."""
    codes, beginnings, anchors, kinds = tables.codes, tables.beginnings, tables.anchors, tables.kinds
    points, heads, literals, places = tables.points, tables.heads, tables.literals, tables.places
    seen[0], seen[1] = -1, -2
    for first in range(0, len(data), _CHUNK):
        for hit in range(_look(data, first, min(first + _CHUNK, len(data)), codes, beginnings, hits)):
            at = hits[hit] - 2
            what = anchors[_three(data, at, codes)]
            is_edge = not _kind(data, at - 1, kinds) & WORD
            if what & (ANYWHERE | AT_EDGE) and (
                (what & ANYWHERE and (_is_name(data, at, kinds, seen) or _is_scheme(data, at, kinds)))
                or (what & ANYWHERE and _is_mark(data, at, kinds))
                or (what & AT_EDGE and is_edge and _is_mark_at_edge(data, at, kinds))
                or (
                    (is_edge or not _needs_edge(data, at, kinds))
                    and _is_literal(data, at, heads, literals, places, kinds)
                )
            ):
                count = _put(out, count, at, SECRET)
            if what & AT_EDGE and is_edge and _is_passport(data, at):
                count = _put(out, count, at, PERSONAL)
            if what & AT_SECOND:
                count = _around_second(data, at, kinds, points, out, count)
                if count < 0:
                    return count
    return count


@loop(types.int64(TEXT, _OFFSETS, _tables, types.int64[::1], types.int64[::1], types.int64[::1]))
def find_anchors(data: Any, offsets: Any, tables: Any, seen: Any, hits: Any, out: Any) -> int:  # pragma: no cover
    """Where the gates match; returns how many places there are, or -1 for a text that only RE2 can judge.

    The long s and the Kelvin sign are such: without case they are an s and a k.

    Args:
        data: UTF-8 of texts.
        offsets: Where each text begins; the last one ends the last text.
        tables: From `anchor_tables`.
        seen, hits: Room for 5 and for 4,097 numbers.
        out: Out: the places, in no order, some twice, each with its kinds in the lowest `KIND_BITS`. Those that it has
            no room for are left out.
    """
    count = 0
    for text in range(len(offsets) - 1):
        known = count
        count = _find_in(data[offsets[text] : offsets[text + 1]], tables, seen, hits, out, count)
        if count < 0:
            return count
        for index in range(known, min(count, len(out))):
            out[index] += offsets[text] << KIND_BITS
    return count
