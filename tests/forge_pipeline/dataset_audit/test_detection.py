"""A column of texts: the same findings as in each text alone, wherever the text stands."""

import importlib.util
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import detection
from forge_pipeline.dataset_audit.detection import CATEGORIES, SEVERITY, SOURCE, FoundInTexts, scan_texts
from forge_pipeline.dataset_audit.finding import Finding, shape, without_overlaps
from forge_pipeline.dataset_audit.pii import find_pii
from forge_pipeline.dataset_audit.pii_ml import SEVERITY as ENTITIES
from forge_pipeline.dataset_audit.secret_scan import FAMILIES, find_secrets

KEY = "ghp_Zq3vT9LmP0aXbR7cYd2eWf4gHk5jNs6uQw1A"
PIECES = [
    "Mail alice@example.com", "4111 1111 1111 1111", "+49 30 901820", "DE89 3704 0044 0532 0130 00", "order 12345678901",
    "10000000146", "redis://:10000000146@cache:6379", "٠٥٣٢ ١٢٣ ٤٥ ٦٧", "06\u00a012\u00a034\u00a056\u00a078", "2001:db8::8a2e:370:7334", "8.8.8.8", "AB123456C",
    "RSSMRA85T10A562S", "passport no. C01234567", f"token={KEY}", KEY, "postgres://bob:Tr0ub4dor@db/x", "key=5555555555554444",
    "AKIAIOSFODNN7EXAMPLE", 'api_key = "Zq3vT9LmP0aXbR7cYd2eWf4g"', "sk-learn-compatible-estimator", "jürgen@müller.de",
    "-----BEGIN RSA PRIVATE KEY-----\\nMIIEpAIBAAKCAQEA7v\\n-----END RSA PRIVATE KEY-----", "2024-01-15 10:30", "ａ@b.org",
    "X1234567L", "0 1 2 3 4 5 6 7", "１２３", "\n", "",
]  # fmt: skip
TEXTS = st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=3), max_size=6)


def alone(text: str) -> list[Finding]:
    return without_overlaps([*find_secrets(text), *find_pii(text)], CATEGORIES)


def rows(found: FoundInTexts) -> list[tuple[int, str, int, int, bool, str]]:
    columns = (found.text, found.category, found.start, found.end, found.placeholder, found.preview)
    return [
        (int(text), CATEGORIES[category], int(start), int(end), bool(placeholder), preview)
        for text, category, start, end, placeholder, preview in zip(*columns, strict=True)
    ]


def expected(texts: list[str | None]) -> list[tuple[int, str, int, int, bool, str]]:
    return [
        (index, finding.kind, finding.start, finding.end, finding.placeholder, shape(text[slice(*finding.span)]))
        for index, text in enumerate(texts)
        if text
        for finding in alone(text)
    ]


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from([" ", "", "\n", "é", "x", "7"]))
def test_a_column_holds_what_its_texts_hold_alone(pieces: list[list[str]], glue: str) -> None:
    texts = [glue.join(parts).encode(errors="replace").decode() for parts in pieces]
    assert rows(scan_texts(pa.array(texts, pa.string()))) == expected(list(texts))


def test_every_piece_is_found_beside_every_other() -> None:
    texts = [first + glue + second for first in PIECES for second in PIECES for glue in (" ", "")]
    assert rows(scan_texts(pa.array(texts))) == expected(list(texts))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_nulls_slices_and_empty_columns(kind: pa.DataType) -> None:
    texts = ["x", None, "a@b.org", "", "c@d.org and e@f.org", None]
    column = pa.array(texts, kind)
    assert rows(scan_texts(column)) == expected(texts)
    assert rows(scan_texts(column.slice(2, 3))) == expected(texts[2:5])
    for empty in (column.slice(0, 0), pa.nulls(3, kind)):
        found = scan_texts(empty)
        assert len(found) == 0
        assert found.text.dtype == "int64"
        assert found.category.dtype == "int16"


def test_texts_are_numbered_through_when_they_are_joined_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "_SLICE", 2)
    texts: list[str | None] = ["a@b.org", "x", "c@d.org", KEY, "e@f.org"]
    assert rows(scan_texts(pa.array(texts))) == expected(texts)


