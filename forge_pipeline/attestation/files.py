"""The statements about one model line as files, for a bundle or a run's folder.

attestations/<asset>.provenance.dsse.json       envelope, where there is a key
attestations/<asset>.provenance.statement.json  the bare statement, where there is none
attestations/<model>.sig                        Sigstore bundle for model-signing, with an EC key
attestations/<model>.files.dsse.json            the same statement in an envelope, without one
attestations/packages.json                      name -> version of what was installed
attestations/ml-bom.cdx.json                    CycloneDX
attestations/index.json                         what is there, which key signed it, what was left out and why
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge_pipeline.attestation.dsse import envelope, unverified_payload, verify
from forge_pipeline.attestation.ml_bom import ml_bom
from forge_pipeline.attestation.model_facts import ModelFacts
from forge_pipeline.attestation.model_signature import model_signature, model_statement
from forge_pipeline.attestation.packages import licensed, packages_digest
from forge_pipeline.attestation.provenance import PROVENANCE_PREDICATE, provenance
from forge_pipeline.attestation.signing import SigningKeys, VerificationKey, key_id
from forge_pipeline.attestation.statement import Statement
from forge_pipeline.errors import EvidenceError, IntegrityError, OptionalDependencyError
from forge_pipeline.integrity import Digest, Manifest, canonical_json, json_digest, loads_strict

FOLDER = "attestations"
INDEX_NAME = f"{FOLDER}/index.json"
BOM_NAME = f"{FOLDER}/ml-bom.cdx.json"
PACKAGES_NAME = f"{FOLDER}/packages.json"

_WITHOUT_BASE_MODEL = ("recipe", "raw_dataset", "clean_dataset")
_BESIDE_THE_RECORD = ("dagster_timestamp",)  # what the history adds to a record after it was written


def bundle_files(
    model: ModelFacts,
    records: Iterable[Mapping[str, Any]],
    *,
    manifests: Iterable[Manifest],
    packages: Mapping[str, str],
    generated_at: str,
    keys: SigningKeys = SigningKeys(),  # noqa: B008  frozen
) -> dict[str, bytes]:
    """Every statement about the artefacts of `records`: file name -> bytes.

    Args:
        model: The model that is delivered.
        records: Materialization records as JSON values, one for each artefact.
        manifests: Of the artefacts at hand; their statements name every file, the others the artefact alone.
        packages: Name -> version of what was installed where the model was made.
        generated_at: ISO 8601 with a zone.
        keys: Without any, the statements are written unsigned, and the index says so.

    Raises:
        EvidenceError: No record is about the model, or about one of the artefacts at hand.
    """
    records, at_hand = list(records), {manifest.digest: manifest for manifest in (*manifests, model.manifest)}
    _check_recorded(model, records, at_hand)
    files, left_out = {PACKAGES_NAME: canonical_json(dict(packages))}, {}
    for record in records:
        name = _artefact_name(str(record.get("asset_key", "")))
        value = provenance(
            record,
            manifest=next((each for digest, each in at_hand.items() if digest == record.get("digest")), None),
            base_model=None if name.rpartition(".")[2] in _WITHOUT_BASE_MODEL else model.record.base_model,
            recipe=model.record.config_digest,
            record_digest=_record_digest(record),
        )
        _add(files, f"{name}.provenance", value, keys)
    _add_model_signature(files, model, keys)
    try:
        files[BOM_NAME] = canonical_json(ml_bom(model, licensed(packages), generated_at))
    except OptionalDependencyError as error:
        left_out[BOM_NAME] = str(error)
    files[INDEX_NAME] = canonical_json(_index(files, left_out, keys, packages))
    return dict(sorted(files.items()))


def _check_recorded(model: ModelFacts, records: Sequence[Mapping[str, Any]], at_hand: Iterable[Digest]) -> None:
    recorded = {(str(record.get("asset_key")), record.get("digest")) for record in records}
    if (model.asset_key, model.manifest.digest) not in recorded:
        raise EvidenceError(
            f"no materialization record is about {model.asset_key} {model.manifest.digest}; nothing is attested"
        )
    names = [_artefact_name(key) for key, _ in recorded]
    if len(set(names)) < len(records):
        raise EvidenceError(f"two records are about artefacts of the same name, of {', '.join(sorted(names))}")
    strangers = sorted(set(at_hand) - {digest for _, digest in recorded})
    if strangers:
        raise EvidenceError(f"no materialization record is about the artefact {strangers[0]}; nothing is attested")


def _artefact_name(asset_key: str) -> str:
    """An asset key without its line: ``raw_dataset``, or ``sft.raw_dataset`` of a stage of a pipeline."""
    return (asset_key.partition("/")[2] or asset_key).replace("/", ".")


def attested(files: Mapping[str, bytes]) -> tuple[dict[str, Any], ...]:
    """The fields of one ``bundle.attested`` event for each signed file of `bundle_files`, by name."""
    index = loads_strict(files[INDEX_NAME])
    names = ("subject", "predicate_type", "envelope_digest")
    return tuple({name: each[name] for name in names} for each in index["statements"] if each["signed"])


@dataclass(frozen=True)
class FilesResult:
    """What `verify_files` found.

    Attributes:
        problems: What does not hold, one sentence each.
        verified: Files whose signature and subject hold.
        not_checked: Files that nothing could be said about, each with the reason.
    """

    problems: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """No check failed. Says nothing of what is in `not_checked`."""
        return not self.problems


def verify_files(
    files: Mapping[str, bytes], public_keys: Iterable[VerificationKey], subjects: Mapping[str, Digest] | None = None
) -> FilesResult:
    """Verify what `bundle_files` wrote. Never raises for a negative.

    (1) the index is there, and every file that it names has the digest it names; (2) no statement
    lies beside them that the index does not name; (3) every signature is by one of `public_keys`;
    (4) every statement has the subject and predicate type that the index says;
    (5) each asset in `subjects` has provenance, about the digest given there.

    Args:
        files: Name -> bytes, as they were read back.
        public_keys: The keys that are trusted; without any, signatures are not checked and said to be so.
        subjects: Asset name -> digest of the artefact at hand.
    """
    keys, proven = tuple(public_keys), set()
    problems, verified, not_checked = [], [], []
    try:
        entries = {entry["file"]: entry for entry in loads_strict(files[INDEX_NAME])["statements"]}
    except (KeyError, TypeError, ValueError) as error:  # (1)
        return FilesResult((f"{INDEX_NAME} cannot be read: {error!r}",))
    statements = {name for name in files if _is_statement(name)}
    problems += [f"{name} is missing" for name in sorted(entries.keys() - statements)]
    problems += [f"{name} is not in the index" for name in sorted(statements - entries.keys())]  # (2)
    for name in sorted(entries.keys() & statements):
        entry = entries[name]
        if Digest.of(files[name]) != entry.get("envelope_digest"):
            problems.append(f"{name} changed: the index says {entry.get('envelope_digest')}")
            continue
        try:
            parsed = _opened(files[name], signed=bool(keys) and _is_signed(name), keys=keys)  # (3)
        except IntegrityError as error:
            problems.append(f"{name}: {error}")
            continue
        about, asset = parsed.subjects[0], _artefact_name(parsed.subjects[0].name)
        found = (about.name, about.digest, parsed.predicate_type)
        if found != (entry.get("subject_name"), entry.get("subject"), entry.get("predicate_type")):  # (4)
            problems.append(f"{name} is about {about.name} {about.digest}; the index says {entry.get('subject')}")
            continue
        if parsed.predicate_type == PROVENANCE_PREDICATE:
            proven.add(asset)
            if subjects and asset in subjects and about.digest != subjects[asset]:  # (5)
                problems.append(f"{name} is about {asset} {about.digest}; at hand is {subjects[asset]}")
                continue
        if not _is_signed(name):
            not_checked.append(f"{name} carries no signature")
        elif not keys:
            not_checked.append(f"{name}: no public key was given, so its signature was not checked")
        else:
            verified.append(name)
    problems += [f"no provenance is about {asset}" for asset in sorted(set(subjects or ()) - proven)]
    return FilesResult(tuple(problems), tuple(verified), tuple(not_checked))


def _opened(data: bytes, *, signed: bool, keys: tuple[VerificationKey, ...]) -> Statement:
    """The statement in a file; where `signed`, after its signature was checked with one of `keys`."""
    try:
        value = loads_strict(data)
    except ValueError as error:
        raise IntegrityError(f"not JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise IntegrityError("not a JSON object")
    inner = value.get("dsseEnvelope", value)
    if not isinstance(inner, Mapping):
        raise IntegrityError("dsseEnvelope is not a JSON object")
    if not signed:
        return Statement.parse(unverified_payload(inner)) if "payload" in inner else Statement.from_json(value)
    reasons = []
    for key in keys:
        try:
            return verify(inner, key)
        except IntegrityError as error:
            reasons.append(str(error))
    raise IntegrityError(reasons[0] if len(reasons) == 1 else f"none of {len(keys)} keys verifies it: {reasons[0]}")


def _is_signed(name: str) -> bool:
    return not name.endswith(".statement.json")


def _add(files: dict[str, bytes], stem: str, value: dict[str, Any], keys: SigningKeys) -> None:
    if keys.statements is None:
        files[f"{FOLDER}/{stem}.statement.json"] = canonical_json(value)
    else:
        files[f"{FOLDER}/{stem}.dsse.json"] = canonical_json(envelope(value, keys.statements))


def _add_model_signature(files: dict[str, bytes], model: ModelFacts, keys: SigningKeys) -> None:
    name = _artefact_name(model.asset_key)
    if keys.model is not None:
        files[f"{FOLDER}/{name}.sig"] = canonical_json(model_signature(name, model.manifest, keys.model))
    else:
        _add(files, f"{name}.files", model_statement(name, model.manifest), keys)


def _index(
    files: Mapping[str, bytes], left_out: Mapping[str, str], keys: SigningKeys, packages: Mapping[str, str]
) -> dict[str, Any]:
    statements = [_entry(name, data, keys) for name, data in sorted(files.items()) if _is_statement(name)]
    unsigned = [entry["file"] for entry in statements if not entry["signed"]]
    note = "every statement is signed" if not unsigned else "statements without a signature prove nothing by themselves"
    return {
        "statements": statements,
        "unsigned": unsigned,
        "note": note,
        "left_out": dict(left_out),
        "packages_digest": packages_digest(packages),
    }


def _is_statement(name: str) -> bool:
    return name.endswith((".dsse.json", ".statement.json", ".sig"))


def _entry(name: str, data: bytes, keys: SigningKeys) -> dict[str, Any]:
    signed = _is_signed(name)
    statement = _opened(data, signed=False, keys=())
    key = keys.model if name.endswith(".sig") else keys.statements
    return {
        "file": name,
        "subject": statement.digest,
        "subject_name": statement.subjects[0].name,
        "predicate_type": statement.predicate_type,
        "signed": signed,
        "key": key_id(key) if signed and key is not None else None,
        "envelope_digest": Digest.of(data),
    }


def _record_digest(record: Mapping[str, Any]) -> Digest | None:
    """Under which the store keeps it; None for what is no whole record."""
    if "previous" not in record:
        return None
    return json_digest({name: value for name, value in record.items() if name not in _BESIDE_THE_RECORD})
