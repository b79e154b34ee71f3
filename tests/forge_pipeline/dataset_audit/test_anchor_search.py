"""The compiled search finds the anchors that RE2 finds, in any text."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import secret_scan
from forge_pipeline.dataset_audit.anchor_search import anchor_loop, anchors_of
from forge_pipeline.dataset_audit.anchor_tables import anchor_tables

pytest.importorskip("numba")

ANCHORED = {
    "address": "write to a.b@example.org",
    "address after a letter beyond ASCII": "é@bücher.de and x@é",
    "password in a URL": "https://u:pw@[::1]/",
    "number after a word": "call 212 736-1234",
    "number at the beginning": "2127361234",
    "number after a letter beyond ASCII": "№0532 123 45 67",
    "number in many groups": "x1 ()2-/ 3   4 5 6 7",
    "number after a fraction": "3.1415926535",
    "number with points": "01.23.45.67.89",
    "number with points after parentheses": "(212) 736.1234 and (212)736.1234",
    "dotted quad": "at 8.8.4.4 now, v1.2.3.4",
    "IPv6": "2001:db8::1, fe80::1, (fd00:: or x2001:db8::1",
    "IBAN": "DE89 3704 0044 0532 0130 00 and gb82west12345698765432",
    "NINO": "AB 12 34 56 C, AB123456D and xAB123456D",
    "identity card": "T220001293, T220001293D, L01X00T47, CFGHJKLMN",
    "codice fiscale": "RSSMRA85T10A562S or mra85 t10 a562s",
    "Corsican NIR": "1 84 12 2A 451 089 46",
    "passport": "Passport C01X00T47, reisepass, PASSEPORT, xpassport",
    "key of a vendor": "ghp_abcdefgh and xghp_abcdefgh, SKabcdefghij, pat12345678901234.",
    "key that needs no edge": "x_gitlab_session=1, x$aact_12345",
    "value after a name": "API_KEY=abcdefghij123456",
    "value after a name in words": "the token id's is was: `abcdefghij123456`",
    "value after a name that says more": "secret_name values: bearer 'abcdefghij123456'",
    "value after a verb that ends the name": "keyis abcdefghij123456, passwordwas:abcdefghij123456",
    "value after a comma": "('api_key' , \"abcdefghij123456\")",
    "value that begins with an operator": "key: ==abcdefghij12345",
    "no tokenizer": "tokenizer=abcdefghij123456, tokens=abcdefghij123456",
    "personal access token": "my-pat: abcdefghij123456",
    "scheme": "Authorization: Bearer abcdefghij123456",
    "JSON web token": "eyJabcdefgh, xeyJabcdefgh",
    "marks in the middle": "1:AAabcdefghi Q~abcdefghi abc-us1 a.atlasv1.b c.webhook.office.com",
    "marks at an edge": "MDabcdefghi, OTabcdefghi, ?sig=x, BEGIN PRIVATE KEY",
    "digits of another script": "٠٥٣٢ 𝟎 １２ Ａ ＠",
    "separators of print": "1\u00a02, 1 .\u20113, (1)\u202f, \uff08 4, \u00a0 x, \u2013-/5",
    "edges of the text": "@",
}


def joined(*texts: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum([0, *map(len, encoded)]).astype(np.int64)


def agree(*texts: str) -> None:
    data, offsets = joined(*texts)
    compiled, by_re2 = anchors_of(data, offsets, anchor_loop()), anchors_of(data, offsets, None)
    assert [part.tolist() for part in compiled] == [part.tolist() for part in by_re2], texts


@pytest.mark.parametrize("text", ANCHORED.values(), ids=ANCHORED.keys())
def test_each_kind_of_anchor_is_found_as_by_re2(text: str) -> None:
    agree(text)
    agree("x", text, "", text, "0")


def test_every_vendors_beginning_is_known() -> None:
    for literal in secret_scan._LITERALS:
        for rest in ("abcdefghijk", "a" * 14 + ".", "ab cd", ""):
            agree(literal + rest, f"x{literal}{rest}", f"-{literal}{rest}", literal[:-1] + rest)


FRAGMENTS = [
    *"0123456789",
    *" ().-/+:@_=,\"'`\\[]~?&;%\n\t",
    *"aAbcdDeFkKMNOQsSzZ",
    "12", "123", "1234", "key", "KEY", "secret", "passw", "passphrase", "pwd", "credential", "webhook", "token", "i",
    "is", "was", "IS ", " id", " values", "-pat", "_PAT", "bearer ", "Basic\t", "abcdefghij12345", "abcdefghij123456",
    "eyJ", "MD", "OT", "sig=", "PRIVATE KEY", ":AA", "Q~", "-us", ".atlasv1.", ".webhook.office.com", "ghp_", "SK", "pat",
    "passport", "ReisePass", "DE89", "ab12", "fe80:", "2001:", "é", "\u00a0", "\u2013", "٣", "𝟎", "Ａ", "ж", "…", "\x0b",
]  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), min_size=1, max_size=4))
def test_the_same_anchors_are_found_in_any_text(texts: list[str]) -> None:
    agree(*texts)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_the_same_anchors_are_found_among_all_characters(text: str) -> None:
    agree(text)


def test_letters_that_are_others_without_case_are_left_to_re2() -> None:
    find = anchor_loop()
    assert find is not None
    for text in ("paſſport\n", "to\u212aen\n"):
        room = np.zeros(5, np.int64), np.empty(4097, np.int64), np.empty(9, np.int64)
        assert find(*joined(text), anchor_tables(), *room) == -1
    agree("paſſport AB123456", "to\u212aen=abcdefghij123456")


def test_time_is_linear_in_a_name_that_never_ends() -> None:
    """Two megabytes of names in one run: were each looked at to its end, this would take hours."""
    places, _ = anchors_of(*joined("key" * 700_000), anchor_loop())
    assert not len(places)


def test_more_anchors_than_there_was_room_for_are_all_found() -> None:
    agree("a@b " * 500)
