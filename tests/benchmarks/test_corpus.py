"""The benchmark's corpus: the same every time, and true to its ledger."""

import hashlib
import ipaddress
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import prose
from benchmarks.corpus import Truth, write_corpus
from benchmarks.credentials import SECRETS
from benchmarks.exact_join import similar_rows
from benchmarks.look_alikes import LOOK_ALIKES
from benchmarks.mutations import MUTATIONS, jaccard, token_set
from benchmarks.personal_data import PII, iban, with_luhn
from benchmarks.plants import Plant
from forge_pipeline.dataset_audit import checksums

Row = dict[str, Any]
Rows = dict[str, list[Row]]

ROWS = 2_000


@pytest.fixture(scope="module", autouse=True)
def some_prose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The rows are made of a few packages' prose: reading that of all of them takes ten seconds."""
    constraints = tmp_path_factory.mktemp("prose") / "constraints.txt"
    constraints.write_text("numpy==2\nscipy==1\nsqlalchemy==2\ntransformers==5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prose, "CONSTRAINTS", constraints)
        prose.installed_prose.cache_clear()
        yield
    prose.installed_prose.cache_clear()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, some_prose: None) -> Truth:
    return write_corpus(tmp_path_factory.mktemp("corpus"), ROWS, seed=7, identical_cluster=5)


