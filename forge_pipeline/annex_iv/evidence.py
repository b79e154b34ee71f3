"""What a bundle is made from, and the same things read back out of a bundle.

`BundleInputs` are the pipeline's own results. `collect` copies the facts in them into
``evidence/``: files that lie inside an artefact are copied byte for byte, so that a
manifest ties each copy to the artefact's digest. `Evidence` is what those files and the
copy of the audit log beside them say. The rest of a bundle is derived from `Evidence`
alone, and can therefore be derived again by whoever verifies it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from forge_pipeline._version import __version__
from forge_pipeline.annex_iv.declarations import compliance_of, stated
from forge_pipeline.annex_iv.regime import CURRENT_REGIME
from forge_pipeline.audit_log import LOG_FILE, Anchor, ConsistencyProof, Entry, prove_consistency
from forge_pipeline.config import ForgeConfig, config_digest, resolved
from forge_pipeline.data import DatasetProvenance, RawDataset, TokenizationSummary, TokenizedDataset
from forge_pipeline.dataset_audit import AuditReport, CleaningReport, DatasetAudit
from forge_pipeline.errors import ConfigError, EvidenceError, IntegrityError
from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport
from forge_pipeline.export import ExportReport, GgufModel, fidelity_gates
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import (
    REPORT_FILE,
    Digest,
    DirectoryArtifact,
    Manifest,
    ManifestEntry,
    canonical_json,
    loads_strict,
    read_report,
    write_report,
)
from forge_pipeline.integrity.atomic import write_file
from forge_pipeline.models import ModelDirectory, ModelRecord
from forge_pipeline.training import ResourceUsage, TrainingReport, loss_gate

EVIDENCE = "evidence"

# Raised whenever equal evidence yields other entries or pages; a verifier derives again only what its own version made.
DOCUMENT_VERSION = 4

# asset -> file in the artefact -> copy under evidence/
COPIED = {
    "raw_dataset": {"provenance.json": "dataset_provenance.json"},
    "clean_dataset": {"provenance.json": "dataset_provenance.json", "cleaning.json": "cleaning.json"},
    "dataset_audit_report": {"report.json": "dataset_audit_report.json"},
    "tokenized_dataset": {"summary.json": "tokenization_summary.json"},
    "fine_tuned_model": {"forge_model.json": "model_record.json", "training_report.json": "training_report.json"},
    "gguf_model": {"export_report.json": "export_report.json"},
}
# asset -> report under evidence/, stored elsewhere as an artefact whose only file is report.json
REPORTS = {
    "benchmark_report": "benchmark_report.json",
    "safety_report": "safety_report.json",
    "judge_report": "judge_report.json",
}


@dataclass(frozen=True)
class AnchorRecord:
    """State of the audit log that the copy in the bundle ends with."""

    log_id: str
    size: int
    root: str

    @property
    def anchor(self) -> Anchor:
        return Anchor(self.log_id, self.size, Digest(self.root))


@dataclass(frozen=True)
class ParentBundle:
    """The bundle of the previous version, as far as this one refers to it.

    Attributes:
        audit_log: The log's state that its copy ends with.
        base_model: Name, revision and digest of what its model was trained from.
        code: What the code was: generator, git commit, and the code version of each stage.
        metrics: What was measured of it, by name.
    """

    manifest_hash: Digest
    generated_at: str
    system_version: str
    subjects: dict[str, Digest]
    recipe: dict[str, Any]
    benchmark_average: float | None = None
    audit_log: AnchorRecord | None = None
    base_model: dict[str, str | None] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PdfWriter:
    """What wrote the PDF: equal writers make equal bytes of equal evidence."""

    library: str
    fonts: Digest


@dataclass(frozen=True)
class BundleInputs:
    """Everything a bundle says, as the stages returned it.

    Attributes:
        audit_log_path: The line's audit log; None leaves it out, and the bundle says so.
        anchor: State of that log at which the bundle is made; the copy ends there.
        materializations: What produced what, one mapping each: ``asset_key``, ``digest``, ``run_id``, ``inputs``, ...
        environment: Package versions, interpreter, operating system, processor.
        generated_at: ISO 8601 in UTC, given by the caller.
        parent: The bundle of the version before.
        usage: Time and memory of the fine-tune.
        history: The orchestrator's own events of the runs behind the artefacts, as JSON lines.
        extra_files: More evidence, path -> bytes: attestations, bills of materials. It lies under evidence/ and
            the manifest covers it; nothing is derived from it but its name and digest.
        release: The `ReleaseRecord` as JSON when a bundle is made again after a release; without one the bundle
            is labelled not released.
        synthetic: True for made-up examples; every page then says so.
    """

    config: ForgeConfig
    dataset: RawDataset
    dataset_audit: DatasetAudit
    tokenized: TokenizedDataset
    model: ModelDirectory
    benchmark: BenchmarkResult | None
    safety: SafetyReport | None
    gguf: GgufModel | None
    audit_log_path: Path | None
    anchor: Anchor | None
    materializations: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, str]
    generated_at: str
    parent: ParentBundle | None = None
    usage: ResourceUsage | None = None
    history: bytes | None = None
    extra_files: Mapping[str, bytes] = field(default_factory=dict)
    release: Mapping[str, Any] | None = None
    synthetic: bool = False
    judge: JudgeReport | None = None

    @property
    def dataset_asset(self) -> str:
        """Name of the asset whose rows the model was trained on."""
        return "clean_dataset" if (self.dataset.path / "cleaning.json").exists() else "raw_dataset"

    @property
    def artifacts(self) -> dict[str, DirectoryArtifact]:
        """Directory artefacts by asset name."""
        found: dict[str, DirectoryArtifact | None] = {
            self.dataset_asset: self.dataset,
            "dataset_audit_report": self.dataset_audit,
            "tokenized_dataset": self.tokenized,
            "fine_tuned_model": self.model,
            "gguf_model": self.gguf,
        }
        return {name: artifact for name, artifact in found.items() if artifact is not None}


@dataclass(frozen=True)
class RunRecord:
    """What no artefact holds: when, by which version, where, from what, in which state of the log.

    Attributes:
        document_version: Version of the rules that derive the document from the evidence.
        regime: The text of law that the document is written against.
        consistency_proof: That the log up to `anchor` extends the parent's log (RFC 9162 2.1.4); None where there
            is no parent, one of them has no log, or they have different logs.
        pdf: What wrote the PDF; None where nothing could.
        extra_files: Paths under evidence/ of what was given beside the pipeline's own results.
    """

    generated_at: str
    generator: str
    document_version: int
    regime: str
    environment: dict[str, str]
    materializations: tuple[dict[str, Any], ...]
    anchor: AnchorRecord | None = None
    parent: ParentBundle | None = None
    consistency_proof: tuple[Digest, ...] | None = None
    pdf: PdfWriter | None = None
    extra_files: tuple[str, ...] = ()
    release: dict[str, Any] | None = None
    synthetic: bool = False

    @property
    def consistency(self) -> ConsistencyProof | None:
        """The proof with both ends."""
        if self.consistency_proof is None or self.anchor is None or self.parent is None or not self.parent.audit_log:
            return None
        return ConsistencyProof(self.parent.audit_log.anchor, self.anchor.anchor, self.consistency_proof)


@dataclass(frozen=True)
class DeclaredBy:
    """Who stated what the recipe declares, and when, as the audit log has it.

    Attributes:
        recipe: Digest of the resolved recipe that holds the statement.
        provider: In whose name, if the recipe says so.
        operator: Who ran the pipeline when this very recipe was first put on record.
        at: When that was, UTC.
        log_seq: The entry ``recipe.resolved`` that says both; None, like the two before it, where the bundle's log
            has no such entry.
    """

    recipe: Digest
    provider: str | None
    operator: str | None = None
    at: str | None = None
    log_seq: int | None = None


@dataclass(frozen=True)
class Gates:
    """Every gate decision that the reports and models hold."""

    decisions: tuple[GateDecision, ...]


@dataclass(frozen=True)
class Evidence:
    """A bundle's evidence, read back."""

    config: ForgeConfig
    manifests: dict[str, Manifest]
    provenance: DatasetProvenance
    audit: AuditReport
    cleaning: CleaningReport | None
    tokenization: TokenizationSummary
    model_record: ModelRecord
    training: TrainingReport
    benchmark: BenchmarkResult | None
    safety: SafetyReport | None
    export: ExportReport | None
    usage: ResourceUsage | None
    gates: tuple[GateDecision, ...]
    run: RunRecord
    declared_by: DeclaredBy
    log_keys: dict[str, Any]
    """Fingerprints of the keys that the log began with; empty where there are none, or no log."""
    files: dict[str, ManifestEntry]
    """Every file under evidence/, by name."""
    judge: JudgeReport | None = None

    @cached_property
    def subjects(self) -> dict[str, Digest]:
        """Digests of the artefacts that the bundle is about, by asset name."""
        return {name: manifest.digest for name, manifest in self.manifests.items()}

    @property
    def dataset_asset(self) -> str:
        """Name of the asset whose rows the model was trained on."""
        return "clean_dataset" if "clean_dataset" in self.manifests else "raw_dataset"

    @property
    def released(self) -> bool:
        """Whether this very model was released when the bundle was made."""
        release = self.run.release
        return release is not None and release.get("subject") == self.subjects["fine_tuned_model"]

    @classmethod
    def read(cls, bundle: Path) -> "Evidence":
        """Read ``evidence/`` of the bundle directory `bundle`.

        Raises:
            OSError: A file that every bundle has is missing or unreadable.
            IntegrityError: A file does not hold what its name says.
        """
        folder = bundle / EVIDENCE

        def optional(name: str, report_type: type[Any]) -> Any:
            return read_report(folder / name, report_type) if (folder / name).exists() else None

        config = _read_recipe(folder / "recipe.json")
        log = bundle / LOG_FILE
        return cls(
            config=config,
            manifests=_read_manifests(folder / "manifests.json"),
            provenance=read_report(folder / "dataset_provenance.json", DatasetProvenance),
            audit=read_report(folder / "dataset_audit_report.json", AuditReport),
            cleaning=optional("cleaning.json", CleaningReport),
            tokenization=read_report(folder / "tokenization_summary.json", TokenizationSummary),
            model_record=read_report(folder / "model_record.json", ModelRecord),
            training=read_report(folder / "training_report.json", TrainingReport),
            benchmark=optional("benchmark_report.json", BenchmarkResult),
            safety=optional("safety_report.json", SafetyReport),
            export=optional("export_report.json", ExportReport),
            usage=optional("resource_usage.json", ResourceUsage),
            gates=read_report(folder / "gates.json", Gates).decisions,
            run=read_report(folder / "run.json", RunRecord),
            declared_by=_declared_by(config, log),
            log_keys=_log_keys(log),
            files={entry.path: entry for entry in Manifest.of_directory(folder).entries},
            judge=optional("judge_report.json", JudgeReport),
        )


