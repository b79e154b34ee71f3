"""Is this GGUF file whole, and does it hold what its architecture and tokenizer need?

`verify_gguf` answers in seven steps, and stops at the first that fails:

    (1) header     well-formed, by the rules of `gguf_reader`
    (2) metadata   the keys that the architecture needs are there, of the right kind, finite
    (3) tensors    the catalogue is the architecture's, for every block, with matching shapes
    (4) tokenizer  lists of equal length, one embedding row a token, merges and special ids resolve
    (5) values     no NaN or infinity in float tensors, nor in the scales of quantized blocks
    (6) checksum   the digest in ``<file>.sha256``, where there is one
    (7) record     the digest stands in the audit log that was given, or in a listing that the log names; and
                   what the file says of the log at that time is a beginning of it

An adapter's file (``general.type`` ``adapter``) has pairs of matrices for tensors and no tokenizer, and is held
against what that needs.

The first five are about form: a file that passes loads and is what it says it is. A changed weight is
as well-formed as the weight before it; only (7) finds it. A checksum beside the file shows damage, and
proves nothing against somebody who can write both. That a file still answers like the model it was made
from is `fidelity`'s question. The chat template is neither rendered nor parsed here: templates are
programs, so run them in a sandbox only (CVE-2024-34359).
"""

import math
import os
import re
import stat
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.audit_log import Anchor, verify_audit_log
from forge_pipeline.errors import IntegrityError
from forge_pipeline.export.architectures import CATALOGUES, EXPERT_CATALOGUES, Catalogue
from forge_pipeline.export.gguf_reader import GgufFormatError, GgufHeader, Tensor, Value, read_gguf
from forge_pipeline.export.result import EXPORT_REPORT_FILE
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry, loads_strict
from forge_pipeline.models.recorded import RecordedArtifacts

STEPS = ("header", "metadata", "tensors", "tokenizer", "values")
CHECKSUM_SUFFIX = ".sha256"

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MOST_LISTED = 1 << 26  # bytes of a listing
_CHUNK = 1 << 24  # bytes of tensor data scanned at once


@dataclass(frozen=True)
class VerifyGgufResult:
    """The answer of `verify_gguf`.

    Attributes:
        valid: Whether every step passed.
        reason: Which step failed and how, in a sentence; None for a valid file.
        checks: JSON-safe findings: ``header``, ``metadata``, ``tensors``, ``tokenizer`` and ``values``
            are "passed", "failed", "not run" or, where there is nothing to hold the file against,
            "not checked: <why>", and so are ``checksum`` and ``record``; beside them digest, size,
            architecture, file_type, tensor_types (type to count), bits_per_weight, parameters,
            block_count, vocabulary, and with an audit log ``recorded``: log_id, seq and what names the file.
    """

    valid: bool
    reason: str | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)


class _Refused(Exception):
    """A step found a fault; the message is the reason."""


