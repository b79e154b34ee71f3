"""Check digits: the docstrings' vectors, and that one wrong digit is always noticed."""

import doctest

import pytest

from forge_pipeline.dataset_audit import checksums, minhash, secret_scan


@pytest.mark.parametrize("module", [checksums, secret_scan, minhash], ids=lambda module: module.__name__)
def test_the_vectors_in_the_docstrings_hold(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("check", "number"),
    [
        (checksums.luhn, "4111111111111111"),
        (checksums.iban, "DE89370400440532013000"),
        (checksums.fr_ssn, "184127645108946"),
        (checksums.tr_id, "10000000146"),
        (checksums.es_dni, "12345678Z"),
        (checksums.nl_bsn, "111222333"),
        (checksums.br_cpf, "52998224725"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_single_wrong_digit_is_noticed(check: object, number: str) -> None:
    for position, right in enumerate(number):
        if right.isdigit():
            for wrong in set("0123456789") - {right}:
                assert not check(number[:position] + wrong + number[position + 1 :])  # type: ignore[operator]
