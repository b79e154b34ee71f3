"""Where a Hub token comes from."""

from collections.abc import Callable

import pytest

from forge_pipeline.errors import ModelError
from forge_pipeline.models import forge_home, setup_authentication
from forge_pipeline.models.hub import hub_token

SOURCES: dict[str, tuple[dict[str, str], str | None, str | None]] = {
    "nothing": ({}, None, None),
    "HF_TOKEN": ({"HF_TOKEN": "a", "HUGGINGFACE_TOKEN": "b"}, None, "a"),
    "HUGGINGFACE_TOKEN": ({"HUGGINGFACE_TOKEN": "b"}, None, "b"),
    "the recipe first": ({"HF_TOKEN": "a"}, "mine", "mine"),
}


@pytest.mark.parametrize(("environment", "own", "expected"), SOURCES.values(), ids=SOURCES)
def test_the_token(
    environment: dict, own: str | None, expected: str | None, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sections = {"auth": {"hf_token": own}} if own else {}
    assert hub_token(recipe(**sections)) == expected


def test_without_a_token_nothing_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.login", lambda **options: pytest.fail("asked"))
    setup_authentication()


def test_a_token_that_cannot_be_checked_is_an_error_that_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise ValueError("Invalid user token.")

    monkeypatch.setattr("huggingface_hub.login", refuse)
    with pytest.raises(ModelError, match="did not accept the token") as error:
        setup_authentication("hf_secret")
    assert "hf_secret" not in str(error.value)


def test_forge_home_is_named_by_the_environment_else_beside_us(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "there"))
    assert forge_home() == tmp_path / "there"
    monkeypatch.delenv("FORGE_HOME")
    monkeypatch.chdir(tmp_path)
    assert forge_home() == tmp_path / ".forge"
