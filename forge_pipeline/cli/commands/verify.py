"""Verify evidence. Exit code 0 if every check held, 6 if one did not, 1 if there is nothing to verify."""

import argparse
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forge_pipeline.cli.exit_codes import INTEGRITY, SUCCESS
from forge_pipeline.cli.output import add_json_option, emit

_MOST_UNPACKED = 2**30  # bytes; a bundle is far smaller


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    log = kinds.add_parser("log", help="an audit log")
    log.add_argument("path", help="audit_log.jsonl")
    log.add_argument("--require-hmac", action="store_true", help="the log must carry tags of FORGE_AUDIT_SECRET")
    log.add_argument("--public-key", metavar="PEM", help="the log must be signed with this Ed25519 key")
    log.add_argument("--checkpoint", metavar="FILE", action="append", default=[], help="a checkpoint kept elsewhere")
    log.add_argument("--log-id", help="the log that is meant")
    log.set_defaults(verify=_verify_log)
    for kind, words in (("annex-iv", "a bundle, by its annex_iv.json"), ("bundle", "a bundle: directory or ZIP")):
        bundle = kinds.add_parser(kind, help=words)
        bundle.add_argument("path", help="annex_iv.json, the bundle's directory, or its ZIP")
        bundle.add_argument("--manifest-hash", metavar="DIGEST", help="the hash as it was kept elsewhere")
        bundle.add_argument("--log", metavar="FILE", help="the line's own audit log")
        bundle.set_defaults(verify=_verify_bundle)
    gguf = kinds.add_parser("gguf", help="a GGUF file")
    gguf.add_argument("path")
    gguf.add_argument("--digest", help="the digest as it was recorded")
    gguf.set_defaults(verify=_verify_gguf)
    model = kinds.add_parser("model", help="a model directory")
    model.add_argument("path")
    model.add_argument("--digest", help="the digest as it was recorded; else the registry is asked")
    model.set_defaults(verify=_verify_model)
    for each in kinds.choices.values():
        add_json_option(each)


def run(args: argparse.Namespace) -> int:
    code: int = args.verify(args)
    return code


def _verify_log(args: argparse.Namespace) -> int:
    from forge_pipeline.audit_log import verify_audit_log

    result = verify_audit_log(
        args.path,
        require_hmac=args.require_hmac,
        public_key=args.public_key,
        checkpoint=[Path(name).read_text("utf-8") for name in args.checkpoint],
        expected_log_id=args.log_id,
    )
    facts = {
        "entries": result.entries_count,
        "log id": result.log_id,
        "root": result.root,
        "chain head": result.chain_head,
        "line": result.first_invalid_index,
    }
    return _say(args, asdict(result), result.valid, result.reason, facts, result.assurance, result.not_checked)


def _verify_bundle(args: argparse.Namespace) -> int:
    from forge_pipeline.annex_iv import verify_annex_iv_artifact
    from forge_pipeline.errors import ConfigError

    with _manifest_of(Path(args.path)) as manifest:
        try:
            result = verify_annex_iv_artifact(
                str(manifest), expected_manifest_hash=args.manifest_hash, audit_log=args.log
            )
        except ValueError as error:
            raise ConfigError(f"{args.path}: not a bundle's manifest: {error}") from error
    facts = {
        "manifest hash": result.manifest_hash_actual,
        "complete": "yes" if result.complete else "no",
        "missing points": ", ".join(result.missing_fields) or "none",
    }
    return _say(args, asdict(result), result.valid, result.reason, facts, result.assurance, result.not_checked)


def _verify_gguf(args: argparse.Namespace) -> int:
    from forge_pipeline.export import verify_gguf
    from forge_pipeline.integrity import Digest

    result = verify_gguf(args.path)
    digest = Digest.of_file(Path(args.path))
    valid, reason = result.valid, result.reason
    if valid and args.digest and digest != args.digest:
        valid, reason = False, f"the file is {digest}; expected {args.digest}"
    gap = () if args.digest else ("whether these are the bytes that were exported: no digest was given",)
    document = {"valid": valid, "reason": reason, "digest": digest, "checks": result.checks}
    facts = {"digest": digest, **{name: value for name, value in result.checks.items() if _is_short(value)}}
    return _say(args, document, valid, reason, facts, None, gap)


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
    return _say(args, document, valid, reason, facts, None, gap)


def _registered(path: Path) -> str | None:
    """The digest that the registry knows for this path, if there is a registry at all."""
    from forge_pipeline.cli.surroundings import open_registry
    from forge_pipeline.models import forge_home

    if not (forge_home() / "registry.sqlite").exists():
        return None
    rows = [row for row in open_registry().list_models() if Path(row.path).resolve() == path.resolve()]
    return str(rows[-1].uid) if rows else None


def _say(
    args: argparse.Namespace,
    document: dict[str, Any],
    valid: bool,
    reason: str | None,
    facts: dict[str, Any],
    assurance: str | None,
    not_checked: Iterable[str],
) -> int:
    lines = [f"{args.path}: {'every check held' if valid else 'NOT VALID'}"]
    if reason:
        lines.append(f"  because         {reason}")
    lines += [f"  {name:<15} {value}" for name, value in facts.items() if value is not None]
    if assurance:
        lines.append(f"  assurance       {assurance}")
    lines += [f"  not checked     {each}" for each in not_checked]
    emit(args, document, lines)
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
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path}: not a ZIP file: {error}") from error
