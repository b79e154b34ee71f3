"""What belongs to a model: its directory, GGUF files, card, bundle and its data's audit, each tied to it by digest.

An artefact is a model's own if a materialization record says that it was made from exactly that model, and the
artefact's own report says so too. Everything else is listed as not available, with what to do.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.annex_iv.bundle import AnnexIvBundle
from forge_pipeline.erasure import read_tombstone
from forge_pipeline.errors import ForgeError, IntegrityError
from forge_pipeline.export.result import EXPORT_REPORT_FILE, ExportReport
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, read_report
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.registry import ModelRow
from forge_pipeline.server.archives import Verifier
from forge_pipeline.server.artifact_schemas import ArtifactKind
from forge_pipeline.server.launchers import LINE
from forge_pipeline.server.materializations import Made, Materializations, place_of, store_of
from forge_pipeline.server.model_cards import plain_card

CARD = "model_card.md"
_BUNDLE_FOLDER = "annex_iv"
_KEPT_TEXTS = 64
_TEXTS = {"card": "text/markdown; charset=utf-8", "audit_report": "text/html; charset=utf-8"}


@dataclass(frozen=True)
class Artifact:
    """One download, or why there is none.

    Attributes:
        name: The file's name for whoever downloads it.
        digest: Of the file, or of the directory's manifest.
        size: In bytes.
        path: The file or directory; None where there is none, or only `text`.
        folder: The folder that a directory's files lie in, in its ZIP.
        why: Why it is not available.
    """

    kind: ArtifactKind
    name: str
    digest: Digest | None = None
    size: int | None = None
    path: Path | None = None
    folder: str = ""
    text: bytes | None = None
    media_type: str = "application/octet-stream"
    why: str | None = None


class Artifacts:
    """Artefacts of the registry's models.

    Args:
        verifier: Shared with whoever sends the bytes.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._made = Materializations()
        self._lock = threading.Lock()
        self._texts: dict[tuple[ArtifactKind, str, Digest], bytes] = {}

    def of(self, row: ModelRow, name: str) -> list[Artifact]:
        """Every kind of artefact, a GGUF model's files one by one.

        Args:
            row: The registry's row.
            name: What the model is called; the files are named after it.
        """
        bundle = self._bundle(row, name)
        return [self._model(row, name), *self._gguf(row, name), self._card(row, name, bundle), bundle,
                self._audit(row, name)]  # fmt: skip

    def audit_gates(self, row: ModelRow) -> tuple[GateDecision, ...] | None:
        """What was decided about the rows that the model was trained on; None: no audit of them is on record.

        Raises:
            IntegrityError: The audit is not what it was when the model was trained.
        """
        from forge_pipeline.dataset_audit.artifacts import DatasetAudit

        found = self._audit_of(row)
        if found is None:
            return None
        self._verifier.check(*found)
        return DatasetAudit(*found).gates

    def _model(self, row: ModelRow, name: str) -> Artifact:
        path = Path(row.path)
        why = _absent(path, "the model's files are not on this machine")
        return _directory("model", f"{name}.zip", path, row.uid, row.size_bytes, name, why)

    def _gguf(self, row: ModelRow, name: str) -> list[Artifact]:
        made, why = self._made_from(row, "GgufModel", "gguf_model")
        if made is None:
            if not writes_text(row):
                why = "there is none of a model that does not write text token by token"
            return [Artifact("gguf", f"{name}.gguf", why=why)]
        path = place_of(_store(row), made.digest)
        try:
            report = read_report(path / EXPORT_REPORT_FILE, ExportReport)
        except ForgeError:
            return [Artifact("gguf", f"{name}.gguf", why="its export report cannot be read; export it again")]
        if report.model_digest != row.uid:
            return [Artifact("gguf", f"{name}.gguf", why="the export's own report is about another model")]
        return [
            Artifact("gguf", file.name, file.digest, file.size, path / file.name,
                     why=None if (path / file.name).is_file() else "the file is gone; export the model again")
            for file in report.files
        ]  # fmt: skip

    def _bundle(self, row: ModelRow, name: str) -> Artifact:
        made, why = self._made_from(row, "AnnexIvBundle", "annex_iv_bundle")
        if made is None:
            return Artifact("bundle", f"{name}-annex-iv.zip", why=why)
        path = place_of(_store(row), made.digest)
        about = _subject_of(AnnexIvBundle(path, made.digest))
        why = None if about == row.uid else "the bundle's own manifest is about another model"
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return _directory("bundle", f"{name}-annex-iv.zip", path, made.digest, size, _BUNDLE_FOLDER, why)

    def _card(self, row: ModelRow, name: str, bundle: Artifact) -> Artifact:
        path, shown = Path(row.path), f"{name}-{CARD}"
        if bundle.path is not None and bundle.digest is not None and (bundle.path / CARD).is_file():
            file = bundle.path / CARD
            return self._text("card", shown, bundle.path, bundle.digest, lambda: file.read_text(encoding="utf-8"))
        if why := _absent(path, "the model's files are not on this machine"):
            return Artifact("card", shown, why=why)
        return self._text("card", shown, path, row.uid, lambda: plain_card(row, ModelDirectory(path, row.uid), name))

    def _audit(self, row: ModelRow, name: str) -> Artifact:
        shown = f"{name}-dataset-audit.html"
        found = self._audit_of(row)
        if found is None:
            return Artifact("audit_report", shown, why="no audit of the rows it was trained on is on record")
        if why := _absent(found[0], "the audit is not on this machine"):
            return Artifact("audit_report", shown, why=why)
        return self._text("audit_report", shown, *found, lambda: _audit_page(*found, name))

    def _text(self, kind: ArtifactKind, name: str, source: Path, digest: Digest, make: Callable[[], str]) -> Artifact:
        """A text that is made of a verified directory, once."""
        try:
            self._verifier.check(source, digest)
        except IntegrityError:
            return Artifact(kind, name, why="what it is made of was changed after it was stored")
        with self._lock:
            data = self._texts.get((kind, name, digest))
        if data is None:
            data = make().encode()
            with self._lock:
                while len(self._texts) >= _KEPT_TEXTS:
                    self._texts.pop(next(iter(self._texts)))
                self._texts[kind, name, digest] = data
        return Artifact(kind, name, Digest.of(data), len(data), text=data, media_type=_TEXTS[kind])

    def _audit_of(self, row: ModelRow) -> tuple[Path, Digest] | None:
        store = store_of(Path(row.path))
        digest = self._made.input_of(store, row.line, row.uid, "dataset_audit_report") if store else None
        return None if store is None or digest is None else (place_of(store, digest), digest)

    def _made_from(self, row: ModelRow, kind: str, stage: str) -> tuple[Made | None, str | None]:
        """What was made from exactly this model and is there, or why there is nothing."""
        store = store_of(Path(row.path))
        made = self._made.made_from(store, row.line, kind, row.uid) if store else None
        if store is None or made is None:
            if row.line == LINE and row.job_id:
                return None, f"not made yet; POST /api/models/{row.id}/export makes it"
            return None, f"not made of this model; materialize {row.line}/{stage} in Dagster"
        why = _absent(place_of(store, made.digest), "it is not on this machine any more; materialize it again")
        return (None, why) if why else (made, None)


