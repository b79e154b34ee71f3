"""A base model that is another line's: found in the registry, held to its gates, pinned by its digest.

Rules:

- The alias is looked up once, when a run begins (`pin_base_line`); from then on the recipe holds the model's
  digest as `model.revision`, so that every stage, and whoever runs the stored recipe again, takes the same bytes.
- The bytes are hashed before they are used.
- Only a released model is taken, unless the recipe allows others; of no kind one that failed a gate. The gates are
  read from the other line's audit log and stand in the record of what is trained from it, as those of a stage of
  a pipeline do, so that a release looks at them again.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from forge_pipeline.audit_log import LOG_FILE, read_entries
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.config.base_line import RELEASED, BaseLine
from forge_pipeline.database import registry_url
from forge_pipeline.errors import IntegrityError, ModelError
from forge_pipeline.gates import GateDecision, GuardedStage
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.chain import PreviousStage, go_on_from
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.models.home import forge_home
from forge_pipeline.registry import ModelRow, Registry

_UNUSABLE = ("quarantined", "archived")


def pin_base_line(config: ForgeConfig, environ: Mapping[str, str] = os.environ) -> ForgeConfig:
    """The recipe with the digest of its base model, where that is another line's; any other recipe as it is.

    Raises:
        ModelError: The line has no such model, or one that may not be built upon.
    """
    if config.model.base_line is None:
        return config
    with _registry(environ) as registry:
        return _pinned(config, find_row(config, registry).uid)


def digests_when_pinned(config: ForgeConfig, registry: Registry) -> frozenset[Digest]:
    """Every digest that the recipe may have once its base model is pinned; its own alone where nothing is to pin."""
    digests = {config_digest(config)}
    other = config.model.base_line
    if other is not None and config.model.revision is None:
        digests |= {config_digest(_pinned(config, row.uid)) for row in registry.list_models(line=other.line)}
    return frozenset(digests)


def start_from_line(config: ForgeConfig, environ: Mapping[str, str] = os.environ) -> PreviousStage | None:
    """The other line's model to go on from, with its gates; None where the recipe names none.

    Raises:
        ModelError: There is no such model, it is an adapter, or its line's gates cannot be read.
        IntegrityError: Its files are not those of its digest.
        GateFailedError: A gate of its line keeps it from being built upon.
    """
    other = config.model.base_line
    if other is None:
        return None
    model, row = find_line_model(config, environ)
    record = model.record
    # What a release let through although nobody had evaluated it guards no release.
    guards: tuple[GuardedStage, ...] = () if row.stage == "released" else ("export", "release")
    decided = last_decisions(other, {record.dataset_digest, model.digest}, guards)
    return go_on_from(
        str(other),
        model,
        about_rows=[each for each in decided if each.subject == record.dataset_digest],
        about_model=[each for each in decided if each.subject == model.digest],
    )


def line_base_model(config: ForgeConfig) -> BaseModel:
    """What transformers loads of it, and what is known about its origin.

    Raises:
        ModelError, IntegrityError: As `start_from_line`.
    """
    model, _ = find_line_model(config)
    return BaseModel(
        name_or_path=str(config.model.base_line),
        path=str(model.path),
        revision_requested=config.model.revision,
        revision_resolved=None,
        source="local",
        digest=model.digest,
        license=model.record.base_model.license,
    )


def find_line_model(config: ForgeConfig, environ: Mapping[str, str] = os.environ) -> tuple[ModelDirectory, ModelRow]:
    """The model, every byte of it hashed, and its entry in the registry.

    Raises:
        ModelError: There is no such model, its files are not here, or it is an adapter.
        IntegrityError: Its files are not those of its digest.
    """
    with _registry(environ) as registry:
        row = find_row(config, registry)
    other = config.model.base_line
    if not Path(row.path).is_dir():
        raise ModelError(
            f"model.name_or_path: {other} is {row.uid}, which should lie in {row.path}, where there is no directory; "
            "restore it, or materialize it on this machine"
        )
    model = ModelDirectory.open(row.path)
    if (found := Manifest.of_directory(model.path).digest) != row.uid:
        raise IntegrityError(f"{model.path} is {found} now; expected {row.uid}, which is what {other} means")
    if model.record.kind != "full":
        raise ModelError(
            f"model.name_or_path: {other} is an adapter; set training.merge_adapters: true in the recipe of "
            f"{row.line}, so that it delivers a model that can be built upon"
        )
    return model, row


def find_row(config: ForgeConfig, registry: Registry) -> ModelRow:
    """The registry's entry of the base model: by `model.revision` where there is one, else by the alias.

    Raises:
        ModelError: There is none, or its stage forbids it.
    """
    other, pin = config.model.base_line, config.model.revision
    assert other is not None
    row = registry.find_model(Digest(pin)) if pin else registry.resolve_alias(other.line, other.alias)
    if row is None or row.line != other.line:
        raise ModelError(_nothing_there(other, pin, registry))
    if row.stage in _UNUSABLE or (row.stage != "released" and not config.model.allow_unreleased):
        reason = f" ({row.stage_reason})" if row.stage_reason else ""
        advice = "" if row.stage in _UNUSABLE else ", or set model.allow_unreleased: true"
        raise ModelError(
            f"model.name_or_path: {other} is {row.uid}, which is {row.stage}{reason}; release a model of "
            f"{row.line}{advice}"
        )
    return row


def last_decisions(
    other: BaseLine, subjects: set[Digest], guards: tuple[GuardedStage, ...]
) -> tuple[GateDecision, ...]:
    """The last word of each gate about each subject, from the other line's audit log under FORGE_HOME.

    Raises:
        ModelError: There is no such log.
        IntegrityError: It cannot be read.
    """
    log = forge_home() / "audit_log" / other.line / LOG_FILE
    if not log.is_file():
        raise ModelError(
            f"model.name_or_path: {other}: its gates cannot be read, because there is no audit log at {log}; run this "
            "recipe where that line's log is (FORGE_HOME)"
        )
    found: dict[tuple[str, str], GateDecision] = {}
    for entry in read_entries(log):
        data = entry.data
        if entry.event == "gate.decided" and data["subject"] in subjects:
            decision = GateDecision(
                gate=str(data["gate"]),
                outcome=data["outcome"],
                reason=str(data["reason"]),
                subject=Digest(str(data["subject"])),
                guards=guards,
            )
            found[(decision.gate, decision.subject)] = decision
    return tuple(found.values())


def _pinned(config: ForgeConfig, uid: Digest) -> ForgeConfig:
    model = config.model.model_copy(update={"revision": str(uid)})
    update: dict[str, object] = {"model": model}
    if config.pipeline is not None:
        stages = [
            each.model_copy(update={"model": each.model.model_copy(update={"revision": str(uid)})})
            if each.model
            else each
            for each in config.pipeline.stages
        ]
        update["pipeline"] = config.pipeline.model_copy(update={"stages": stages})
    return config.model_copy(update=update)


def _nothing_there(other: BaseLine, pin: str | None, registry: Registry) -> str:
    if pin:
        return f"model.revision: the line {other.line!r} has no model {pin}; forge models list {other.line} shows them"
    known = ", ".join(row.alias for row in registry.aliases(other.line))
    has = f"its aliases are {known}" if known else "it has released no model"
    advice = f"run it: dagster asset materialize -m assets.definitions --select 'group:{other.line}'"
    wanted = "" if other.alias == RELEASED else f" with the alias {other.alias!r}"
    return f"model.name_or_path: the line {other.line!r} has no model{wanted}; {has}. To make one, {advice}"


@contextmanager
def _registry(environ: Mapping[str, str]) -> Iterator[Registry]:
    """Of FORGE_REGISTRY_URL, FORGE_DATABASE_URL, or the one under FORGE_HOME."""
    registry = Registry(registry_url(environ, forge_home()))
    try:
        yield registry
    finally:
        registry.close()
