"""What the three IO managers share: publish, record, log, then tell Dagster.

Order of `handle_output`, so that a crash between two steps leaves evidence rather than
a gap: (1) the artefact is published under its digest; (2) its materialization record is
written; (3) the audit log gets its entry; (4) the Dagster event gets digest, record and
log anchor. `load_input` finds the digest in the event, preferring the current run's,
verifies every byte, and opens the artefact as the type the asset asks for.
"""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetRecordsFilter

from forge_pipeline.attestation import seeds
from forge_pipeline.config import config_digest
from forge_pipeline.errors import ConfigError, ForgeError
from forge_pipeline.integrity import Digest, DirectoryArtifact, Manifest, report_to_json
from resources.environment import environment, packages, recipe_of
from resources.evidence import AuditLogResource
from resources.home import Home
from resources.last_word import failure
from resources.metadata import metadata_of
from resources.noted_inputs import note_input, noted_inputs, step_work
from resources.observation import observe, usage_of
from resources.reconciliation import facts_digest
from resources.settings import check_persistent
from resources.store import ArtifactStore, MaterializationRecord


class ForgeIOManager(dg.ConfigurableIOManager):
    """Base of the typed IO managers.

    Attributes:
        home: FORGE_HOME.
        store_root: Local path or fsspec URL of the artefact store.
        allow_temporary_instance: For tests: accept a Dagster instance that forgets.
    """

    home: str
    store_root: str
    allow_temporary_instance: bool = False
    audit_log: dg.ResourceDependency[AuditLogResource]

    # What a subclass says about its types.

    def write(self, value: Any, directory: Path) -> Path:
        """Bring `value` into `directory` (empty) and return the directory to publish."""
        raise NotImplementedError

    def read(self, directory: Path, expected: type) -> Any:
        """Open the artefact in `directory` as an `expected`."""
        raise NotImplementedError

    # What Dagster calls.

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        try:
            self._store_output(context, obj)
        except ForgeError as error:
            raise failure(f"{context.asset_key.to_user_string()}: {type(error).__name__}: {error}") from error

    def load_input(self, context: dg.InputContext) -> Any:
        key, digest = context.asset_key, self._recorded_digest(context)
        try:
            directory = self._store().get(digest)
            value = self.read(directory, context.dagster_type.typing_type)
        except ForgeError as error:
            raise failure(f"{key.to_user_string()}: {error}") from error
        self._note_input(context, key.to_user_string(), digest)
        return value

    # Steps.

    def _store_output(self, context: dg.OutputContext, obj: Any) -> None:
        if not self.allow_temporary_instance:
            check_persistent(context.step_context.instance)
        work = self._work(context)
        staging = work / "publish"
        staging.mkdir(parents=True, exist_ok=True)
        store = self._store()
        directory = self.write(obj, staging)
        manifest = Manifest.of_directory(directory)
        digest = store.publish(directory)
        stored = replace(obj, path=store.path(digest)) if isinstance(obj, DirectoryArtifact) else obj
        record = self._record(context, obj, digest, manifest)
        record_digest = store.append_record(
            self._line(context), lambda previous: report_to_json(replace(record, previous=previous))
        )
        facts = {**context.output_metadata, **metadata_of(stored)}
        anchor = self.audit_log.log(
            self._line(context),
            context.run_id,
            "artifact.materialized",
            asset_key=record.asset_key,
            partition=record.partition,
            digest=digest,
            files=record.files,
            inputs=dict(record.inputs),
            code_version=record.code_version or "unversioned",
            kind=record.artifact_type,
            record=record_digest,
            facts=facts_digest(facts),
        )
        context.add_output_metadata(
            {
                **facts,
                "forge/digest": digest,
                "forge/record": record_digest,
                "forge/files": record.files,
                "forge/size_bytes": record.size,
                "dagster/uri": str(store.path(digest)),
                **anchor,
            }
        )
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(digest))
        self._point_latest(record, store.path(digest))
        observe(context, obj, record, facts, Path(self.home))
        for scratch in (work, work.with_suffix("")):  # a failed step keeps its scratch, for whoever looks into it
            shutil.rmtree(scratch, ignore_errors=True)

    def _recorded_digest(self, context: dg.InputContext) -> Digest:
        """The digest that Dagster recorded for the upstream asset: this run's if it made one, else the latest."""
        partitions = [context.asset_partition_key] if context.has_asset_partitions else None
        filters = AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions)
        instance = context.instance
        records = instance.fetch_materializations(filters, limit=20).records
        mine = [record for record in records if record.run_id == context.step_context.run_id]
        chosen = (mine or list(records))[:1]
        if not chosen or chosen[0].asset_materialization is None:
            name = context.asset_key.to_user_string()
            raise failure(f"{name} has never been materialized; materialize it first, or select it with this asset")
        event, run_id = chosen[0].asset_materialization, chosen[0].run_id
        digest, record = event.metadata.get("forge/digest"), event.metadata.get("forge/record")
        if digest is None or record is None:
            raise failure(
                f"the latest materialization of {event.asset_key.to_user_string()} carries no digest: it was not "
                f"made by this pipeline (run {run_id!r}). Materialize the asset again"
            )
        self._check_recorded(event, run_id, Digest(str(digest.value)), Digest(str(record.value)))
        return Digest(str(digest.value))

    def _check_recorded(self, event: dg.AssetMaterialization, run_id: str, digest: Digest, record: Digest) -> None:
        """Hold an event against the record it names: anybody who reaches the webserver can post an event."""
        key = event.asset_key.to_user_string()
        try:
            found = self._store().record(event.asset_key.path[0], record)
        except ForgeError as error:
            raise failure(f"{key}: {error}") from error
        facts = {"asset_key": key, "digest": digest, "run_id": run_id, "partition": event.partition}
        differing = [name for name, value in facts.items() if found[name] != value]
        if differing:
            raise failure(
                f"the latest event of {key} (run {run_id!r}) and its record {record} differ in {', '.join(differing)}: "
                "the event was not made by this pipeline, or was changed. Materialize the asset again"
            )

    def _record(self, context: dg.OutputContext, obj: Any, digest: Digest, manifest: Manifest) -> MaterializationRecord:
        spec = context.step_context.job_def.asset_layer.asset_graph.get(context.asset_key)
        store, inputs = self._store(), self._noted_inputs(context)
        recipe = recipe_of(obj, self._line(context), inputs, store)
        return MaterializationRecord(
            asset_key=context.asset_key.to_user_string(),
            partition=context.asset_partition_key if context.has_asset_partitions else None,
            artifact_type=type(obj).__name__,
            digest=digest,
            files=len(manifest.entries),
            size=manifest.size,
            inputs=inputs,
            code_version=spec.code_version,
            run_id=context.run_id,
            step_key=context.step_key,
            recorded_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            previous=None,
            environment=environment(),
            recipe=None if recipe is None else config_digest(recipe),
            seeds={} if recipe is None else seeds(recipe),
            packages=store.keep_packages(packages()),
            started_at=self._started_at(context),
            usage=usage_of(context.output_metadata),
        )

    def _started_at(self, context: dg.OutputContext) -> str | None:
        """When Dagster began this step; None where its event log does not say."""
        stats = context.step_context.instance.get_run_step_stats(context.run_id, [context.step_key])
        moment = stats[0].start_time if stats else None
        return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")

    def _point_latest(self, record: MaterializationRecord, path: Path) -> None:
        line, stage = record.asset_key.split("/", 1)
        link = Home(Path(self.home)).latest(line, record.partition, stage)
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path, target_is_directory=True)
        fresh.replace(link)

    def _note_input(self, context: dg.InputContext, key: str, digest: Digest) -> None:
        """Remember what this step really loaded, for its own record."""
        note_input(Path(self.home), context.step_context.run_id, context.step_context.step.key, key, digest)

    def _noted_inputs(self, context: dg.OutputContext) -> dict[str, Digest]:
        return noted_inputs(Path(self.home), context.run_id, context.step_key)

    def _line(self, context: dg.OutputContext) -> str:
        return context.asset_key.path[0]

    def _work(self, context: dg.OutputContext) -> Path:
        return self._step_work(context.run_id, context.step_key)

    def _step_work(self, run_id: str, step_key: str) -> Path:
        return step_work(Path(self.home), run_id, step_key)

    def _store(self) -> ArtifactStore:
        return ArtifactStore(self.store_root, Home(Path(self.home)).store)


def check_type(expected: object, allowed: tuple[type, ...], manager: str) -> None:
    """Refuse an annotation that this IO manager does not serve.

    Raises:
        ConfigError: Naming the types it does.
    """
    if not (isinstance(expected, type) and issubclass(expected, allowed)):
        names = ", ".join(kind.__name__ for kind in allowed)
        raise ConfigError(f"{manager} serves {names}; the asset is annotated {expected!r}")