def collect(inputs: BundleInputs, bundle: Path, *, pdf: PdfWriter | None = None) -> None:
    """Write the evidence of `inputs` under ``evidence/`` of the directory `bundle`.

    Args:
        pdf: What will write the bundle's PDF.

    Raises:
        IntegrityError: An artefact's files are not those of its digest, or a report is about another artefact.
        EvidenceError: The audit log does not extend the parent's, or an extra file has no plain path of its own.
    """
    folder = bundle / EVIDENCE
    folder.mkdir()
    _check_about_the_same_model(inputs)
    manifests = {name: _manifest_of(name, artifact) for name, artifact in inputs.artifacts.items()}
    write_file(folder / "manifests.json", canonical_json({name: asdict(each) for name, each in manifests.items()}))
    for name, artifact in inputs.artifacts.items():
        for source, copy in COPIED[name].items():
            write_file(folder / copy, (artifact.path / source).read_bytes())
    write_file(folder / "recipe.json", canonical_json(resolved(inputs.config)))
    write_report(folder / "gates.json", Gates(gate_decisions(inputs)))
    write_report(folder / "run.json", _run_record(inputs, pdf))
    if inputs.history is not None:
        write_file(folder / "dagster_events.jsonl", inputs.history)
    optional = {
        "benchmark_report": inputs.benchmark,
        "safety_report": inputs.safety,
        "judge_report": inputs.judge,
        "resource_usage": inputs.usage,
    }
    for name, report in optional.items():
        if report is not None:
            write_report(folder / f"{name}.json", report)
    for path, content in sorted(inputs.extra_files.items()):
        _write_extra(folder, path, content)


