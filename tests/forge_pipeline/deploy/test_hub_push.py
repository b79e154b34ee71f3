"""Pushing to a Hub: against a server on this machine that speaks the few calls of the Hub's API that a push makes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.deploy.hub_push import push_to_hub
from forge_pipeline.errors import ConfigError, GateFailedError, IntegrityError, ModelError, StoreError
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import Registry
from tests.forge_pipeline.deploy.hub import OID, Hub, serving_hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving_hub() as hub:
        yield hub


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "model_card.md"
    path.write_text("---\nlibrary_name: transformers\n---\n# tiny\n")
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    yield registry
    registry.close()


def test_a_released_model_is_pushed_whole_with_its_card_in_one_commit(
    whole: ModelDirectory, card: Path, registry: Registry, hub: Hub
) -> None:
    registry.register_model(
        uid=whole.digest, name="tiny", line="tiny", base_model="tiny", path=str(whole.path), stage="released"
    )
    done = push_to_hub(whole, "me/tiny", card=card, registry=registry, token="hf_x", endpoint=hub.url)
    wanted = {path.name: path.read_bytes() for path in whole.path.iterdir()} | {"README.md": card.read_bytes()}
    assert hub.files == wanted
    assert set(done.files) == set(wanted)
    assert (done.commit, len(hub.commits)) == (OID, 1)
    assert whole.digest in hub.commits[0]["summary"]
    assert "private" in {hub.created[0].get("visibility"), hub.created[0].get("private") and "private"}


@pytest.mark.parametrize("stage", ["candidate", "quarantined", "archived", None])
def test_a_model_that_nobody_released_is_refused_before_anything_is_sent(
    stage: Any, whole: ModelDirectory, card: Path, registry: Registry, hub: Hub
) -> None:
    if stage:
        registry.register_model(
            uid=whole.digest, name="tiny", line="tiny", base_model="tiny", path=str(whole.path), stage=stage
        )
    with pytest.raises(GateFailedError, match=rf"{stage or 'not in the registry'}; only released models are pushed"):
        push_to_hub(whole, "me/tiny", card=card, registry=registry, token="hf_x", endpoint=hub.url)
    assert not hub.created
    push_to_hub(whole, "me/tiny", card=card, registry=registry, token="hf_x", endpoint=hub.url, unreleased=True)
    assert hub.commits


def test_what_cannot_be_pushed_is_said(whole: ModelDirectory, card: Path, hub: Hub, tmp_path: Path) -> None:
    def push(repo: str = "me/tiny", *, card: Path = card, endpoint: str = hub.url) -> None:
        push_to_hub(whole, repo, card=card, token="hf_x", unreleased=True, endpoint=endpoint)

    with pytest.raises(ConfigError, match="expected owner/name"):
        push("tiny")
    with pytest.raises(ConfigError, match="the model card cannot be read"):
        push(card=tmp_path / "none.md")
    with pytest.raises(StoreError, match="the Hub cannot be reached"):
        push(endpoint="http://127.0.0.1:9")
    hub.allowed = False
    with pytest.raises(ModelError, match=r"the Hub refused the push \(403\).*HF_TOKEN"):
        push()
    (whole.path / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="it was changed"):
        push()
    assert not hub.commits


def test_offline_is_said(whole: ModelDirectory, card: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()  # the client asks once, when it is made
    try:
        with pytest.raises(StoreError, match="HF_HUB_OFFLINE forbids"):
            push_to_hub(whole, "me/tiny", card=card, token="hf_x", unreleased=True, endpoint=hub.url)
    finally:
        close_session()
