"""Personal data: what is found, what merely looks like it, and what masking leaves."""

import time
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import detect_pii, find_pii, mask_pii, pii
from forge_pipeline.dataset_audit.finding import Finding, shape, without_overlaps
from forge_pipeline.dataset_audit.pii import CATEGORIES, PREFILTER, SEVERITY, folded, needs_folding, personal_at

FOUND = {
    "email": [
        "alice@example.com", "<bob.o-neil+x@sub.mail.co.uk>.", "'q@w.io'", "jürgen@müller.de", "a/b@c.org", "mailto:a@b.fr",
        "почта@пример.рф", "o'neil@mail.ie", "tim+github@gfxmonk.net", "user@host.test", "bob@example.com:hunter2",
        "Mail ALICE@EXAMPLE.COM!", "ａｌｉｃｅ＠example.com", "1@2x.de", "name@mail.rs", "5551234567@txt.example.net", "press@who.int", "x@y.xn--p1ai",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00 please", "GB82WEST12345698765432", "(FR14 2004 1010 0505 0001 3M02 606)",
        "de89370400440532013000", "NL91-ABNA-0417-1643-00", "MT84MALT011000012345MTLCAST001S", "DE89\u00a03704\u00a00044 0532 0130 00",
        "BE68 5390 0754 7034", "NO93 8601 1117 947",
    ],
    "credit_card": [
        "4111 1111 1111 1111", "378282246310005", "card 5555-5555-5555-4444.", "3782 822463 10005", "4111111111111111 12/26",
        "4111 1111 1111 1111 12/26", "4111 1111 1111 1111 123", "2223003122003222", "visa 4000 0000 0000 0000 006",
    ],
    "us_ssn": ["536-90-4399", "SSN: 536904399", "social security number 536 90 4399", "536\u201190\u20114399"],
    "fr_ssn": ["1 84 12 76 451 089 46", "184127645108946", "1 84 12 2A 451 089 33", "184122B45108960"],
    "tr_id": ["TC kimlik no 10000000146", "My number is 10000000146."],
    "de_id": ["T220001293", "Ausweis L01X00T471", "L01X00T471D", "Ausweisnummer: L01X00T47"],
    "uk_nino": ["AB 12 34 56 C", "AB123456C"],
    "es_dni": ["12345678Z", "X1234567L", "12345678-Z", "DNI 12.345.678-Z", "NIE: X-1234567-L", "DNI 12345678 z"],
    "nl_bsn": ["BSN 111222333", "BSN: 1112.22.333", "burgerservicenummer is 123456782"],
    "br_cpf": ["529.982.247-25", "CPF 52998224725"],
    "it_fiscal_code": ["RSSMRA85T10A562S", "codice fiscale rssmra85t10a562s", "RSS MRA 85T10 A562S"],
    "pl_pesel": ["PESEL 44051401359", "numer PESEL: 44051401359"],
    "de_tax_id": ["Steuer-ID 36 574 261 809", "IdNr. 36574261809", "steuerliche Identifikationsnummer: 36574261809"],
    "in_aadhaar": ["2341 2341 2346", "Aadhaar no. 234123412346", "aadhar: 2341-2341-2346"],
    "passport": ["Passport No. C01234567", "passport number: 123456789", "Reisepass C01X00T47", "passeport n° 12AB34567"],
    "ipv4": ["from 8.8.8.8", "host 203.0.113.77 is up", "192.168.1.10", "http://203.0.113.77:8080/x", "server: 42.80.139.107 up"],
    "ipv6": ["2001:db8::8a2e:370:7334", "fe80::1ff:fe23:4567:890a", "[2606:4700:4700::1111]:443", "fd12:3456:789a:1::1"],
    "phone": [
        "+49 30 901820", "+1 (212) 736-1234", "212-736-1234", "(212) 736-1234", "call 2127361234 now",
        "01 23 45 67 89", "0532 123 45 67", "0 532 123 45 67", "532 123 45 67", "020 7946 0958", "07700 900123",
        "07700900123", "0044 20 7946 0958", "+905321234567", "phone: 555-1234", "0171/1234567", "+33 1 23 45 67 89",
        "(0212) 555 44 33", "+1-212-736-1234", "06-12345678", "(11) 91234-5678", "212.736.1234", "612 34 56 78",
        "+49 (0)30 901820", "01.23.45.67.89", "06\u00a012\u00a034\u00a056\u00a078", "٠٥٣٢ ١٢٣ ٤٥ ٦٧", "０６−１２３４５６７８", "tel: 98765 43210",
        "(212) 736.1234", "8 (495) 123-45-67", "my mobile number is 600123456", "138 0013 8000", "+1 555 123 4567", "+39 06 6982",
        "+33 6 12 34 56 78 2024", "212 736 1234",
    ],
}  # fmt: skip

