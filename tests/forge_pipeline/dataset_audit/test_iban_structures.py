"""Structures of account numbers: what schwifty says, without importing it."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from string import ascii_uppercase, digits

import pytest
import schwifty

from forge_pipeline.dataset_audit import checksums, iban_structures
from forge_pipeline.dataset_audit.iban_structures import has_structure


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    """What is remembered of the registry's files is of one test."""
    for function in (iban_structures._registry, iban_structures._structure_of):
        function.cache_clear()
    yield
    for function in (iban_structures._registry, iban_structures._structure_of):
        function.cache_clear()


def _known_to_schwifty(number: str) -> bool:
    try:
        schwifty.IBAN(number)
    except schwifty.exceptions.SchwiftyException:
        return False
    return True


def _numbers(country: str, rng: Random) -> Iterator[str]:
    """Numbers whose length and MOD 97-10 are right: of the country's structure, or with letters where digits belong."""
    size = checksums.IBAN_LENGTHS[country] - 4
    likely = "".join(rng.choice(digits) if char.isdigit() else char for char in str(schwifty.IBAN.random(country)))
    bodies = [likely[4:], *("".join(rng.choices(digits + alphabet, k=size)) for alphabet in ("", ascii_uppercase))]
    for body in bodies:
        check = 98 - int("".join(str(int(char, 36)) for char in f"{body}{country}00")) % 97
        for alias in {check, (check + 97) % 100, (check - 97) % 100}:
            number = f"{country}{alias:02}{body}"
            if checksums.iban(number):
                yield number


@pytest.mark.parametrize("country", checksums.IBAN_LENGTHS)
def test_the_answer_is_schwifty_s(country: str) -> None:
    rng = Random(country)
    numbers = [number for _ in range(3) for number in _numbers(country, rng)]
    assert numbers
    assert [has_structure(number) for number in numbers] == [_known_to_schwifty(number) for number in numbers]


@pytest.mark.parametrize(
    "registry",
    {"elsewhere": None, "no JSON": "{", "another shape": "[]", "another notation": json.dumps({"DE": {"bban_spec": "x"}})}
    .values(),
)  # fmt: skip
def test_where_the_registry_is_not_as_it_was_schwifty_is_asked(
    registry: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if registry is not None:
        (tmp_path / "iban_registry").mkdir()
        (tmp_path / "iban_registry" / "generated.json").write_text(registry)
    monkeypatch.setattr(iban_structures, "_folders", lambda: [tmp_path])
    assert iban_structures._registry() is None
    assert has_structure("DE89370400440532013000")
    assert not has_structure("DE8937040044053201300X")
