"""Personal data: what is found, what merely looks like it, and what masking leaves."""

import time

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import detect_pii, find_pii, mask_pii
from forge_pipeline.dataset_audit.pii import CATEGORIES, PREFILTER, SEVERITY

FOUND = {
    "email": ["alice@example.com", "<bob.o-neil+x@sub.mail.co.uk>.", "'q@w.io'", "jürgen@müller.de", "a/b@c.org"],
    "iban": ["DE89 3704 0044 0532 0130 00 please", "GB82WEST12345698765432", "(FR14 2004 1010 0505 0001 3M02 606)"],
    "credit_card": ["4111 1111 1111 1111", "378282246310005", "card 5555-5555-5555-4444.", "3782 822463 10005"],
    "us_ssn": ["536-90-4399", "SSN: 536904399", "social security number 536 90 4399"],
    "fr_ssn": ["1 84 12 76 451 089 46", "184127645108946"],
    "tr_id": ["TC kimlik no 10000000146"],
    "de_id": ["T220001293", "Ausweis L01X00T471"],
    "uk_nino": ["AB 12 34 56 C", "AB123456C"],
    "es_dni": ["12345678Z", "X1234567L", "12345678-Z"],
    "nl_bsn": ["BSN 111222333", "BSN: 1112.22.333", "burgerservicenummer is 123456782"],
    "br_cpf": ["529.982.247-25", "CPF 52998224725"],
    "ipv4": ["from 8.8.8.8", "host 203.0.113.77 is up", "192.168.1.10"],
    "ipv6": ["2001:db8::8a2e:370:7334", "fe80::1ff:fe23:4567:890a"],
    "phone": [
        "+49 30 901820", "+1 (212) 736-1234", "212-736-1234", "(212) 736-1234", "call 2127361234 now",
        "01 23 45 67 89", "0532 123 45 67", "0 532 123 45 67", "532 123 45 67", "020 7946 0958", "07700 900123",
        "07700900123", "0044 20 7946 0958", "+905321234567", "phone: 555-1234", "0171/1234567", "+33 1 23 45 67 89",
        "(0212) 555 44 33", "+1-212-736-1234", "06-12345678", "(11) 91234-5678", "212.736.1234", "612 34 56 78",
    ],
}  # fmt: skip

LOOKS_LIKE_IT = {
    "part number": "A1234567",
    "grouped number": "(1234) 5678 9012",
    "epoch in ms": "1700000000123",
    "IMEI": "490154203237518",
    "UUID": "550e8400-e29b-41d4-a716-446655440000",
    "UUID of digits": "12345678-1234-1234-1234-123456789012",
    "order number": "order 12345678901",
    "tracking number": "tracking number 212-736-1234",
    "time stamp": "2024-01-15 10:30:00",
    "compact time stamp": "20240115103000",
    "European date and hour": "01.02.2024 10:30",
    "version": "v1.2.3.4",
    "version in words": "version 10.2.3.4",
    "section": "section 1.2.3.4",
    "loopback": "127.0.0.1 and 0.0.0.0",
    "wrong IBAN": "DE88370400440532013000",
    "wrong card": "4111 1111 1111 1112",
    "card-like groups": "4111-1111 11111111",
    "SHA-1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "time": "10:30:45",
    "C++ scope": "std::abc::def and dead::beef",
    "MAC address": "aa:bb:cc:dd:ee:ff",
    "retina image": "icon@2x.png",
    "ssh remote": "git@github.com:owner/name",
    "npm version": "lodash@4.17.21",
    "matrix product": "y = x@w.mean()",
    "thousands": "1,234,567,890 or 612 345 678",
    "pi": "3.14159265358979",
    "ISBN": "ISBN 978-3-16-148410-0",
    "bare digits": "1234567890",
    "time zone": "+0100",
    "URL password": "https://bob:pw@host.example.com/",
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_each_form_is_found_once_under_one_category(kind: str, text: str) -> None:
    assert detect_pii(text) == {kind: 1}


@pytest.mark.parametrize("name", LOOKS_LIKE_IT)
def test_look_alikes_are_not_flagged(name: str) -> None:
    assert find_pii(LOOKS_LIKE_IT[name]) == []


def test_every_category_of_the_table_is_tested() -> None:
    assert set(FOUND) == set(CATEGORIES)


def test_severities() -> None:
    assert {kind for kind in SEVERITY if SEVERITY[kind] == "critical"} == {"iban", "credit_card"}
    assert SEVERITY["email"] == "medium"
    assert SEVERITY["phone"] == SEVERITY["ipv4"] == SEVERITY["ipv6"] == "low"
    assert {kind for kind in SEVERITY if SEVERITY[kind] == "high"} == {
        "us_ssn", "fr_ssn", "br_cpf", "tr_id", "de_id", "uk_nino", "es_dni", "nl_bsn",
    }  # fmt: skip


def test_spans_point_to_what_was_found_in_order() -> None:
    text = "Write to bob@example.org, IBAN DE89 3704 0044 0532 0130 00, or +49 30 901820."
    findings = find_pii(text)
    assert [(finding.kind, text[slice(*finding.span)]) for finding in findings] == [
        ("email", "bob@example.org"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("phone", "+49 30 901820"),
    ]


def test_a_span_counts_for_one_category() -> None:
    assert detect_pii("5555555555554444") == {"credit_card": 1}
    assert detect_pii("GB82 WEST 1234 5698 7654 32 and 1234 5698 7654 32") == {"iban": 1}


def test_masking_replaces_each_finding_and_nothing_else() -> None:
    assert mask_pii("Mail a@b.org or c@d.org!") == "Mail [REDACTED] or [REDACTED]!"
    assert mask_pii("Mail a@b.org", "***") == "Mail ***"
    assert mask_pii("Mail a@b.org", return_counts=True) == ("Mail [REDACTED]", {"email": 1})
    assert detect_pii(mask_pii(" ".join(texts[0] for texts in FOUND.values()))) == {}


@pytest.mark.parametrize("value", [None, 5, b"a@b.org", ["a@b.org"]])
def test_what_is_no_text_holds_nothing_and_passes_through(value: object) -> None:
    assert detect_pii(value) == {}  # type: ignore[arg-type]
    assert find_pii(value) == []  # type: ignore[arg-type]
    assert mask_pii(value) is value  # type: ignore[call-overload]
    assert mask_pii(value, return_counts=True) == (value, {})  # type: ignore[call-overload]


PIECES = [text for texts in FOUND.values() for text in texts] + list(LOOKS_LIKE_IT.values())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=4), st.sampled_from([" ", "", "\n", "١", "é"]))
def test_the_prefilter_passes_every_text_in_which_something_is_found(pieces: list[str], glue: str) -> None:
    text = glue.join(pieces).encode(errors="replace").decode()
    if find_pii(text):
        assert pc.match_substring_regex(pa.array([text]), PREFILTER)[0].as_py()


@pytest.mark.parametrize("unit", ["a", "1", "1 ", "a.", ":a", "@a.", "a@", "+1 ", "0 ", "DE89 ", "1.1.", "(0", "0-1"])
def test_long_monotonous_text_takes_linear_time(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    find_pii(text)
    assert time.process_time() - started < 3
