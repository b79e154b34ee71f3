"""What was made of a model, as the store's materialization records say.

``<store>/sha256/<2 hex>/<64 hex>/`` holds an artefact, ``<store>/records/<line>/<64 hex>.json`` says what one was
made from. Records never change, so each is read once. A record whose bytes are not its name's, or that is none, is
passed over: it proves nothing.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.integrity import Digest, loads_strict

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """One materialization.

    Attributes:
        kind: Class of the artefact: ``ModelDirectory``, ``GgufModel``, ``AnnexIvBundle``, ``DatasetAudit``.
        inputs: Asset key -> digest of what it was made from.
    """

    asset_key: str
    kind: str
    digest: Digest
    inputs: Mapping[str, Digest]
    recorded_at: str

    @property
    def stage(self) -> str:
        return self.asset_key.rpartition("/")[2]


class Materializations:
    """The records of the stores that models lie in. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[Path, Made | None] = {}

    def of_line(self, store: Path, line: str) -> tuple[Made, ...]:
        """Every materialization of a line, the newest first."""
        found = [made for path in (store / "records" / line).glob("*.json") if (made := self._record(path)) is not None]
        return tuple(sorted(found, key=lambda made: made.recorded_at, reverse=True))

    def made_from(self, store: Path, line: str, kind: str, model: Digest) -> Made | None:
        """The newest artefact of `kind` that was made from exactly `model`."""
        made = (each for each in self.of_line(store, line) if each.kind == kind)
        return next((each for each in made if model in _inputs(each, "fine_tuned_model")), None)

    def input_of(self, store: Path, line: str, model: Digest, stage: str) -> Digest | None:
        """What the stage `stage` had made when exactly `model` was trained."""
        trained = (each for each in self.of_line(store, line) if each.digest == model and each.kind == "ModelDirectory")
        return next((digest for each in trained for digest in _inputs(each, stage)), None)

    def _record(self, path: Path) -> Made | None:
        with self._lock:
            if path in self._read:
                return self._read[path]
        made = _read(path)
        with self._lock:
            self._read[path] = made
        return made


def store_of(path: Path) -> Path | None:
    """The store that an artefact's directory lies in; None for one that lies in none."""
    parents = path.parents
    return parents[2] if len(parents) > 2 and parents[1].name == "sha256" else None


def place_of(store: Path, digest: Digest) -> Path:
    """Where an artefact lies, or would lie."""
    return store / "sha256" / digest.hex[:2] / digest.hex


def _inputs(made: Made, stage: str) -> Iterator[Digest]:
    return (digest for key, digest in made.inputs.items() if key.rpartition("/")[2] == stage)


def _read(path: Path) -> Made | None:
    try:
        data = path.read_bytes()
        if Digest.of(data).hex != path.stem:
            raise ValueError("its bytes are not those that its name says")
        record = loads_strict(data)
        inputs = {str(key): Digest(value) for key, value in record["inputs"].items()}
        return Made(
            str(record["asset_key"]), str(record["artifact_type"]), Digest(record["digest"]), inputs,
            str(record["recorded_at"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s is no materialization record: %s", path, error)
        return None
