"""Check digits: the docstrings' vectors, and that one wrong digit is always noticed."""

import doctest

import pytest

from forge_pipeline.dataset_audit import checksums, finding, labels, minhash, pii, secret_scan


@pytest.mark.parametrize(
    "module", [checksums, finding, labels, pii, secret_scan, minhash], ids=lambda module: module.__name__
)
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
        (checksums.in_aadhaar, "234123412346"),
        (checksums.verhoeff, "2363"),
        (checksums.de_tax_id, "36574261809"),
        (checksums.it_fiscal_code, "RSSMRA85T10A562S"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_single_wrong_digit_is_noticed(check: object, number: str) -> None:
    for position, right in enumerate(number):
        if right.isdigit():
            for wrong in set("0123456789") - {right}:
                assert not check(number[:position] + wrong + number[position + 1 :])  # type: ignore[operator]


def test_verhoeff_notices_every_swap_of_neighbors() -> None:
    number = "234123412346"
    for at in range(len(number) - 1):
        swapped = number[:at] + number[at + 1] + number[at] + number[at + 2 :]
        assert swapped == number or not checksums.verhoeff(swapped)


def test_a_pesel_needs_a_day_that_exists() -> None:
    valid = [f"02{month}{day}0362{check}" for month in ("27", "07") for day in ("08", "32") for check in range(10)]
    valid = [number for number in valid if checksums.pl_pesel(number)]
    assert [number[:6] for number in valid] == ["022708", "020708"]  # of July 2002 and July 1902
