"""`forge push`: which card goes with the model, and what the line's log says afterwards."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge_pipeline.audit_log import AuditLogger, read_entries
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import ModelDirectory, ModelRecord, resolve_base_model
from forge_pipeline.models.directory import write_record
from forge_pipeline.registry import Registry
from tests.forge_pipeline.deploy.hub import Hub, serving_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        yield hub


def in_store(directory: Path, store: Path) -> Path:
    """Moves a directory to where the store keeps what has its digest."""
    digest = Manifest.of_directory(directory).digest
    place = store / "sha256" / digest.hex[:2] / digest.hex
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(directory, place))


@pytest.fixture
def model(recipe: Callable, tiny_llama: Path, tmp_path: Path) -> ModelDirectory:
    shutil.copytree(tiny_llama, tmp_path / "model")
    nothing = Digest.of(b"")
    record = ModelRecord(
        kind="full", base_model=resolve_base_model(recipe()).record, trainer_type="sft", config_digest=nothing,
        dataset_digest=nothing, tokenized_digest=nothing, chat_template_digest=nothing, seed=0,
    )  # fmt: skip
    write_record(tmp_path / "model", record)
    return ModelDirectory.open(in_store(tmp_path / "model", tmp_path / "home" / "store"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model_card.md").write_text("# the card of the release\n")
    return in_store(tmp_path / "bundle", tmp_path / "home" / "store")


@pytest.fixture
def released(model: ModelDirectory, bundle: Path, forge: Callable, tmp_path: Path) -> ModelDirectory:
    registry = Registry(f"sqlite:///{tmp_path / 'home' / 'registry.sqlite'}")
    registry.register_model(
        uid=model.digest, name="tiny", line="tiny", base_model="tiny", path=str(model.path), stage="released"
    )
    registry.close()
    log = AuditLogger(str(tmp_path / "home" / "audit_log" / "tiny"))
    log.log_event("model.released", subject=model.digest, bundle=Manifest.of_directory(bundle).digest)
    return model


def test_the_card_is_that_of_the_released_bundle_and_the_push_is_logged(
    forge: Callable, released: ModelDirectory, hub: Hub, tmp_path: Path
) -> None:
    done = forge("push", released.path, "me/tiny", "--json")
    assert done.code == 0, done.err
    assert hub.files["README.md"] == b"# the card of the release\n"
    last = read_entries(tmp_path / "home" / "audit_log" / "tiny" / "audit_log.jsonl")[-1]
    assert last.event == "model.pushed"
    assert last.data["hub_commit"] == json.loads(done.out)["commit"]
    assert last.data["subject"] == released.digest


def test_a_changed_bundle_is_not_pushed(forge: Callable, released: ModelDirectory, bundle: Path, hub: Hub) -> None:
    (bundle / "model_card.md").write_text("# another card\n")
    done = forge("push", released.path, "me/tiny")
    assert done.code != 0
    assert "the bundle was changed" in done.err
    shutil.rmtree(bundle)
    done = forge("push", released.path, "me/tiny")
    assert "--card" in done.err
    assert not hub.created


def test_a_model_that_nobody_knows_needs_a_card_and_is_logged_where_one_says(
    forge: Callable, model: ModelDirectory, hub: Hub, tmp_path: Path
) -> None:
    done = forge("push", model.path, "me/tiny", "--unreleased")
    assert done.code == 1
    assert "name its card with --card" in done.err
    Path("card.md").write_text("# mine\n")
    done = forge("push", model.path, "me/tiny", "--unreleased", "--card", "card.md")
    assert done.code == 0, done.err
    assert "not logged" in done.err
    done = forge("push", model.path, "me/tiny", "--unreleased", "--card", "card.md", "--log", "log")
    assert read_entries(tmp_path / "log" / "audit_log.jsonl")[-1].event == "model.pushed"