def verify_gguf(
    path: str | Path, *, audit_log: str | Path | None = None, listing: str | Path | None = None
) -> VerifyGgufResult:
    """Check a GGUF file. A bad file is an answer, not an exception.

    Args:
        audit_log: The line's audit log. It must verify, and name the file: by its own digest, or by the digest of
            a manifest that lists it. Such a manifest is made of the directory that the file lies in, if that holds
            an ``export_report.json``, or read from `listing`.
        listing: JSON of one manifest (an array of path, size and digest) or of several by name, as a bundle has
            them in ``evidence/manifests.json``. Without an audit log nothing vouches for it, and it is not read.

    Raises:
        OSError: A file cannot be read, or `path` is not a regular file.
        OptionalDependencyError: numpy, which scans the values, is not installed.
    """
    require("numpy", extra="export", purpose="GGUF checks")
    path = Path(path)
    before = _state(path)
    checks: dict[str, Any] = dict.fromkeys((*STEPS, "checksum", "record"), "not run")
    digest = Digest.of_file(path)
    checks |= {"digest": str(digest), "size": before[2]}
    step = "header"
    try:
        header = read_gguf(path)
        checks |= {step: "passed"} | _description(header)
        for step, check in (
            ("metadata", _check_metadata),
            ("tensors", _check_tensors),
            ("tokenizer", _check_tokenizer),
        ):
            checks[step] = check(header) or "passed"
        step = "values"
        _check_values(path, header)
        checks[step] = "passed"
        step = "checksum"
        checks[step] = _check_checksum(path, digest) or "passed"
        step = "record"
        if audit_log is None:
            checks[step] = "not checked: no audit log was given, so nothing says that these bytes were exported"
        else:
            checks["recorded"] = _check_record(path, digest, Path(audit_log), listing)
            _check_claim(header, Path(audit_log))
            checks[step] = "passed"
        if _state(path) != before:
            raise _Refused("the file was changed while it was read")
    except (GgufFormatError, _Refused) as fault:
        checks[step] = "failed"
        return VerifyGgufResult(False, f"{step}: {fault}", checks)
    return VerifyGgufResult(True, None, checks)


def tensor_types(header: GgufHeader) -> dict[str, int]:
    """How many tensors there are of each type, by name: what a file really is, whatever its label says."""
    return dict(sorted(Counter(tensor.type.name for tensor in header.tensors).items()))


def bits_per_weight(header: GgufHeader) -> float:
    """Bits of tensor data per element; 0.0 without tensors."""
    elements = sum(tensor.elements for tensor in header.tensors)
    return 8 * sum(tensor.size for tensor in header.tensors) / elements if elements else 0.0


def _description(header: GgufHeader) -> dict[str, Any]:
    metadata = header.metadata
    tokens = metadata.get("tokenizer.ggml.tokens")
    architecture = metadata.get("general.architecture")
    return {
        "version": header.version,
        "architecture": architecture[:64] if isinstance(architecture, str) else None,
        "file_type": _integer_or_none(metadata.get("general.file_type")),
        "tensor_count": len(header.tensors),
        "tensor_types": tensor_types(header),
        "bits_per_weight": round(bits_per_weight(header), 4),
        "parameters": sum(tensor.elements for tensor in header.tensors),
        "block_count": _integer_or_none(metadata.get(f"{architecture}.block_count") if architecture else None),
        "vocabulary": len(tokens) if isinstance(tokens, list) else None,
        "chat_template": isinstance(metadata.get("tokenizer.chat_template"), str),
        "provenance": {
            key: value
            for key, value in metadata.items()
            if key.startswith("forge.") and isinstance(value, str) and len(key) + len(value) < 1000
        },
    }


# (2) metadata


def _check_metadata(header: GgufHeader) -> str | None:
    for key, value in header.metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused(f"{key[:80]} is {value}")
        if isinstance(value, array) and value.typecode in "fd" and not all(map(math.isfinite, value)):
            raise _Refused(f"{key[:80]} holds a value that is not finite")
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise _Refused("general.architecture is missing or not a string")
    if not _ARCHITECTURE.fullmatch(architecture):
        raise _Refused(f"general.architecture is {architecture[:64]!r}, which is no architecture's name")
    if _is_adapter(header):
        _check_adapter_metadata(header)
        return None
    _positive(header, f"{architecture}.block_count")
    catalogue = _catalogue(header)
    if catalogue is None:
        return f"not checked: the keys of architecture {architecture!r} are not known to this version"
    for name in catalogue.positive_integers:
        _positive(header, f"{architecture}.{name}")
    for name in catalogue.floats:
        number = header.metadata.get(f"{architecture}.{name}")
        if not isinstance(number, float) or number <= 0:
            raise _Refused(f"{architecture}.{name} is {_shown(number)}; expected a positive float")
    return None


def _is_adapter(header: GgufHeader) -> bool:
    return header.metadata.get("general.type") == "adapter"