@pytest.fixture(scope="module")
def rows(corpus: Truth) -> Rows:
    return {
        split: [json.loads(line) for line in (corpus.data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in corpus.rows
    }


def _digests(truth: Truth) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(truth.data.iterdir())}


def _text(row: Row) -> str:
    return "\n".join(message["content"] for message in row["messages"])


def test_equal_seeds_write_equal_bytes_and_other_seeds_do_not(tmp_path: Path) -> None:
    one, again, other = (
        write_corpus(tmp_path / name, 400, seed=seed, identical_cluster=5)
        for name, seed in (("one", 7), ("again", 7), ("other", 8))
    )
    assert _digests(again) == _digests(one)
    assert again.planted == one.planted
    assert _digests(other) != _digests(one)


def test_the_splits_have_the_rows_that_were_asked_for(corpus: Truth, rows: Rows) -> None:
    assert {split: len(of_split) for split, of_split in rows.items()} == corpus.rows
    assert corpus.rows == {"train": 1_925, "validation": 40, "test": 40}
    assert len({_text(row) for row in rows["train"][-5:]}) == 1


def test_a_corpus_may_be_one_split(tmp_path: Path) -> None:
    assert write_corpus(tmp_path, 120, splits=False).rows == {"train": 120}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train.jsonl"]


def test_rows_are_chats_of_the_size_of_the_study(rows: Rows) -> None:
    lengths = [len(_text(row)) for row in rows["train"]]
    assert all([message["role"] for message in row["messages"]] == ["user", "assistant"] for row in rows["train"])
    assert 560 < sum(lengths) / len(lengths) < 760
    assert max(lengths) < 2_500


def test_a_span_holds_what_its_kind_says(corpus: Truth, rows: Rows) -> None:
    looks_like = {
        "email": r"\S+@\S+\.\w+", "iban": r"[A-Z]{2}[0-9]{2}[A-Z0-9 ]{11,37}", "us_ssn": r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        "git_hash": r"[0-9a-f]{40}", "private_key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*-----END [A-Z ]*-----",
        "npm_token": r"npm_\w{36}", "uuid": r"[0-9a-f-]{36}", "version": r"[0-9]+(\.[0-9]+){3}", "ipv6": r"[0-9a-f:]+",
        "aws_access_key": r"A[KS]IA[A-Z2-7]{16}", "jwt": r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+", "imei": r"35[0-9]{13}",
    }  # fmt: skip
    seen = set()
    for thing in corpus.planted:
        message = int(thing.column.removeprefix("messages[").removesuffix("].content"))
        planted = rows[thing.split][thing.row]["messages"][message]["content"][thing.start : thing.end]
        assert planted == planted.strip()
        assert planted
        if thing.kind in looks_like:
            assert re.fullmatch(looks_like[thing.kind], planted), (thing.kind, planted)
            seen.add(thing.kind)
    assert len(seen) > len(looks_like) / 2  # few rows hold a secret, and not each kind is among them
    shares = {
        what: sum(thing.what == what for thing in corpus.planted) / ROWS for what in ("pii", "secret", "look_alike")
    }
    assert shares == pytest.approx({"pii": 0.06, "secret": 0.03, "look_alike": 0.06}, abs=0.005)


def test_a_row_repeats_its_source_as_closely_as_the_ledger_says(corpus: Truth, rows: Rows) -> None:
    for repeat in corpus.repeats:
        own, source = rows[repeat.split][repeat.row], rows[repeat.source_split][repeat.source_row]
        assert repeat.jaccard == jaccard(token_set(_text(own)), token_set(_text(source)))
        assert (_text(own) == _text(source)) >= (repeat.kind == "exact")
    kinds = {repeat.kind for repeat in corpus.repeats if repeat.what == "near_duplicate"}
    assert kinds == set(MUTATIONS)
    leaks = [repeat for repeat in corpus.repeats if repeat.what == "leak"]
    assert {repeat.split for repeat in leaks} == {"validation", "test"}
    assert len(leaks) == 20


def test_every_row_has_a_language_but_those_with_code(corpus: Truth, rows: Rows) -> None:
    for split, languages in corpus.languages.items():
        assert len(languages) == len(rows[split])
        assert all(
            (language == "") <= ("```" in _text(row)) for language, row in zip(languages, rows[split], strict=True)
        )
    assert {"en", "de", "ru", "tr"} <= set(corpus.languages["train"])


_PLAIN = {
    "credit_card": checksums.credit_card, "iban": checksums.iban, "us_ssn": checksums.us_ssn, "fr_ssn": checksums.fr_ssn,
    "tr_id": checksums.tr_id, "de_id": checksums.de_id, "es_dni": checksums.es_dni, "nl_bsn": checksums.nl_bsn,
    "br_cpf": checksums.br_cpf, "it_fiscal_code": checksums.it_fiscal_code, "de_tax_id": checksums.de_tax_id,
    "pl_pesel": checksums.pl_pesel, "in_aadhaar": checksums.in_aadhaar,
}  # fmt: skip


@pytest.mark.parametrize("plant", [plant for plant in PII if plant.kind in _PLAIN], ids=lambda plant: plant.kind)
def test_check_digits_of_planted_numbers_fit(plant: Plant) -> None:
    rng = random.Random(0)
    for _ in range(300):
        value = plant.draw(rng)
        assert _PLAIN[plant.kind](re.sub(r"[ .-]", "", value)), value


@pytest.mark.parametrize("kind", ["bad_iban", "bad_card", "bad_tr_id", "bad_nir"])
def test_check_digits_of_look_alikes_do_not_fit(kind: str) -> None:
    real = {"bad_iban": "iban", "bad_card": "credit_card", "bad_tr_id": "tr_id", "bad_nir": "fr_ssn"}[kind]
    plant = next(plant for plant in LOOK_ALIKES if plant.kind == kind)
    rng = random.Random(0)
    assert not any(_PLAIN[real](re.sub(r"[ .-]", "", plant.draw(rng))) for _ in range(300))


def test_check_digits_fit_the_published_examples() -> None:
    assert with_luhn("7992739871") == "79927398713"
    assert iban("GB", "WEST12345698765432") == "GB82WEST12345698765432"


def test_planted_addresses_are_global(corpus: Truth) -> None:
    rng = random.Random(0)
    for plant in PII:
        if plant.kind in ("ipv4", "ipv6"):
            assert all(ipaddress.ip_address(plant.draw(rng)) for _ in range(300))


def test_planted_phone_numbers_are_numbers_of_their_countries() -> None:
    phonenumbers = pytest.importorskip("phonenumbers")
    plant = next(plant for plant in PII if plant.kind == "phone")
    rng = random.Random(0)
    for _ in range(300):
        value = plant.draw(rng)
        regions = [None] if value.startswith("+") else ["US", "GB", "DE", "FR", "TR"]
        assert any(phonenumbers.is_valid_number(phonenumbers.parse(value, region)) for region in regions), value


def test_no_kind_is_planted_twice_and_all_carriers_hold_a_place() -> None:
    plants = [*PII, *SECRETS, *LOOK_ALIKES]
    assert len({plant.kind for plant in plants}) == len(plants)
    assert all(carrier.count("{}") == 1 for plant in plants for carrier in plant.carriers)


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.85, 1.0])
def test_the_exact_join_finds_what_comparing_all_pairs_finds(threshold: float) -> None:
    rng = random.Random(3)
    sets = [frozenset(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(25))) for _ in range(250)]
    sets += [base | {"0"} for base in sets[:100]]
    found = similar_rows(sets, threshold)
    first_of = {number: sets[row] for row, number in reversed(list(enumerate(found.set_of.tolist())))}
    numbers = sorted(set(first_of) - {-1})
    expected = {
        (one, other): jaccard(first_of[one], first_of[other])
        for at, one in enumerate(numbers)
        for other in numbers[at + 1 :]
        if jaccard(first_of[one], first_of[other]) >= threshold
    }
    assert dict(zip(map(tuple, found.pairs.tolist()), found.jaccard.tolist(), strict=True)) == expected
    assert all(
        (first_of[number] if number >= 0 else frozenset()) == own
        for number, own in zip(found.set_of, sets, strict=True)
    )