LOOKS_LIKE_IT = {
    "part number": "A1234567",
    "part number like a NINO": "part number AB123456C",
    "grouped number": "(1234) 5678 9012",
    "epoch in ms": "1700000000123",
    "IMEI": "490154203237518",
    "UUID": "550e8400-e29b-41d4-a716-446655440000",
    "UUID of digits": "12345678-1234-1234-1234-123456789012",
    "order number": "order 12345678901",
    "order number that is a valid id": "order no. 10000000146",
    "invoice that is a valid card": "invoice 4111111111111111",
    "tracking number": "tracking number 212-736-1234",
    "time stamp": "2024-01-15 10:30:00",
    "compact time stamp": "20240115103000",
    "compact ISO time stamp": "20240116T",
    "European date and hour": "01.02.2024 10:30",
    "date range": "2012-01-10/2013-02-10",
    "version": "v1.2.3.4",
    "version in words": "version 10.2.3.4",
    "browser": "Mozilla/5.0 Chrome/91.0.4472.124 Safari",
    "requirement": "numpy==1.26.4.12, scipy>=10.20.30.40",
    "section": "section 1.2.3.4",
    "loopback": "127.0.0.1 and 0.0.0.0 and ::1",
    "network": "10.20.0.0/16",
    "netmask": "255.255.255.0",
    "cloud metadata": "http://169.254.169.254/latest",
    "object identifier": "1.3.6.1.4.1.311.21.20",
    "wrong IBAN": "DE88370400440532013000",
    "wrong IBAN in groups": "DE88 3704 0044 0532 0130 00 and NL25 ABNA 0949 3884 84",
    "account that is too short": "GB29 XABC 1016 1234 5678 01",
    "wrong card": "4111 1111 1111 1112",
    "card-like groups": "4111-1111 11111111",
    "power of two": "4503599627370496 and 4611686018427387904",
    "SHA-1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "SHA-256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "git hash": "commit 7fd1a60b01f91b314f59955a4e4d4e80d8edf11d",
    "time": "10:30:45",
    "C++ scope": "std::abc::def and dead::beef and fead::cafe",
    "MAC address": "aa:bb:cc:dd:ee:ff and 20:01:0d:b8:00:01",
    "retina image": "icon@2x.png",
    "ssh remote": "git@github.com:owner/name",
    "scp": "deploy@host.example.com:/srv/www and me@host.example.com:src/x",
    "ssh": "ssh -p 22 root@host.example.com",
    "npm version": "lodash@4.17.21",
    "decorator": "\n@app.get\n@pytest.mark.parametrize",
    "matrix product": "y = x@w.mean()",
    "matrix product of attributes": "W@x.data and self.a@self.weight and q@k.T",
    "SQL pattern": "like '%@gmail.com'",
    "SSH algorithm": "curve25519-sha256@libssh.org, sk-ssh-ed25519@openssh.com",
    "fediverse": "@user@mastodon.social",
    "message id": "Message-ID: <20240101.abc@mail.example.com>",
    "thousands": "1,234,567,890 or 612 345 678",
    "pi": "3.14159265358979",
    "matrix of fractions": "0.1234567 1.2345678 -2.3456789",
    "physical constant": "1.504 609 5178 e-26",
    "coordinates": "45.123456, -120.123456",
    "ISBN": "ISBN 978-3-16-148410-0",
    "DOI": "doi:10.1137/10081232X and 10.1016/0771-050X(75)90036",
    "arXiv": "arXiv:1706.03762",
    "bare digits": "1234567890",
    "eleven digits in a call": "rng = default_rng(17273783424)",
    "fifteen digits in a call": "S(180742845225803)",
    "zero-padded": "0012345678901",
    "octal": "``017700000001``",
    "hex dump": "00 01 02 03 04 05 06 07",
    "ZIP code": "Boston, MA 02110-1301 USA",
    "page range": "pp. 123–134, 2010",
    "table of dates": "|0 1978-06-01|  1978|",
    "sum": "x + 2025529095.0 + 4917612345678",
    "time zone": "+0100",
    "URL password": "https://bob:pw@host.example.com/",
    "passport without a number": "passport photographs are required",
    "Chinese prose": "共有１２３４５个，见第（３）章。",
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
        "it_fiscal_code", "pl_pesel", "de_tax_id", "in_aadhaar", "passport",
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
    assert detect_pii(mask_pii("; ".join(texts[0] for texts in FOUND.values()))) == {}


@pytest.mark.parametrize("value", [None, 5, b"a@b.org", ["a@b.org"]])
def test_what_is_no_text_holds_nothing_and_passes_through(value: object) -> None:
    assert detect_pii(value) == {}  # type: ignore[arg-type]
    assert find_pii(value) == []  # type: ignore[arg-type]
    assert mask_pii(value) is value  # type: ignore[call-overload]
    assert mask_pii(value, return_counts=True) == (value, {})  # type: ignore[call-overload]


def test_a_label_before_a_number_decides_between_two_categories() -> None:
    assert detect_pii("PESEL 52010281122") == {"pl_pesel": 1}  # fits as a TC kimlik no, too


def test_other_digits_and_separators_are_read_where_they_stand() -> None:
    text = "Ara: ٠٥٣٢\u202f١٢٣\u202f٤٥\u202f٦٧ hemen"
    assert [text[slice(*finding.span)] for finding in find_pii(text)] == ["٠٥٣٢\u202f١٢٣\u202f٤٥\u202f٦٧"]
    assert mask_pii(text) == "Ara: [REDACTED] hemen"


def test_every_decimal_digit_of_unicode_is_folded() -> None:
    digits = [chr(code) for code in range(128, 0x110000) if unicodedata.category(chr(code)) == "Nd"]
    assert all(folded(char) == str(unicodedata.decimal(char)) and needs_folding(char) for char in digits)


@pytest.mark.parametrize(
    "value", ["alice@example.com", "jürgen@müller.de", "क्षि٣ 北京 Ωß", "x" * 100, "4111 1111 1111 1111"]
)
def test_a_preview_shows_shape_alone(value: str) -> None:
    shown = shape(value)
    assert len(shown) <= 41
    assert set(shown) <= set("xX9 @.…")


PIECES = [text for texts in FOUND.values() for text in texts] + list(LOOKS_LIKE_IT.values())
GLUE = st.sampled_from([" ", "", "\n", "١", "é", "-", "x", "7", "@", "\u00a0", "＋"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=4), GLUE)
def test_whatever_looking_at_every_character_finds_has_an_anchor(pieces: list[str], glue: str) -> None:
    text = glue.join(pieces).encode(errors="replace").decode()
    readable = folded(text)
    candidates: list[Finding] = []
    for at in range(len(readable)):
        personal_at(readable, at, candidates)
    found = find_pii(text)
    assert found == without_overlaps(candidates, CATEGORIES)
    if found:
        assert pc.match_substring_regex(pa.array([text]), PREFILTER)[0].as_py()


@pytest.mark.parametrize(
    "unit",
    [
        "a", "1", "1 ", "a.", ":a", "@a.", "a@", "@", "+1 ", "0 ", "DE89 ", "1.1.", "(0", "0-1", "+49 30 ", "2001:db8:", "passport ",
        "4111 ", "a@b.", "x@y.com ", "٣", "\u00a01", "AB12", "212-736-", "T2", "+1(2", "1/", "0 5 ",
    ],
)  # fmt: skip
def test_long_monotonous_text_takes_linear_time(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    started = time.process_time()
    find_pii(text)
    assert time.process_time() - started < 8


@pytest.mark.parametrize(
    "before", ["", "ssn ", "dni Y", "bsn ", "cpf ", "pesel ", "tax id ", "aadhaar ", "nir ", "X", "("]
)
@pytest.mark.parametrize("after", ["", "Z", "-Z", ".5", " 12"])
def test_a_bare_run_of_digits_needs_only_the_detectors_of_its_length(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [str(7**31 * (7919 * step + 1))[: 7 + step % 18] for step in range(400)]
    texts = [f"{before}{number}{after}" for number in numbers]
    narrowed = [pii.find_pii(text) for text in texts]
    every = pii._detectors_for
    monkeypatch.setattr(pii, "_detectors_for", lambda digits, compact, *rest: every(digits, False, *rest))
    assert narrowed == [pii.find_pii(text) for text in texts]
