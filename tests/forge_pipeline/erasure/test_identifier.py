"""Which spellings name the same person, and which name somebody else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.erasure import Subject
from forge_pipeline.erasure.identifier import normal_forms
from forge_pipeline.errors import ConfigError

SAME: dict[str, tuple[str, str | None, str, list[str]]] = {
    "an e-mail address": (
        "Jane.Doe+x@Example.org",
        None,
        "email",
        [
            "mail JANE.DOE@example.org.",
            "<jane.doe+news@example.org>",
            "jane.doe%40example.org",
            '{"m":"jane.doe\\u0040example.org"}',
            "mailto:jane.doe@example.org?subject=x",
        ],
    ),
    "an address under an international domain": ("j@bücher.example", None, "email", ["J@xn--bcher-kva.example"]),
    "a German phone number": (
        "+49 30 901820",
        None,
        "phone",
        ["030 901820", "030/90-18-20", "+49 (0)30 901820", "004930901820", "tel:+4930901820"],
    ),
    "an American one": ("(212) 736-1234", "US", "phone", ["212-736-1234", "+1 212.736.1234", "2127361234"]),
    "an IBAN": ("DE89 3704 0044 0532 0130 00", None, "iban", ["de89370400440532013000", "DE89-3704-0044-0532-0130-00"]),
    "a name": (
        "Jörg Müller",
        None,
        "words",
        ["(Jörg\nMüller)", "Jo\u0308rg  Mu\u0308ller!", "J\\u00f6rg M\\u00fcller"],
    ),
    "a number that nobody calls": ("4711-0815", None, "words", ["customer 4711-0815,"]),
}
OTHERS: dict[str, tuple[str, list[str]]] = {
    "an e-mail address": (
        "jane@example.org",
        ["mary.jane@example.org", "jane@example.org.uk", "jane@example.orga", "janet@example.org", "jane example.org"],
    ),
    "a phone number": ("+49 30 901820", ["+49 30 9018201", "1030901820", "+48 30 901820"]),
    "an IBAN": ("DE89370400440532013000", ["DE893704004405320130001", "XDE89370400440532013000"]),
    "a name": ("Ann Lee", ["Joann Lee", "Ann Leeds", "ann lee", "Ann B. Lee"]),
}
REFUSED = {"empty": "", "blank": "   ", "two letters": "ab", "a line break": "a\nb@c.de", "a novel": "x" * 500}


@pytest.mark.parametrize("case", SAME)
def test_other_spellings_of_the_same_are_found_once(case: str) -> None:
    identifier, region, kind, texts = SAME[case]
    subject = Subject.parse(identifier, region=region)
    assert subject.kind == kind
    assert [subject.count(text) for text in texts] == [1] * len(texts)


@pytest.mark.parametrize("case", OTHERS)
def test_somebody_else_is_not_found(case: str) -> None:
    identifier, texts = OTHERS[case]
    subject = Subject.parse(identifier)
    assert [text for text in texts if subject.count(text)] == []


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nobody_is_refused_without_being_repeated(case: str) -> None:
    with pytest.raises(ConfigError, match="characters; expected") as refused:
        Subject.parse(REFUSED[case])
    assert len(REFUSED[case]) < 3 or REFUSED[case] not in str(refused.value)


def test_a_kind_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no iban"):
        Subject.parse("jane@example.org", kind="iban")


def test_an_identifier_does_not_show_in_its_repr() -> None:
    assert "jane" not in repr(Subject.parse("jane@example.org"))


@given(before=st.binary(max_size=20), after=st.binary(max_size=20))
def test_base64_is_found_at_every_alignment(before: bytes, after: bytes) -> None:
    subject = Subject.parse("jane.doe@example.org")
    assert subject.count(base64.b64encode(before + b"jane.doe@example.org" + after).decode()) >= 1
    assert subject.count(base64.urlsafe_b64encode(before + b"jane.doe@example.org" + after).decode()) >= 1


@given(text=st.text(max_size=40))
def test_masking_leaves_nothing_to_find(text: str) -> None:
    subject = Subject.parse("jane.doe@example.org")
    masked = subject.masked(f"{text} Jane.Doe@example.org {b'jane.doe@example.org'.hex()} {text}")
    assert subject.count(masked) == 0


@pytest.mark.parametrize("case", [case for case in SAME if "international" not in case and "name" not in case])
def test_normal_forms_lead_back_to_the_subject(case: str) -> None:
    identifier, region, _, texts = SAME[case]
    subject = Subject.parse(identifier, region=region)
    words = [len(subject.normal.split())]
    found = set(normal_forms(texts[0], subject.kind, regions=[subject.region or "DE"], words=words))
    assert subject.normal in found