def gate_decisions(inputs: BundleInputs) -> tuple[GateDecision, ...]:
    """Every gate's decision about these artefacts, in the order of the stages."""
    decisions = [*inputs.dataset_audit.gates, *loss_gate(inputs.config, inputs.model)]
    decisions += inputs.benchmark.gates if inputs.benchmark else ()
    decisions += inputs.safety.gates if inputs.safety else ()
    decisions += inputs.judge.gates if inputs.judge else ()
    decisions += fidelity_gates(inputs.config, inputs.gguf) if inputs.gguf else ()
    return tuple(decisions)


def custody_problems(evidence: Evidence) -> list[str]:
    """Where a copy under evidence/ is not the file that its artefact's manifest lists."""
    problems = []
    for asset, manifest in evidence.manifests.items():
        listed = {entry.path: entry.digest for entry in manifest.entries}
        for source, copy in COPIED.get(asset, {}).items():
            found = evidence.files[copy].digest if copy in evidence.files else None
            if listed.get(source) != found or found is None:
                problems.append(
                    f"evidence/{copy} is {found}, but the manifest of {asset} lists {source} as {listed.get(source)}"
                )
    record, subjects = evidence.model_record, evidence.subjects
    expected = {evidence.dataset_asset: record.dataset_digest, "tokenized_dataset": record.tokenized_digest}
    problems += [
        f"the model was trained on {asset} {digest}, but the bundle shows {subjects.get(asset)}"
        for asset, digest in expected.items()
        if subjects.get(asset) != digest
    ]
    about = {
        "dataset_audit_report.json": (evidence.audit.dataset_digest, evidence.dataset_asset),
        "benchmark_report.json": (evidence.benchmark and evidence.benchmark.subject, "fine_tuned_model"),
        "safety_report.json": (evidence.safety and evidence.safety.subject, "fine_tuned_model"),
        "judge_report.json": (evidence.judge and evidence.judge.subject, "fine_tuned_model"),
    }
    problems += [
        f"evidence/{name} is about {digest}, but the bundle shows {asset} {subjects.get(asset)}"
        for name, (digest, asset) in about.items()
        if name in evidence.files and digest != subjects.get(asset)
    ]
    return problems


