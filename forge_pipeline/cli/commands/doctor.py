"""Check this machine: what works, what is missing, what to type. Exit code 1 if training cannot work."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from forge_pipeline.cli.exit_codes import SUCCESS, WRONG_INPUT
from forge_pipeline.cli.output import add_json_option, emit

State = Literal["ok", "warn", "fail"]

_LEAST_FREE_DISK = 5 * 2**30  # bytes
_OPTIONAL = {
    "lm-eval": ("eval", "benchmarks"),
    "datasketch": ("dedup", "MinHash near-duplicates"),
    "gguf": ("export", "GGUF export"),
    "xllamacpp": ("export", "running and comparing GGUF files"),
    "dagster": ("dagster", "assets, schedules, the web UI"),
    "fastapi": ("server", "the REST API"),
    "rich": ("dagster", "progress bars"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    words: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    probes: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _hardware,
        _training_libraries,
        _extras,
        lambda: _settings(os.environ),
        _disk,
    )
    findings = [finding for probe in probes for finding in probe()]
    failed = any(finding.state == "fail" for finding in findings)
    marks = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
    lines = [f"{marks[each.state]}  {each.what:<22} {each.words}" for each in findings]
    emit(args, {"ok": not failed, "findings": [asdict(each) for each in findings]}, lines)
    return WRONG_INPUT if failed else SUCCESS


def _python() -> list[Finding]:
    enough = sys.version_info >= (3, 11)
    words = f"{platform.python_version()} on {platform.platform()}"
    return [Finding("python", "ok" if enough else "fail", words if enough else f"{words}; 3.11 or later is needed")]


def _hardware() -> list[Finding]:
    found = [Finding("processor", "ok", f"{os.cpu_count()} cores, {platform.machine()}")]
    try:
        import psutil

        memory = psutil.virtual_memory()
        found.append(
            Finding("memory", "ok", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free")
        )
    except ImportError:
        found.append(Finding("memory", "warn", "not known: psutil is not installed"))
    return found


def _training_libraries() -> list[Finding]:
    """Not only whether they are installed: whether every trainer class that a recipe can name is there."""
    found = []
    for name in ("torch", "transformers", "trl", "peft", "datasets", "accelerate"):
        found.append(_importable(name, "pip install 'forge-pipeline[train]'"))
    if all(each.state == "ok" for each in found):
        found += [_accelerator(), *_trainers()]
    return found


def _importable(name: str, fix: str) -> Finding:
    try:
        import_module(name)
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "warn", "importable, but without package metadata")
    except Exception as error:  # a broken installation may raise anything while it is imported
        return Finding(name, "fail", f"{type(error).__name__}: {error}. {fix}")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("accelerator", "ok", torch.cuda.get_device_name(0))
    return Finding("accelerator", "ok", "none: models of up to a few hundred million parameters train on the CPU")


def _trainers() -> list[Finding]:
    from forge_pipeline.training.methods import METHODS

    found = []
    for name, method in METHODS.items():
        try:
            module = import_module(method.module)
            missing = [each for each in (method.trainer, method.config) if not hasattr(module, each)]
            state: State = "warn" if missing else "ok"
            words = f"{method.module} has no {', '.join(missing)}" if missing else method.trainer
        except Exception as error:  # as above
            state, words = "warn", f"{type(error).__name__}: {error}"
        found.append(Finding(f"trainer {name}", state, words))
    return found


def _extras() -> list[Finding]:
    found = []
    for package, (extra, purpose) in _OPTIONAL.items():
        try:
            found.append(Finding(package, "ok", version(package)))
        except PackageNotFoundError:
            words = f"not installed; needed for {purpose}: pip install 'forge-pipeline[{extra}]'"
            found.append(Finding(package, "warn", words))
    return found


def _settings(environ: Mapping[str, str]) -> list[Finding]:
    from forge_pipeline.audit_log import AuditSettings
    from forge_pipeline.errors import ConfigError
    from forge_pipeline.models import forge_home

    found = [Finding("FORGE_HOME", "ok" if _is_writable(forge_home()) else "fail", str(forge_home()))]
    home = environ.get("DAGSTER_HOME")
    if not home:
        found.append(Finding("DAGSTER_HOME", "warn", "not set: Dagster forgets its history when it stops"))
    else:
        found.append(Finding("DAGSTER_HOME", "ok" if Path(home).is_dir() else "fail", home))
    try:
        settings = AuditSettings.from_environment(environ)
        keys = [name for name, key in (("HMAC", settings.hmac_secret), ("Ed25519", settings.signing_key)) if key]
        words = f"{settings.operator}; log keys: {', '.join(keys) or 'none'}"
        found.append(Finding("operator", "ok", words))
    except ConfigError as error:
        found.append(Finding("operator", "fail", str(error)))
    return found


def _is_writable(path: Path) -> bool:
    """Whether `path`, or the nearest folder above it that exists, takes files."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK)


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= _LEAST_FREE_DISK
    words = f"{free / 2**30:.1f} GiB free here"
    return [Finding("disk", "ok" if enough else "warn", words if enough else f"{words}; 5 GiB or more is comfortable")]
