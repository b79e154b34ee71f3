"""Verify evidence. Exit code 0 if every check held, 6 if one did not, 1 if there is nothing to verify."""

import argparse
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forge_pipeline.cli.exit_codes import INTEGRITY, SUCCESS, WRONG_INPUT
from forge_pipeline.cli.output import add_json_option, emit

SCHEMA = "forge-pipeline/verify/1"
_MOST_UNPACKED = 2**30  # bytes; a bundle is far smaller
_MOST_READ = 2**27  # bytes of an attestation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    log = kinds.add_parser("log", help="an audit log")
    log.add_argument("path", help="audit_log.jsonl")
    log.add_argument("--require-hmac", action="store_true", help="the log must carry tags of FORGE_AUDIT_SECRET")
    log.add_argument("--public-key", metavar="PEM", help="the log must be signed with this Ed25519 key")
    log.add_argument("--checkpoint", metavar="FILE", action="append", default=[], help="a checkpoint kept elsewhere")
    log.add_argument("--expected-log-id", "--log-id", metavar="ID", dest="log_id", help="the log that is meant")
    log.set_defaults(verify=_verify_log)
    for kind, words in (("annex-iv", "a bundle, by its annex_iv.json"), ("bundle", "a bundle: directory or ZIP")):
        bundle = kinds.add_parser(kind, help=words)
        bundle.add_argument("path", help="annex_iv.json, the bundle's directory, or its ZIP")
        bundle.add_argument("--manifest-hash", metavar="DIGEST", help="the hash as it was kept elsewhere")
        bundle.add_argument("--audit-log", "--log", metavar="FILE", dest="audit_log", help="the line's own audit log")
        bundle.set_defaults(verify=_verify_bundle)
    gguf = kinds.add_parser("gguf", help="a GGUF file")
    gguf.add_argument("path")
    gguf.add_argument("--digest", help="the digest as it was recorded")
    gguf.add_argument("--audit-log", metavar="FILE", help="the line's audit log, which must name the file")
    gguf.add_argument("--listing", metavar="FILE", help="a manifest that names the file and that the log names")
    gguf.set_defaults(verify=_verify_gguf)
    integrity = kinds.add_parser("integrity", help="a directory: model, artefact or bundle, file by file")
    integrity.add_argument("path", help="the directory")
    integrity.add_argument("--listing", metavar="FILE", help="manifest, bundle, in-toto statement or model signature")
    integrity.add_argument("--digest", help="the digest as it was kept elsewhere")
    integrity.add_argument("--audit-log", metavar="FILE", help="the line's audit log, which must name the directory")
    integrity.add_argument("--public-key", metavar="PEM", help="the listing must be signed with this key")
    exported_help = "a GGUF file or directory that the bundle or listing names; may be given repeatedly"
    integrity.add_argument("--exported", metavar="PATH", action="append", default=[], help=exported_help)
    integrity.set_defaults(verify=_verify_integrity)
    attestation = kinds.add_parser("attestation", help="a signed statement: DSSE envelope or model signature")
    attestation.add_argument("path", help="the envelope (.dsse.json) or Sigstore bundle (.sig)")
    attestation.add_argument("--public-key", metavar="PEM", required=True, help="the key that must have signed it")
    attestation.add_argument("--directory", metavar="DIR", help="the files that the statement is about")
    attestation.add_argument("--predicate-type", metavar="URI", help="the kind of claim that is expected")
    attestation.set_defaults(verify=_verify_attestation)
    model = kinds.add_parser("model", help="a model directory, by its digest")
    model.add_argument("path")
    model.add_argument("--digest", help="the digest as it was recorded; else the registry is asked")
    model.set_defaults(verify=_verify_model)
    again = kinds.add_parser("reproduce", help="a model, by training its first updates again")
    again.add_argument("path", help="the directory that the fine-tune wrote")
    again.add_argument("--recipe", required=True, metavar="FILE", help="the recipe that made it: YAML, or recipe.json")
    again.add_argument("--data", required=True, metavar="DIR", help="the tokenized dataset that it was made from")
    again.add_argument("--steps", type=int, metavar="K", help="updates to make; default: the last recorded up to 16")
    again.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    again.set_defaults(verify=_verify_by_training)
    for each in kinds.choices.values():
        add_json_option(each)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.errors import ConfigError

    try:
        code: int = args.verify(args)
    except BrokenPipeError:
        raise
    except OSError as error:  # also one that cannot be read: nothing was compared, so nothing disagreed
        raise ConfigError(f"cannot be verified: {error}") from error
    return code


