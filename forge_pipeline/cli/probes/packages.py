"""The packages: whether they are there, as new as they must be, and give what a recipe can name."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.cli.probes.finding import Finding, State

if TYPE_CHECKING:
    from packaging.requirements import Requirement

TRAINING = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
_INSTALL_TRAINING = "pip install 'forge-pipeline[train]'"
_OPTIONAL = {
    "lm-eval": ("eval", "benchmarks"),
    "datasketch": ("dedup", "MinHash near-duplicates"),
    "gguf": ("export", "GGUF export"),
    "xllamacpp": ("export", "running and comparing GGUF files"),
    "dagster": ("dagster", "assets, schedules, the web UI"),
    "fastapi": ("server", "the REST API"),
    "rich": ("dagster", "progress bars"),
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SHOWN = 5  # names in one line


def training_libraries() -> list[Finding]:
    """Not only whether they are installed: whether every trainer class that a recipe can name is there."""
    found = [_importable(name) for name in TRAINING]
    if all(each.state == "ok" for each in found):
        found += [device(), four_bit(), *_trainers()]
    return found


def _importable(name: str) -> Finding:
    try:
        import_module(name)
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "warn", "importable, but without package metadata", _INSTALL_TRAINING)
    except Exception as error:  # a broken installation may raise anything while it is imported
        return Finding(name, "fail", f"{type(error).__name__}: {error}", _INSTALL_TRAINING)


def device() -> Finding:
    """What torch computes on."""
    import torch

    if torch.cuda.is_available():
        cards = torch.cuda.device_count()
        precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        return Finding("accelerator", "ok", f"{cards} x {torch.cuda.get_device_name(0)}, {precision}")
    if torch.version.cuda:
        fix = "install an NVIDIA driver that fits, or mind that training runs on the CPU"
        return Finding("accelerator", "warn", f"torch is built for CUDA {torch.version.cuda} and finds no GPU", fix)
    if torch.backends.mps.is_available():
        return Finding("accelerator", "ok", "Apple's MPS")
    words = (
        f"none; {torch.get_num_threads()} threads: models of up to a few hundred million parameters train on the CPU"
    )
    return Finding("accelerator", "ok", words)


def four_bit() -> Finding:
    """bitsandbytes: 4-bit base models (`model.load_in_4bit`) and 8-bit optimizers."""
    import torch

    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        state: State = "warn" if torch.cuda.is_available() else "ok"
        fix = "pip install 'forge-pipeline[qlora]'" if state == "warn" else ""
        return Finding("bitsandbytes", state, "not installed; needed for 4-bit base models (QLoRA)", fix)
    where = "on CUDA" if torch.cuda.is_available() else "on the CPU, where 4 bits save memory and cost time"
    return Finding("bitsandbytes", "ok", f"{found}, {where}")


def _trainers() -> list[Finding]:
    from forge_pipeline.training.methods import METHODS

    found = []
    for name, method in METHODS.items():
        fix = _INSTALL_TRAINING
        try:
            module = import_module(method.module)
            missing = [each for each in (method.trainer, method.config) if not hasattr(module, each)]
            state: State = "warn" if missing else "ok"
            words = f"{method.module} has no {', '.join(missing)}" if missing else method.trainer
        except Exception as error:  # as in _importable
            state, words = "warn", f"{type(error).__name__}: {error}"
        found.append(Finding(f"trainer {name}", state, words, "" if state == "ok" else fix))
    return found


def extras() -> list[Finding]:
    found = []
    for package, (extra, purpose) in _OPTIONAL.items():
        try:
            found.append(Finding(package, "ok", version(package)))
        except PackageNotFoundError:
            fix = f"pip install 'forge-pipeline[{extra}]'"
            found.append(Finding(package, "warn", f"not installed; needed for {purpose}", fix))
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    words = browser or "not found; nothing but the studio's tests needs one"
    return [*found, Finding("chromium", "ok", words)]


def bounds() -> list[Finding]:
    """Installed versions beside the bounds that this package declares."""
    try:
        declared = list(_declared())
    except ImportError:
        return [Finding("versions", "warn", "not held against their bounds", "pip install packaging")]
    except PackageNotFoundError:
        words = "forge-pipeline itself is not installed, so its bounds are not known"
        return [Finding("versions", "warn", words, "pip install -e . in the checkout")]
    wrong, broken = [], False
    for requirement in declared:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            if requirement.marker is None:  # an extra may be left out
                wrong.append(f"{requirement} is missing")
                broken = True
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed}, expected {requirement.specifier}")
            broken = broken or requirement.marker is None
    if not wrong:
        return [Finding("versions", "ok", f"{len(declared)} requirements, each missing or within its bounds")]
    fix = "pip install --upgrade 'forge-pipeline[all]'"
    return [Finding("versions", "fail" if broken else "warn", _some(wrong), fix)]


def _declared() -> Iterator["Requirement"]:
    from packaging.requirements import Requirement

    for text in requires("forge-pipeline") or ():
        requirement = Requirement(text)
        if requirement.name != "forge-pipeline":  # an extra that names other extras
            yield requirement


def pins(constraints: Path) -> list[Finding]:
    """Installed versions beside the exact ones that `constraints` lists; nothing where there is no such file.

    What is not installed is no finding: the list covers every extra.
    """
    try:
        wanted = read_pins(constraints.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return []
    others = []
    for name, pinned in wanted.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if installed.split("+")[0] != pinned.split("+")[0]:
            others.append(f"{name} {installed} (pinned {pinned})")
    if not others:
        return [Finding("pins", "ok", f"what is installed is what {constraints.name} lists")]
    fix = f"pip install -c {constraints} -e '.[all]' gives what was tested"
    return [Finding("pins", "warn", _some(others), fix)]


def read_pins(lines: Iterable[str]) -> Mapping[str, str]:
    """``name==version`` lines of a constraints file; comments and everything else are left out."""
    pairs = (line.split("#")[0].split(";")[0].strip().split("==") for line in lines)
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
