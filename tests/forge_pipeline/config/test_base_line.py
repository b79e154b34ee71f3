"""`model.name_or_path: line:<name>`: how it is written, and what the rest of the recipe must then say."""

from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig, config_digest, resolved
from forge_pipeline.errors import ConfigError

DIGEST = "sha256:" + "ab" * 32


def recipe(name_or_path: str, *, lora: dict[str, Any] | None = None, **model: Any) -> ForgeConfig:
    return ForgeConfig(
        name="assistant",
        model={"name_or_path": name_or_path, **model},
        lora=lora or {},
        training={"trainer_type": "sft"},
        data={"dataset_name_or_path": "rows.jsonl"},
    )


@pytest.mark.parametrize(
    ("written", "line", "alias"),
    [
        ("line:support_bot", "support_bot", "released"),
        ("line:support_bot@production", "support_bot", "production"),
        ("line:a@v1.2-rc_3", "a", "v1.2-rc_3"),
    ],
)
def test_a_line_and_its_alias(written: str, line: str, alias: str) -> None:
    other = recipe(written).model.base_line
    assert other is not None
    assert (other.line, other.alias) == (line, alias)
    assert str(other) == f"line:{line}@{alias}"


MALFORMED = {
    "no name": "line:",
    "capital letters": "line:Support",
    "a dash": "line:support-bot",
    "a path": "line:../other",
    "a space": "line: support",
    "an empty alias": "line:support@",
    "two aliases": "line:support@a@b",
    "an alias with a slash": "line:support@a/b",
    "a name too long": "line:" + "a" * 33,
    "an alias too long": "line:support@" + "a" * 65,
    "a line break": "line:support\n",
}


@pytest.mark.parametrize("written", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_name_is_refused_with_the_form(written: str) -> None:
    with pytest.raises(ConfigError, match=r"line:<name>@<alias>"):
        recipe(written)


def test_what_only_looks_like_a_line_is_left_alone() -> None:
    assert recipe("lines/owner").model.base_line is None
    assert recipe("./line:x").model.base_line is None


def test_a_line_does_not_go_on_from_itself() -> None:
    with pytest.raises(ConfigError, match=r"line:assistant@released is this line itself"):
        recipe("line:assistant")


def test_a_pin_is_a_digest() -> None:
    assert recipe("line:support", revision=DIGEST).model.revision == DIGEST
    with pytest.raises(ConfigError, match="pinned by its digest"):
        recipe("line:support", revision="main")


def test_allow_unreleased_is_about_lines() -> None:
    assert recipe("line:support", allow_unreleased=True).model.allow_unreleased
    with pytest.raises(ConfigError, match="allow_unreleased"):
        recipe("owner/base", allow_unreleased=True)


def test_what_goes_on_from_a_line_is_delivered_whole() -> None:
    assert recipe("line:support").merges_adapter
    assert not recipe("owner/base").merges_adapter
    assert not recipe("line:support", lora={"method": "none"}).merges_adapter
    again = ForgeConfig(**resolved(recipe("line:support")))
    assert config_digest(again) == config_digest(recipe("line:support"))