def _verify_log(args: argparse.Namespace) -> int:
    from forge_pipeline.audit_log import FailureKind, verify_audit_log
    from forge_pipeline.errors import ConfigError

    try:
        checkpoints = [Path(name).read_text("utf-8") for name in args.checkpoint]
    except UnicodeDecodeError as error:
        raise ConfigError(f"a checkpoint is not text: {error}") from error
    result = verify_audit_log(
        args.path,
        require_hmac=args.require_hmac,
        public_key=args.public_key,
        checkpoint=checkpoints,
        expected_log_id=args.log_id,
    )
    facts = {
        "entries": result.entries_count,
        "log id": result.log_id,
        "root": result.root,
        "chain head": result.chain_head,
        "line": result.first_invalid_index,
        "openings": result.openings,
        "redacted": result.redacted_openings,
    }
    checks = [f"({each.number}) {each.outcome.replace('_', ' ')}: {each.name}: {each.detail}" for each in result.checks]
    code = _say(args, asdict(result), facts, checks)
    return WRONG_INPUT if result.failure is FailureKind.USAGE else code


def _verify_bundle(args: argparse.Namespace) -> int:
    from forge_pipeline.annex_iv import verify_annex_iv_artifact
    from forge_pipeline.errors import ConfigError

    with _manifest_of(Path(args.path)) as manifest:
        try:
            result = verify_annex_iv_artifact(
                str(manifest), expected_manifest_hash=args.manifest_hash, audit_log=args.audit_log
            )
        except ValueError as error:
            raise ConfigError(f"{args.path}: not a bundle's manifest: {error}") from error
    missing = f"no: {len(result.missing_fields)} points say nothing: {', '.join(result.missing_fields)}"
    facts = {
        "valid": "yes: the bytes are what they were" if result.valid else "no: the bytes are not what they were",
        "complete": missing if result.missing_fields else "yes" if result.complete else "not said of an invalid bundle",
        "manifest hash": result.manifest_hash_actual,
    }
    return _say(args, asdict(result), facts)


def _verify_gguf(args: argparse.Namespace) -> int:
    from forge_pipeline.export import verify_gguf

    result = verify_gguf(args.path, audit_log=args.audit_log, listing=args.listing)
    digest, valid, reason = result.checks["digest"], result.valid, result.reason
    if valid and args.digest and digest != args.digest:
        valid, reason = False, f"the file is {digest}; expected {args.digest}"
    gaps = [f"{step}: {text[13:]}" for step, text in result.checks.items() if str(text).startswith("not checked: ")]
    if args.digest:
        gaps = [gap for gap in gaps if not gap.startswith("record: ")]
    document = {
        "valid": valid,
        "reason": reason,
        "digest": digest,
        "checks": dict(result.checks),
        "assurance": _assurance_of_gguf(args, result.checks) if valid else None,
        "not_checked": gaps,
    }
    return _say(args, document, {name: value for name, value in result.checks.items() if _is_short(value)})


def _assurance_of_gguf(args: argparse.Namespace, checks: Mapping[str, Any]) -> str:
    if checks.get("record") == "passed":
        return "logged"
    return "kept" if args.digest else "form"