def _check_adapter_metadata(header: GgufHeader) -> None:
    kind, alpha = header.metadata.get("adapter.type"), header.metadata.get("adapter.lora.alpha")
    if kind != "lora":
        raise _Refused(f"adapter.type is {_shown(kind)}; expected 'lora'")
    if not isinstance(alpha, float) or alpha <= 0:
        raise _Refused(f"adapter.lora.alpha is {_shown(alpha)}; expected a positive float")


def _catalogue(header: GgufHeader) -> Catalogue | None:
    """What the file's architecture needs; None where that is not known."""
    architecture = header.metadata["general.architecture"]
    mixture = f"{architecture}.expert_count" in header.metadata
    return (EXPERT_CATALOGUES if mixture else CATALOGUES).get(str(architecture))


def _positive(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise _Refused(f"{key} is {_shown(value)}; expected a positive integer")
    return value


# (3) tensors


def _check_tensors(header: GgufHeader) -> str | None:
    architecture = str(header.metadata["general.architecture"])
    if _is_adapter(header):
        return _check_pairs(header, CATALOGUES.get(architecture))
    blocks = _positive(header, f"{architecture}.block_count")
    found = {tensor.name: tensor for tensor in header.tensors}
    numbers = {int(part) for name in found if name.startswith("blk.") and (part := name.split(".")[1]).isdecimal()}
    if numbers and (len(numbers) != blocks or max(numbers) != blocks - 1):
        raise _Refused(f"{architecture}.block_count is {blocks}, but tensors belong to {_ranges(numbers)}")
    catalogue = _catalogue(header)
    if catalogue is None:
        return f"not checked: the tensors of architecture {architecture!r} are not known to this version"
    for name in catalogue.required_names(blocks):
        if name not in found:
            raise _Refused(f"tensor {name} is missing")
    strangers = sorted(set(found) - set(catalogue.all_names(blocks)))
    if strangers:
        raise _Refused(f"tensor {strangers[0]} does not belong to architecture {architecture}")
    _check_shapes(header, catalogue, found)
    return None


def _check_pairs(header: GgufHeader, catalogue: Catalogue | None) -> str | None:
    """An adapter's tensors: halves of pairs that agree in rank, each for a matrix of the architecture."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in header.tensors:
        name, _, half = tensor.name.rpartition(".")
        if half not in ("lora_a", "lora_b") or len(tensor.dims) != 2:
            raise _Refused(f"tensor {tensor.name} of dimensions {tensor.dims} is no half of a pair of matrices")
        found.setdefault(name, {})[half] = tensor.dims
    if not found:
        raise _Refused("the adapter holds no tensors")
    for name, halves in found.items():
        if len(halves) != 2:
            raise _Refused(f"{name} has {next(iter(halves))} alone")
        rank = halves["lora_a"][0 if name == "token_embd.weight" else 1]
        if rank != halves["lora_b"][0]:
            raise _Refused(f"the halves of {name} differ in rank: {halves['lora_a']} and {halves['lora_b']}")
        if catalogue is not None and len(catalogue.named(name)) != 2:
            raise _Refused(f"{name} is no matrix of architecture {header.metadata['general.architecture']}")
    return None if catalogue is not None else "not checked: the architecture's tensors are not known to this version"


def _check_shapes(header: GgufHeader, catalogue: Catalogue, found: Mapping[str, Tensor]) -> None:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    rows = len(tokens) if isinstance(tokens, list) else found["token_embd.weight"].dims[-1]
    sizes = catalogue.sizes(header.metadata) | {"vocabulary": rows}
    for name, tensor in found.items():
        expected = catalogue.dims(name, sizes)
        if expected is not None and tensor.dims != expected:
            raise _Refused(f"tensor {name} has dimensions {tensor.dims}; the metadata say {expected}")


def _ranges(numbers: set[int]) -> str:
    return f"{len(numbers)} blocks, {min(numbers)} to {max(numbers)}"


# (4) tokenizer


def _check_tokenizer(header: GgufHeader) -> str | None:
    metadata = header.metadata
    if _is_adapter(header):
        return None  # its tokenizer is its base's
    model = metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str):
        raise _Refused("tokenizer.ggml.model is missing")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise _Refused("tokenizer.ggml.tokens is missing, empty or not a list of strings")
    for key in ("token_type", "scores"):
        values = metadata.get(f"tokenizer.ggml.{key}")
        if values is not None and (not isinstance(values, list | array) or len(values) != len(tokens)):
            raise _Refused(f"tokenizer.ggml.{key} does not have one entry for each of the {len(tokens)} tokens")
    types = metadata.get("tokenizer.ggml.token_type")
    if types is not None and not all(isinstance(kind, int) and 1 <= kind <= 6 for kind in _items(types)):
        raise _Refused("tokenizer.ggml.token_type holds a value outside 1 to 6")
    _check_merges(model, [str(token) for token in tokens], metadata.get("tokenizer.ggml.merges"))
    for key, value in metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            in_range = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(tokens)
            if not in_range:
                raise _Refused(f"{key[:80]} is {_shown(value)}; expected 0 to {len(tokens) - 1}")
    return None


def _check_merges(model: str, tokens: Sequence[str], merges: Value | None) -> None:
    if model != "gpt2":
        return
    if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
        raise _Refused("tokenizer.ggml.merges, which a gpt2 (byte-level BPE) tokenizer needs, is missing")
    known = set(tokens)
    for index, merge in enumerate(merges):
        # A space separates the halves; byte-level BPE writes blanks inside tokens as U+0120.
        left, space, right = str(merge).partition(" ")
        if not (left and space and right) or left not in known or right not in known or left + right not in known:
            raise _Refused(f"tokenizer.ggml.merges[{index}] {str(merge)[:80]!r} does not join two tokens into a third")


def _items(value: Value) -> Iterator[Any]:
    return iter(value) if isinstance(value, list | array) else iter([None])


# (5) values


def _check_values(path: Path, header: GgufHeader) -> None:
    with path.open("rb") as file:
        for tensor in header.tensors:
            bad = _non_finite(file, tensor)
            if bad:
                what = "blocks with a NaN or infinite scale" if tensor.type.scales else "NaN or infinite values"
                raise _Refused(f"tensor {tensor.name} ({tensor.type.name}) holds {bad} {what}")


def _non_finite(file: Any, tensor: Tensor) -> int:
    """Values (float types) or blocks (quantized types) that are not finite; 0 for types without either."""
    import numpy as np

    kind = tensor.type
    floats: dict[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}
    file.seek(tensor.offset)
    left, bad = tensor.size, 0
    step = _CHUNK // kind.size * kind.size
    while left > 0 and (kind.scales or kind.name in floats or kind.name == "BF16"):
        data = file.read(min(left, step))
        left -= len(data)
        if kind.name in floats:
            bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(data, floats[kind.name]))))
        elif kind.name == "BF16":
            # An exponent of all ones is infinity or NaN, as in f32, whose upper half this is.
            bad += int(np.count_nonzero((np.frombuffer(data, "<u2") & 0x7F80) == 0x7F80))
        else:
            blocks = np.frombuffer(data, np.uint8).reshape(-1, kind.size)
            scales = np.concatenate([blocks[:, at : at + 2] for at in kind.scales], axis=1)
            finite = np.isfinite(np.ascontiguousarray(scales).view("<f2"))
            bad += int(np.count_nonzero(~finite.all(axis=1)))
    return bad


# (6) checksum


def _check_checksum(path: Path, digest: Digest) -> str | None:
    sidecar = path.with_name(path.name + CHECKSUM_SUFFIX)
    if not sidecar.is_file():
        return f"not checked: there is no {sidecar.name}"
    with sidecar.open("rb") as file:
        text = file.read(4096).decode("utf-8", "replace").split()
    stated = text[0].removeprefix("sha256:").lower() if text else ""
    if not re.fullmatch("[0-9a-f]{64}", stated):
        raise _Refused(f"{sidecar.name} does not begin with 64 hex digits")
    if stated != digest.hex:
        raise _Refused(f"{sidecar.name} says {stated}; the file has {digest.hex}")
    return None


# (7) record


def _check_record(path: Path, digest: Digest, log: Path, listing: str | Path | None) -> dict[str, Any]:
    """What in the log names the file: log_id, seq, and by which digest."""
    recorded = RecordedArtifacts.read(log)
    if not recorded.log.valid:
        raise _Refused(f"the audit log {log.name} does not verify: {recorded.log.reason}")
    found = {"log_id": recorded.log.log_id, "assurance": recorded.log.assurance}
    if digest in recorded.entries:
        return {**found, "seq": recorded.entries[digest], "by": "the digest of the file", "digest": str(digest)}
    for name, manifest in _manifests(path, listing):
        named = any(entry.digest == digest for entry in manifest.entries)
        if named and manifest.digest in recorded.entries:
            seq = recorded.entries[manifest.digest]
            return {**found, "seq": seq, "by": f"the manifest of {name}", "digest": str(manifest.digest)}
    looked = f"{len(recorded.entries)} artefacts of the log {recorded.log.log_id}"
    raise _Refused(f"{digest} stands in none of the {looked}, nor in a manifest at hand that it names")


def _check_claim(header: GgufHeader, log: Path) -> None:
    """What the file says of the log it was made under (``forge.log_id``, ``.log_size``, ``.log_root``), if it does."""
    log_id, size, root = (header.metadata.get(f"forge.log_{part}") for part in ("id", "size", "root"))
    if (log_id, size, root) == (None, None, None):
        return
    try:
        anchor = Anchor(str(log_id), int(str(size)), Digest(str(root)))
    except ValueError as error:
        raise _Refused(f"the file names the log it was made under by {size!r} entries and root {root!r}") from error
    found = verify_audit_log(log, checkpoint=anchor)
    if not found.valid:
        raise _Refused(f"the file says that the log had {size} entries and the root {root}: {found.reason}")


def _manifests(path: Path, listing: str | Path | None) -> Iterator[tuple[str, Manifest]]:
    """Listings that may name the file; whether the log knows them is the caller's to ask."""
    if (path.parent / EXPORT_REPORT_FILE).is_file():
        try:
            yield "the directory that it lies in", Manifest.of_directory(path.parent)
        except IntegrityError as error:
            raise _Refused(str(error)) from error
    if listing is None:
        return
    with Path(listing).open("rb") as file:
        data = file.read(_MOST_LISTED + 1)
    try:
        if len(data) > _MOST_LISTED:
            raise ValueError(f"more than {_MOST_LISTED} bytes")
        value = loads_strict(data)
        for name, entries in (value if isinstance(value, dict) else {Path(listing).name: value}).items():
            rows = entries["entries"] if isinstance(entries, dict) else entries
            yield name, Manifest(tuple(sorted(_listed(row) for row in rows)))
    except (ValueError, LookupError, TypeError) as error:
        raise _Refused(f"{listing} is not a listing of files: {error}") from error


def _listed(row: Mapping[str, Any]) -> ManifestEntry:
    return ManifestEntry(str(row["path"]), int(row["size"]), Digest(str(row["digest"])))


def _state(path: Path) -> tuple[int, int, int, int]:
    """What changes when somebody writes to the file, or puts another in its place."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a directory; expected a GGUF file")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is not a regular file; expected a GGUF file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _integer_or_none(value: Value | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: Value | None) -> str:
    if value is None:
        return "missing"
    return f"{value!r}"[:80] if isinstance(value, str | int | float) else f"a list of {len(value)}"