def writes_text(row: ModelRow) -> bool:
    """Whether llama.cpp's format carries a model of this kind. A directory without a record may be of any kind."""
    try:
        return ModelDirectory(Path(row.path), row.uid).record.head == "causal-lm"
    except ForgeError:
        return True


def _audit_page(path: Path, digest: Digest, name: str) -> str:
    """The page that the audit wrote, or the one that its report gives."""
    from forge_pipeline.dataset_audit.artifacts import PAGE_FILE, DatasetAudit
    from forge_pipeline.dataset_audit.page import page

    written = path / PAGE_FILE
    if written.is_file():
        return written.read_text(encoding="utf-8")
    return page(DatasetAudit(path, digest).report, name)


def _directory(
    kind: ArtifactKind, name: str, path: Path, digest: Digest, size: int, folder: str, why: str | None
) -> Artifact:
    if why:
        return Artifact(kind, name, digest, size, why=why)
    return Artifact(kind, name, digest, size, path, folder=folder, media_type="application/zip")


def _store(row: ModelRow) -> Path:
    store = store_of(Path(row.path))
    assert store is not None
    return store


def _absent(path: Path, words: str) -> str | None:
    """Why an artefact's directory is not there."""
    if not path.is_dir():
        return words
    try:
        erased = read_tombstone(path)
    except IntegrityError:
        return words
    return f"it {erased.words}" if erased else None


def _subject_of(bundle: AnnexIvBundle) -> str | None:
    """The model that a bundle says it is about."""
    try:
        return str(bundle.manifest["subjects"]["fine_tuned_model"])
    except (OSError, IntegrityError, KeyError, TypeError):
        return None
