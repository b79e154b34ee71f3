"""A base model that is another line's: found, held to its gates, pinned; and what is refused."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import ForgeError, GateFailedError, IntegrityError, ModelError
from forge_pipeline.integrity import Digest
from forge_pipeline.models import (
    ModelDirectory,
    check_earlier_stages,
    digests_when_pinned,
    load_tokenizer,
    pin_base_line,
    resolve_base_model,
    start_from_line,
)
from forge_pipeline.models.directory import ModelRecord, write_record
from forge_pipeline.registry import Registry

ROWS = Digest.of(b"rows")


class OtherLine:
    """The line ``support``: a registry, an audit log and models under a FORGE_HOME."""

    def __init__(self, home: Path, base: Path, record: ModelRecord) -> None:
        self.home, self._base, self._record = home, base, record
        self.registry = Registry(f"sqlite:///{home / 'registry.sqlite'}")
        folder = home / "audit_log" / "support"
        folder.mkdir(parents=True)
        self.log = AuditLogger(str(folder), "run-1")

    def add(self, name: str, *, kind: str = "full", stage: str = "released", alias: str | None = "released") -> Path:
        """A model with a record of its own, registered; its loss was finite."""
        where = self.home / name
        shutil.copytree(self._base, where)
        (where / "note.txt").write_text(name)
        if kind == "adapter":
            (where / "adapter_config.json").write_text("{}")
        write_record(where, ModelRecord(**{**vars(self._record), "kind": kind}))
        uid = ModelDirectory.open(where).digest
        self.registry.register_model(uid=uid, name=name, line="support", base_model="b", path=str(where))
        self.decide("loss_is_finite", "pass", uid)
        if stage != "candidate":
            self.registry.set_stage(uid, stage)  # type: ignore[arg-type]
        if alias:
            self.registry.set_alias("support", alias, uid, set_by="tests", reason="tests")
        return where

    def decide(self, gate: str, outcome: str, subject: Digest) -> None:
        verdict = {"pass": "passed", "fail": "failed"}.get(outcome, "not_evaluated")
        self.log.log_event(
            "gate.decided", asset_key="support/fine_tuned_model", gate=gate, verdict=verdict, outcome=outcome,
            subject=subject, policy_digest=ROWS, reason=f"{gate} said {outcome}",
        )  # fmt: skip


@pytest.fixture
def support(tmp_path: Path, recipe: Callable[..., ForgeConfig], monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherLine]:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    for name in ("FORGE_REGISTRY_URL", "FORGE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    base = resolve_base_model(recipe())
    record = ModelRecord("full", base.record, "sft", ROWS, ROWS, ROWS, None, 0)
    line = OtherLine(tmp_path / "home", Path(base.path), record)
    line.decide("no_secrets", "pass", ROWS)
    yield line
    line.registry.close()


@pytest.fixture
def goes_on(recipe: Callable[..., ForgeConfig]) -> Callable[..., ForgeConfig]:
    return lambda name="line:support", **model: recipe(model={"name_or_path": name, **model})


def test_the_recipe_is_pinned_to_what_the_alias_means_and_stays(
    support: OtherLine, goes_on: Callable[..., ForgeConfig]
) -> None:
    first = ModelDirectory.open(support.add("first"))
    pinned = pin_base_line(goes_on())
    assert pinned.model.revision == first.digest
    second = ModelDirectory.open(support.add("second"))
    assert pin_base_line(goes_on()).model.revision == second.digest
    assert pin_base_line(pinned) == pinned
    assert resolve_base_model(pinned).path == str(first.path)
    assert resolve_base_model(goes_on()).path == str(second.path)
    assert load_tokenizer(pinned).name_or_path == str(first.path)
    assert digests_when_pinned(goes_on(), support.registry) == {
        config_digest(goes_on()), config_digest(pinned), config_digest(pin_base_line(goes_on()))
    }  # fmt: skip


def test_a_chain_is_pinned_in_every_stage(support: OtherLine, goes_on: Callable[..., ForgeConfig]) -> None:
    model = ModelDirectory.open(support.add("first"))
    stages = [{"name": name, "training": {"trainer_type": "sft"}} for name in ("one", "two")]
    config = ForgeConfig(**{**goes_on().model_dump(), "pipeline": {"stages": stages}})
    pinned = pin_base_line(config)
    assert pinned.stage_config("one").model.revision == pinned.model.revision == model.digest
    assert ForgeConfig(**pinned.model_dump()) == pinned


def test_its_gates_and_rows_stand_in_the_record_of_what_goes_on_from_it(
    support: OtherLine, goes_on: Callable[..., ForgeConfig]
) -> None:
    model = ModelDirectory.open(support.add("first"))
    support.decide("judge", "not_run", model.digest)  # a release let it through
    start = start_from_line(goes_on())
    assert start is not None
    own = ModelRecord("full", resolve_base_model(goes_on()).record, "sft", ROWS, Digest.of(b"new"), ROWS, None, 0)
    record = start.continued(own)
    assert record.base_model == model.record.base_model, "the published model is still the base"
    (stage,) = record.earlier
    assert (stage.name, stage.model_digest) == ("line:support@released", model.digest)
    assert {each.gate for each in stage.gates} == {"no_secrets", "loss_is_finite", "judge"}
    assert record.dataset_digests == (ROWS, Digest.of(b"new"))
    check_earlier_stages(record)


def test_a_recipe_with_a_base_of_its_own_is_left_alone(support: OtherLine, recipe: Callable[..., ForgeConfig]) -> None:
    config = recipe()
    assert pin_base_line(config) is config
    assert start_from_line(config) is None
    assert digests_when_pinned(config, support.registry) == {config_digest(config)}


def test_a_candidate_is_taken_only_where_the_recipe_says_so(
    support: OtherLine, goes_on: Callable[..., ForgeConfig]
) -> None:
    support.add("first", stage="candidate", alias="newest")
    refused(goes_on("line:support@newest"), ModelError, "which is candidate; release a model of support")
    assert start_from_line(goes_on("line:support@newest", allow_unreleased=True)) is not None


def test_what_failed_a_gate_is_refused_whatever_the_recipe_says(
    support: OtherLine, goes_on: Callable[..., ForgeConfig]
) -> None:
    model = ModelDirectory.open(support.add("first", stage="candidate", alias="newest"))
    config = goes_on("line:support@newest", allow_unreleased=True)
    support.decide("safety", "insufficient_evidence", model.digest)
    refused(config, GateFailedError, "'safety' not evaluated")
    support.decide("safety", "fail", model.digest)
    refused(config, GateFailedError, "'safety' failed")
    support.registry.set_stage(model.digest, "quarantined", reason="safety: 3 of 4 unsafe")
    refused(config, ModelError, r"quarantined \(safety: 3 of 4 unsafe\)")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda line: None, ModelError, "it has released no model"),
        (lambda line: line.add("m", alias="staging"), ModelError, "its aliases are staging"),
        (lambda line: line.add("m", kind="adapter"), ModelError, "merge_adapters: true in the recipe of support"),
        (lambda line: shutil.rmtree(line.add("m")), ModelError, "there is no directory"),
        (lambda line: (line.add("m") / "note.txt").write_text("x"), IntegrityError, "expected sha256"),
        (lambda line: (line.add("m"), os.remove(line.log.log_path)), ModelError, "there is no audit log at"),
        (lambda line: line.decide("no_secrets", "fail", ModelDirectory.open(line.add("m")).digest), GateFailedError,
         "'no_secrets' failed"),
    ],
    ids=["nothing", "another alias", "an adapter", "files gone", "files changed", "no log", "failed since"],
)  # fmt: skip
def test_what_cannot_be_built_upon_is_refused_in_words(
    support: OtherLine,
    goes_on: Callable[..., ForgeConfig],
    spoil: Callable[[OtherLine], object],
    error: type[ForgeError],
    words: str,
) -> None:
    spoil(support)
    refused(goes_on(), error, words)


def test_a_pin_of_another_lines_model_is_refused(support: OtherLine, goes_on: Callable[..., ForgeConfig]) -> None:
    model = ModelDirectory.open(support.add("first"))
    refused(goes_on("line:other", revision=str(model.digest)), ModelError, "'other' has no model")
    refused(goes_on(revision="sha256:" + "0" * 64), ModelError, "'support' has no model")


def refused(config: ForgeConfig, error: type[ForgeError], words: str) -> None:
    with pytest.raises(error, match=words):
        start_from_line(config)