def _verify_integrity(args: argparse.Namespace) -> int:
    from forge_pipeline.errors import ConfigError
    from forge_pipeline.verification import verify_integrity

    _check_public_key(args.public_key)
    if args.public_key and not args.listing:
        raise ConfigError("--public-key is about the signature of a listing; give --listing too")
    result = verify_integrity(
        args.path,
        listing=args.listing,
        expected_digest=args.digest,
        audit_log=args.audit_log,
        public_key=args.public_key,
        exported=args.exported,
    )
    facts: dict[str, Any] = {"kind": result.kind, "digest": result.digest}
    for name in ("changed", "removed", "added", "links", "pickles"):
        facts[name] = ", ".join(getattr(result, name)) or None
    compared = [f"compared with {each}" for each in result.compared_with]
    code = _say(args, asdict(result), facts, compared)
    return code if result.compared_with or result.links or result.pickles else WRONG_INPUT


def _verify_attestation(args: argparse.Namespace) -> int:
    from forge_pipeline.errors import ConfigError, IntegrityError
    from forge_pipeline.integrity import loads_strict

    _check_public_key(args.public_key)
    with Path(args.path).open("rb") as file:
        data = file.read(_MOST_READ + 1)
    try:
        envelope = loads_strict(data)
        if not isinstance(envelope, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise ConfigError(f"{args.path}: not an attestation: {error}") from error
    facts: dict[str, Any] = {}
    problems: list[str] = []
    try:
        facts, problems = _attested(args, envelope)
    except IntegrityError as error:
        problems = [str(error)]
    gaps = [] if args.directory else ["whether the files are still those of the statement: no --directory was given"]
    gaps.append("whose key it is: that must be known from elsewhere")
    document = {
        "valid": not problems,
        "reason": "; ".join(problems) or None,
        **facts,
        "assurance": None if problems else "signed",
        "not_checked": gaps,
    }
    return _say(args, document, {name.replace("_", " "): value for name, value in facts.items()})


def _attested(args: argparse.Namespace, envelope: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a signed statement is about, and where the files differ from it."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from forge_pipeline.attestation import key_id, load_verification_key, verify, verify_model_signature
    from forge_pipeline.attestation.model_signature import SIGSTORE_BUNDLE
    from forge_pipeline.errors import IntegrityError

    key = load_verification_key(args.public_key)
    is_bundle = envelope.get("mediaType") == SIGSTORE_BUNDLE
    inner = envelope.get("dsseEnvelope") if is_bundle else envelope
    if not isinstance(inner, dict):
        raise IntegrityError("the Sigstore bundle holds no dsseEnvelope")
    statement = verify(inner, key, predicate_type=args.predicate_type)
    facts: dict[str, Any] = {
        "predicate_type": statement.predicate_type,
        "subject": statement.subjects[0].name,
        "digest": statement.digest,
        "files": len(statement.subjects) - 1 or len(statement.predicate.get("resources") or ()),
        "key": key_id(key),
    }
    if not args.directory:
        return facts, []
    if is_bundle:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise IntegrityError("a model signature is made with an EC key; the one given is Ed25519")
        return facts, verify_model_signature(envelope, Path(args.directory), key)
    return facts, statement.differences(Path(args.directory))


def _check_public_key(path: str | None) -> None:
    from forge_pipeline.attestation import load_verification_key
    from forge_pipeline.errors import ConfigError

    try:
        if path:
            load_verification_key(Path(path))
    except ValueError as error:
        raise ConfigError(f"{path}: not a public key in PEM: {error}") from error


def _verify_model(args: argparse.Namespace) -> int:
    from forge_pipeline.models import ModelDirectory

    model = ModelDirectory.open(args.path)
    record = model.record
    expected = args.digest or _registered(model.path)
    valid = expected is None or expected == model.digest
    reason = None if valid else f"the directory is {model.digest}; recorded was {expected}"
    gap = (
        () if expected else ("whether these are the bytes that were trained: no digest was given, none is registered",)
    )
    facts = {
        "digest": model.digest,
        "kind": record.kind,
        "base model": record.base_model.name_or_path,
        "trained on": record.dataset_digest,
    }
    document = {"valid": valid, "reason": reason, "digest": model.digest, "expected": expected, "not_checked": gap}
    return _say(args, document, facts)


def _verify_by_training(args: argparse.Namespace) -> int:
    from forge_pipeline.cli.progress import showing_progress
    from forge_pipeline.config import load_config
    from forge_pipeline.data import TokenizedDataset
    from forge_pipeline.models import ModelDirectory
    from forge_pipeline.training import reproduce

    config, dataset = load_config(args.recipe), TokenizedDataset.open(args.data)
    with showing_progress(quiet=args.quiet) as report:
        result = reproduce(config, dataset, ModelDirectory.open(args.path), steps=args.steps, progress=report)
    facts = {"updates": result.steps, "recorded": result.expected, "found": result.actual}
    if not result.valid:  # whoever sees other bits wants to know what computed them
        facts |= {name.removeprefix("training:"): value for name, value in result.environment.items()}
    return _say(args, asdict(result) | {"assurance": "retrained" if result.valid else None}, facts)


def _registered(path: Path) -> str | None:
    """The digest that the registry knows for this path, if there is a registry at all."""
    from forge_pipeline.cli.surroundings import has_registry, open_registry

    if not has_registry():
        return None
    rows = [row for row in open_registry().list_models() if Path(row.path).resolve() == path.resolve()]
    return str(rows[-1].uid) if rows else None


def _say(
    args: argparse.Namespace,
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    checks: Iterable[str] = (),
) -> int:
    """Print a result, which has `valid` and `reason` and may have `assurance` and `not_checked`, under its facts."""
    valid = bool(result["valid"])
    lines = [f"{args.path}: {'every check held' if valid else 'NOT VALID'}"]
    if result["reason"]:
        lines.append(f"  because         {result['reason']}")
    lines += [f"  {each}" for each in checks]
    lines += [f"  {name:<15} {value}" for name, value in facts.items() if value is not None]
    if result.get("assurance"):
        lines.append(f"  assurance       {result['assurance']}")
    lines += [f"  not checked     {each}" for each in result.get("not_checked", ())]
    common = {"schema": SCHEMA, "what": args.kind, "path": str(args.path), "assurance": None, "not_checked": ()}
    emit(args, {**common, **result}, lines)
    return SUCCESS if valid else INTEGRITY


def _is_short(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 80)


@contextmanager
def _manifest_of(path: Path) -> Iterator[Path]:
    """The manifest of a bundle given as that file, as a directory, or as a ZIP (unpacked for the time of the block)."""
    from forge_pipeline.annex_iv.manifest import MANIFEST_NAME

    if path.is_dir():
        yield path / MANIFEST_NAME
    elif path.suffix == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            _unpack(path, Path(folder))
            found = sorted(Path(folder).rglob(MANIFEST_NAME), key=lambda each: len(each.parts))
            if not found:
                raise FileNotFoundError(f"{path} holds no {MANIFEST_NAME}")
            yield found[0]
    else:
        yield path


def _unpack(path: Path, folder: Path) -> None:
    """Unpack plain files under safe paths, up to a limit; anything else is no bundle's ZIP."""
    from forge_pipeline.annex_iv.verify import is_safe_path
    from forge_pipeline.errors import ConfigError

    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _MOST_UNPACKED:
                raise ConfigError(f"{path}: would unpack to more than {_MOST_UNPACKED} bytes, so it is no bundle")
            for member in members:
                if not is_safe_path(member.filename):
                    raise ConfigError(f"{path}: the member {member.filename!r} is not a plain file inside the bundle")
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:  # damaged, encrypted, unknown
        raise ConfigError(f"{path}: not a ZIP file: {error}") from error