def known_digests(evidence: Evidence) -> dict[str, tuple[Digest, ...]]:
    """Asset name -> the digests under which an audit log may know it; any one is enough.

    A report is known by its own digest or by that of a directory whose only file it is.
    """
    found: dict[str, tuple[Digest, ...]] = {name: (digest,) for name, digest in evidence.subjects.items()}
    for asset, name in REPORTS.items():
        if name in evidence.files:
            entry = evidence.files[name]
            found[asset] = (entry.digest, Manifest((replace(entry, path=REPORT_FILE),)).digest)
    return found


def _check_about_the_same_model(inputs: BundleInputs) -> None:
    model, record = inputs.model.digest, inputs.model.record
    pairs = [
        ("the dataset audit report", inputs.dataset_audit.report.dataset_digest, inputs.dataset.digest),
        ("the model's training data", record.dataset_digest, inputs.dataset.digest),
        ("the model's tokenized data", record.tokenized_digest, inputs.tokenized.digest),
    ]
    if inputs.benchmark is not None:
        pairs.append(("the benchmark report", inputs.benchmark.subject, model))
    if inputs.safety is not None:
        pairs.append(("the safety report", inputs.safety.subject, model))
    if inputs.judge is not None:
        pairs.append(("the judge's report", inputs.judge.subject, model))
    if inputs.gguf is not None:
        pairs.append(("the GGUF export", inputs.gguf.report.model_digest, model))
    wrong = [f"{what} is about {found}, not {expected}" for what, found, expected in pairs if found != expected]
    if wrong:
        raise IntegrityError("no bundle is made of artefacts that do not belong together: " + "; ".join(wrong))


def _manifest_of(name: str, artifact: DirectoryArtifact) -> Manifest:
    manifest = Manifest.of_directory(artifact.path)
    if manifest.digest != artifact.digest:
        raise IntegrityError(f"{name} at {artifact.path} is {manifest.digest} now; expected {artifact.digest}")
    return manifest


