"""The register of erased training data: which datasets lost rows to an erasure, and which models were made from them.

One JSON line a request in ``FORGE_HOME/erasure/register.jsonl``, digests only, so it says nothing about the person. A
model whose dataset is named is not released, and its check `trained_on_erased_data` fails, until it is trained again
on other data: a dataset without the rows has another digest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_pipeline.erasure.places import ERASURE
from forge_pipeline.errors import GateFailedError, IntegrityError
from forge_pipeline.integrity import Digest, atomic, canonical_json, loads_strict

REGISTER_FILE = "register.jsonl"


@dataclass(frozen=True)
class ErasedData:
    """What one request took out.

    Attributes:
        request: Digest of the request.
        erased_at: ISO 8601, UTC.
        log_id, seq: The entry of the erasure log with the request.
        datasets: Artefacts that held rows of the person, or were made from such.
        models: Artefacts of models downstream.
    """

    request: Digest
    erased_at: str
    log_id: str
    seq: int
    datasets: tuple[Digest, ...]
    models: tuple[Digest, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "erased_at": self.erased_at,
            "log_id": self.log_id,
            "seq": self.seq,
            "datasets": list(self.datasets),
            "models": list(self.models),
        }

    @classmethod
    def from_json(cls, values: Any) -> "ErasedData":
        """Raises ValueError, KeyError or TypeError for what is none."""
        digests = {name: tuple(Digest(each) for each in values[name]) for name in ("datasets", "models")}
        return cls(Digest(values["request"]), values["erased_at"], values["log_id"], int(values["seq"]), **digests)


def read_register(home: Path) -> tuple[ErasedData, ...]:
    """The register of a FORGE_HOME, oldest first; empty where nothing was ever erased.

    Raises:
        IntegrityError: A line is not one of its lines. Nothing is released on a register that cannot be read.
    """
    path = home / ERASURE / REGISTER_FILE
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(ErasedData.from_json(loads_strict(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{path}: line {number} is no line of the register of erased data ({error}); restore it from a copy, "
                "or write it again from the entries data.erasure_completed of the erasure log"
            ) from error
    return tuple(entries)


def add_to_register(home: Path, entry: ErasedData) -> None:
    """Append a line, unless the request has one already; on return it is on the disk."""
    known = read_register(home)
    if all(each.request != entry.request for each in known):
        data = b"".join(canonical_json(each.to_json()) + b"\n" for each in (*known, entry))
        atomic.write_file(home / ERASURE / REGISTER_FILE, data)


def erased_behind(
    home: Path, dataset_digest: Digest, model_digest: Digest | None = None, *, inputs: tuple[Digest, ...] = ()
) -> tuple[ErasedData, ...]:
    """The erasures that concern a model.

    Args:
        dataset_digest: The rows it was trained on, as its record names them.
        model_digest: The model itself.
        inputs: Whatever else it was made from.
    """
    made_from = {dataset_digest, *inputs}
    return tuple(each for each in read_register(home) if made_from & set(each.datasets) or model_digest in each.models)


def check_not_trained_on_erased(home: Path, dataset_digest: Digest, model_digest: Digest | None = None) -> None:
    """Refuse to release a model that was trained on data erased since.

    Raises:
        GateFailedError: Naming the erasures, and what to do.
        IntegrityError: The register cannot be read.
    """
    found = erased_behind(home, dataset_digest, model_digest)
    if found:
        raise GateFailedError(explanation(found))


def explanation(found: tuple[ErasedData, ...]) -> str:
    """Why a model is refused, in a sentence."""
    last = found[-1]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"trained on data that was erased since (request {last.request.short}, {last.erased_at[:10]}, entry {last.seq} "
        f"of log {last.log_id}{more}); materialize its dataset again, which leaves the person out, and train it again"
    )