def test_a_key_is_one_finding_whatever_its_digits_look_like() -> None:
    found = scan_texts(pa.array([f"api_key=Zq3vT9LmP0aXbR7cYd2e-5105105105105100, {KEY}"]))
    assert [CATEGORIES[code] for code in found.category] == ["generic_api_key", "github_token"]


def test_previews_never_show_content() -> None:
    texts = [piece for piece in PIECES if alone(piece)]
    for preview in scan_texts(pa.array(texts)).preview:
        assert len(preview) <= 41
        assert not set(preview) - set("xX9 \n…") - set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def test_categories_are_ordered_and_described() -> None:
    assert CATEGORIES[: len(FAMILIES)] == FAMILIES
    assert CATEGORIES[-len(ENTITIES) :] == tuple(ENTITIES)
    assert len(set(CATEGORIES)) == len(CATEGORIES) == len(SEVERITY) == len(SOURCE)
    assert {SOURCE[kind] for kind in FAMILIES} == {"secret"}
    assert {SEVERITY[kind] for kind in FAMILIES} == {"critical"}


def test_entities_are_asked_for_every_text_and_yield_to_the_rest() -> None:
    def names(text: str) -> list[Finding]:
        at = text.find("Ada")
        return [Finding("person", (at, len(text)), "medium")] if at >= 0 else []

    found = scan_texts(pa.array(["Ada a@b.org", "Ada", None, "none"]), entities=names)
    assert [(row[0], row[1]) for row in rows(found)] == [(0, "email"), (1, "person")]


LINES = {
    "a": "a" * 1_000_000, "digits": "1 " * 500_000, "at signs": "@" * 1_000_000, "base64": "QUJDRDEyMzQ1Njc4" * 62_500,
    "plus": "+49 " * 250_000, "colons": "2001:" * 200_000, "fractions": "0.1234567 " * 100_000, "key": "key=" * 80_000,
    "other digits": "٣" * 500_000, "accents": "é1" * 333_000, "emails": "a@b.co " * 20_000, "zeros": "0" * 1_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_a_megabyte_takes_linear_time(name: str) -> None:
    line = LINES[name]
    times = []
    for text in (line[: len(line) // 4], line):
        started = time.process_time()
        scan_texts(pa.array([text]))
        times.append(time.process_time() - started)
    assert times[1] < 12 * max(times[0], 0.05)


def planted() -> str | None:
    return None if importlib.util.find_spec("benchmarks") else "the benchmarks are not part of this checkout"


@pytest.mark.skipif(planted() is not None, reason=str(planted()))
def test_what_the_benchmark_plants_is_found_and_its_look_alikes_are_not(tmp_path: Path) -> None:
    from random import Random

    from benchmarks.credentials import SECRETS
    from benchmarks.look_alikes import LOOK_ALIKES
    from benchmarks.personal_data import PII

    rng = Random(20)
    texts, spans, kinds = [], [], []
    for plant in (*PII, *SECRETS, *LOOK_ALIKES):
        for _ in range(30):
            before, _, after = rng.choice(plant.carriers).partition("{}")
            value = plant.draw(rng)
            texts.append(f"Some text. {before}{value}{after} More text follows here.")
            spans.append((11 + len(before), 11 + len(before) + len(value)))
            kinds.append(plant.kind if plant not in LOOK_ALIKES else "")
    found = scan_texts(pa.array(texts))
    hits: dict[int, set[str]] = {}
    for index, kind, start, end, placeholder, _ in rows(found):
        if start < spans[index][1] and end > spans[index][0] and not placeholder:
            hits.setdefault(index, set()).add(kind)
    flagged = [(texts[index], hits[index]) for index, kind in enumerate(kinds) if not kind and index in hits]
    missed = [texts[index] for index, kind in enumerate(kinds) if kind and kind not in hits.get(index, ())]
    assert [(text, hits) for text, hits in flagged] == []
    assert len(missed) <= 0.01 * sum(map(bool, kinds)), missed[:5]
