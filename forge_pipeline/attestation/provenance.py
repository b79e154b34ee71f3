"""SLSA provenance v1: how an artefact was made, as its materialization record says it.

    externalParameters     what somebody chose: the resolved recipe, the line, the asset, the partition
    internalParameters     what the pipeline added: code version, seeds, step, hardware and interpreter
    resolvedDependencies   what was really read: inputs by digest, base model, source commit, lock, packages
    runDetails             which run, when, by which versions; the record's own digest

A fact that a record does not hold is left out, never filled in. Builder and build type are
URNs of ours: this file is their documentation. The key belongs to whoever runs the pipeline,
so this is SLSA build level 1 and claims no more.

Source: https://slsa.dev/spec/v1.0/provenance
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from forge_pipeline.attestation.statement import statement, subjects_of
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import EvidenceError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import BaseModelRecord

PROVENANCE_PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:forge-pipeline:build-type:materialization:v1"
BUILDER = "urn:forge-pipeline:builder:v1"

_SOURCE = ("git_commit", "git_dirty")
_VERSIONS = ("forge_pipeline", "python", "package:dagster", "package:torch", "package:transformers", "package:trl")


def provenance(
    record: Mapping[str, Any],
    *,
    manifest: Manifest | None = None,
    base_model: BaseModelRecord | None = None,
    recipe: Digest | None = None,
    record_digest: Digest | None = None,
) -> dict[str, Any]:
    """The provenance statement of one artefact.

    Args:
        record: A materialization record as JSON values; of one from an earlier version the newer facts are absent.
        manifest: The artefact's files; each becomes a subject. None names the artefact by its digest alone.
        base_model: The base model, where the stage reads it.
        recipe: Digest of the resolved recipe, for records that do not name it.
        record_digest: Digest under which the store keeps the record.

    Raises:
        EvidenceError: The record names no artefact, or another than `manifest` is of.
    """
    key, digest = _identity(record)
    if manifest is not None and manifest.digest != digest:
        raise EvidenceError(f"the record of {key} is about {digest}, its files are {manifest.digest}")
    line, _, asset = key.partition("/")
    used = record.get("recipe") or recipe
    external = {"line": line, "asset": asset, "partition": record.get("partition"), "recipe": used}
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _known(external),
            "internalParameters": _internal(record),
            "resolvedDependencies": _dependencies(record, base_model),
        },
        "runDetails": _run_details(record, record_digest),
    }
    return statement(subjects_of(key, digest if manifest is None else manifest), PROVENANCE_PREDICATE, predicate)


def seeds(config: ForgeConfig) -> dict[str, int | bool]:
    """What decides every random choice of a run, by the recipe's keys."""
    return {
        "training.seed": config.training.seed,
        "training.full_determinism": config.training.full_determinism,
        "data.split.seed": config.data.split.seed,
    }


def _identity(record: Mapping[str, Any]) -> tuple[str, Digest]:
    try:
        return str(record["asset_key"]), Digest(record["digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"a materialization record names no asset_key and digest: {error!r}") from error


def _internal(record: Mapping[str, Any]) -> dict[str, Any]:
    surroundings = {
        name: value
        for name, value in sorted(_environment(record).items())
        if name not in _SOURCE and not name.startswith("package:") and not name.endswith("_digest")
    }
    return _known(
        {
            "code_version": record.get("code_version"),
            "step": record.get("step_key"),
            "artifact_type": record.get("artifact_type"),
            "seeds": dict(record.get("seeds") or {}) or None,
            "environment": surroundings or None,
        }
    )


def _dependencies(record: Mapping[str, Any], base_model: BaseModelRecord | None) -> list[dict[str, Any]]:
    environment = _environment(record)
    found = [
        {"name": name, "digest": {"sha256": Digest(digest).hex}}
        for name, digest in sorted(dict(record.get("inputs") or {}).items())
    ]
    if base_model is not None:
        found.append(base_model_dependency(base_model))
    commit = environment.get("git_commit", "unknown")
    if commit != "unknown":
        dirty = {"annotations": {"uncommitted_changes": environment.get("git_dirty", "unknown")}}
        found.append({"name": "source code", "digest": {"gitCommit": commit}, **dirty})
    if lock := environment.get("constraints_digest"):
        found.append({"name": "constraints.txt", "digest": {"sha256": Digest(lock).hex}})
    if packages := record.get("packages") or environment.get("packages_digest"):
        found.append({"name": "installed packages", "digest": {"sha256": Digest(packages).hex}})
    return found


def base_model_dependency(record: BaseModelRecord) -> dict[str, Any]:
    """The base model as a resource: a Hub id by its commit, local weights by their digest and never by their path."""
    if record.source == "hub":
        version = f"@{record.revision_resolved}" if record.revision_resolved else ""
        value: dict[str, Any] = {"name": "base model", "uri": f"pkg:huggingface/{record.name_or_path}{version}"}
        return value | ({"digest": {"gitCommit": record.revision_resolved}} if record.revision_resolved else {})
    name = record.name_or_path if record.source == "package" else PurePath(record.name_or_path).name
    value = {"name": f"base model {name}"}
    return value | ({"digest": {"sha256": record.digest.hex}} if record.digest else {})


def _run_details(record: Mapping[str, Any], record_digest: Digest | None) -> dict[str, Any]:
    environment = _environment(record)
    versions = {name.removeprefix("package:"): environment[name] for name in _VERSIONS if name in environment}
    metadata = {
        "invocationId": record.get("run_id"),
        "startedOn": _moment(record.get("started_at")),
        "finishedOn": _moment(record.get("recorded_at")),
    }
    details: dict[str, Any] = {
        "builder": {"id": BUILDER, **({"version": versions} if versions else {})},
        "metadata": _known(metadata),
    }
    if record_digest is not None:
        details["byproducts"] = [{"name": "materialization record", "digest": {"sha256": record_digest.hex}}]
    return details


def _environment(record: Mapping[str, Any]) -> dict[str, str]:
    return dict(record.get("environment") or {})


def _moment(value: object) -> str | None:
    """RFC 3339 in UTC with a Z; None where the record has no time with a zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