def _write_extra(folder: Path, path: str, content: bytes) -> None:
    parts = PurePosixPath(path).parts
    plain = "\\" not in path and ":" not in path and path.isprintable() and PurePosixPath(path).as_posix() == path
    if not parts or path.startswith("/") or ".." in parts or not plain:
        raise EvidenceError(f"extra_files names {path!r}; expected a plain relative path with forward slashes")
    if (folder / path).exists():
        raise EvidenceError(f"extra_files names {path!r}, which the bundle writes itself; choose another name")
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_file(folder / path, content)


def _prove_consistency(inputs: BundleInputs) -> tuple[Digest, ...] | None:
    """That the log of this bundle extends the parent's; None where there is nothing to compare."""
    old = inputs.parent.audit_log if inputs.parent is not None else None
    new = inputs.anchor
    if old is None or new is None or inputs.audit_log_path is None or old.log_id != new.log_id:
        return None
    try:
        proof = prove_consistency(inputs.audit_log_path, old.size, new_size=new.size)
    except ValueError as error:
        raise EvidenceError(f"the audit log is shorter than that of the parent bundle: {error}") from error
    if proof.old != old.anchor:
        raise EvidenceError(
            f"{inputs.audit_log_path}: its first {old.size} entries have the root {proof.old.root}, but the parent "
            f"bundle recorded {old.root}; the log was rewritten since"
        )
    return proof.path


def _log_entries(log: Path, needle: bytes) -> Iterator[Entry]:
    """Entries that hold `needle`. Whether the log is intact is another check's question, so damage ends the search."""
    try:
        with log.open("rb") as file:
            for line in file:
                if needle in line:
                    yield Entry.parse(line.removesuffix(b"\n"))
    except (FileNotFoundError, ValueError):
        return


def _declared_by(config: ForgeConfig, log: Path) -> DeclaredBy:
    recipe = config_digest(config)
    unknown = DeclaredBy(recipe, stated(compliance_of(config).provider_name))
    for entry in _log_entries(log, b'"recipe.resolved"'):
        if entry.event == "recipe.resolved" and entry.data.get("config_digest") == recipe:
            return replace(unknown, operator=entry.operator, at=entry.ts, log_seq=entry.seq)
    return unknown


def _log_keys(log: Path) -> dict[str, Any]:
    for entry in _log_entries(log, b'"audit.genesis"'):
        keys = entry.data.get("keys")
        return dict(keys) if isinstance(keys, Mapping) else {}
    return {}


def _run_record(inputs: BundleInputs, pdf: PdfWriter | None) -> RunRecord:
    anchor = inputs.anchor
    return RunRecord(
        generated_at=inputs.generated_at,
        generator=f"forge-pipeline {__version__}",
        document_version=DOCUMENT_VERSION,
        regime=CURRENT_REGIME,
        environment=dict(inputs.environment),
        materializations=tuple(dict(record) for record in inputs.materializations),
        anchor=AnchorRecord(anchor.log_id, anchor.size, str(anchor.root)) if anchor else None,
        parent=inputs.parent,
        consistency_proof=_prove_consistency(inputs),
        pdf=pdf,
        extra_files=tuple(sorted(inputs.extra_files)),
        release=dict(inputs.release) if inputs.release else None,
        synthetic=inputs.synthetic,
    )


def _read_recipe(path: Path) -> ForgeConfig:
    try:
        return ForgeConfig(**loads_strict(path.read_bytes()))
    except (ConfigError, TypeError) as error:
        raise IntegrityError(f"{path} does not hold a resolved recipe: {error}") from error


def _read_manifests(path: Path) -> dict[str, Manifest]:
    from pydantic import TypeAdapter, ValidationError

    try:
        manifests = TypeAdapter(dict[str, Manifest]).validate_python(loads_strict(path.read_bytes()))
    except (ValidationError, ValueError) as error:
        raise IntegrityError(f"{path} does not hold manifests: {error}") from error
    for asset in ("dataset_audit_report", "tokenized_dataset", "fine_tuned_model"):
        if asset not in manifests:
            raise IntegrityError(f"{path} lists no {asset}; every bundle is about one")
    if not manifests.keys() & {"raw_dataset", "clean_dataset"}:
        raise IntegrityError(f"{path} lists neither raw_dataset nor clean_dataset; every bundle is about one")
    return manifests
