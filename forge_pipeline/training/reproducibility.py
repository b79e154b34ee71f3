"""Where a model was made, as far as it matters for making it again, and the proof that it can be.

Measured on one machine: equal recipes and rows give equal bytes, whatever the number of
threads. Elsewhere the sums of a matrix product may come in another order: another
instruction set, another build of torch, another device. So that is written down, beside the
model and not in it, because it is no part of what the recipe determines.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.models.chain import PreviousStage
from forge_pipeline.models.directory import ModelDirectory, ModelRecord
from forge_pipeline.progress import Report, silent
from forge_pipeline.training.identity import library_versions
from forge_pipeline.training.report import TrainingReport, read_training_report

if TYPE_CHECKING:
    from forge_pipeline.data.artifacts import TokenizedDataset

_MOST_STEPS = 16  # of the recorded digests, the one that a reproduction takes unless it is told
_SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "MKL_CBWR", "CUBLAS_WORKSPACE_CONFIG")


@contextmanager
def seeded(config: ForgeConfig) -> Iterator[None]:
    """Give torch its settings back that `training.full_determinism` changes for the time of a run."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic


def training_environment(config: ForgeConfig, record: ModelRecord, *, device: str, dtype: str) -> dict[str, str]:
    """Everything beside the recipe that decides, or might decide, the bits of the weights. Names begin ``training:``.

    Args:
        device, dtype: As the training report has them.
    """
    import torch

    facts = {
        "torch": torch.__version__,
        "torch_build_digest": str(Digest.of(torch.__config__.show().encode())),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "dtype": dtype,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "threads": str(torch.get_num_threads()),
        "interop_threads": str(torch.get_num_interop_threads()),
        "full_determinism": "yes" if config.training.full_determinism else "no",
        "seed": str(config.training.seed),
        "ordered_data_digest": str(record.tokenized_digest),
        "chat_template_digest": str(record.chat_template_digest or "none"),
        **{f"version_{name}": found for name, found in library_versions().items()},
        "equal_elsewhere": _claim(config, device),
        **{f"setting_{name}": os.environ[name] for name in _SETTINGS if name in os.environ},
    }
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        facts |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_capability": f"{major}.{minor}",
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }
    return {f"training:{name}": value for name, value in sorted(facts.items())}


def _claim(config: ForgeConfig, device: str) -> str:
    """What another run of the recipe may be expected to give, in one sentence."""
    if device == "cpu":
        return (
            "the same bytes with this CPU capability, torch build, dtype and these versions, whatever the number of "
            "threads; with another of them perhaps not"
        )
    if config.training.full_determinism:
        return "the same bytes on such a GPU with this CUDA, torch build, dtype and these versions; else perhaps not"
    return "perhaps not the same bytes even here: training.full_determinism was off on a device that is not a CPU"


@dataclass(frozen=True)
class Reproduction:
    """The outcome of `reproduce`.

    Attributes:
        valid: The weights after `steps` updates have the digest that was recorded.
        environment: Where this was tried.
        not_checked: What equal digests do not say.
    """

    valid: bool
    steps: int
    expected: Digest
    actual: Digest
    reason: str | None
    environment: dict[str, str]
    not_checked: tuple[str, ...]


def reproduce(
    config: ForgeConfig,
    dataset: "TokenizedDataset",
    model: ModelDirectory,
    *,
    steps: int | None = None,
    progress: Report = silent,
    work_dir: Path | None = None,
    previous: PreviousStage | None = None,
) -> Reproduction:
    """Train a model's first updates again and hold the weights against the digest that its report recorded.

    Args:
        config: The recipe that made the model.
        dataset: The tokenized dataset that made it.
        model: A directory that `fine_tune` wrote.
        steps: One of the steps of which the report has a digest; None takes the last up to 16.
        work_dir: A directory on whose disk the model is made again; None takes the system's temporary one.
        previous: The stage of a pipeline that the model went on from.

    Raises:
        TrainingError: Recipe or rows are others, or the report has no digest of that step.
    """
    from forge_pipeline.training.fine_tune import fine_tune

    report, record = read_training_report(model), model.record
    if (found := config_digest(config)) != record.config_digest:
        raise TrainingError(f"the recipe is {found}, but {model.path} was made with {record.config_digest}")
    if dataset.digest != record.tokenized_digest:
        raise TrainingError(
            f"{dataset.path} is {dataset.digest}, but {model.path} was made from {record.tokenized_digest}"
        )
    wanted = _recorded_step(report, steps)
    expected = {each.step: each.digest for each in report.weights}[wanted]
    with TemporaryDirectory(dir=work_dir, prefix="reproduce.") as folder:
        again = fine_tune(
            config,
            dataset,
            record.dataset_digest,
            Path(folder) / "model",
            progress=progress,
            previous=previous,
            stop_after=wanted,
        )
    actual = {each.step: each.digest for each in again.report.weights}[wanted]
    same = actual == expected
    return Reproduction(
        valid=same,
        steps=wanted,
        expected=expected,
        actual=actual,
        reason=None if same else f"after {wanted} updates the weights are {actual}; recorded was {expected}",
        environment=again.environment,
        not_checked=(f"the updates after {wanted}; the model has {report.steps}",) if wanted < report.steps else (),
    )


def _recorded_step(report: TrainingReport, steps: int | None) -> int:
    """The step to compare at: one with a digest that a run without trouble reaches with the recipe's own batch."""
    smaller_from = min((each.step for each in report.oom_recoveries), default=None)
    known = [each.step for each in report.weights if smaller_from is None or each.step <= smaller_from]
    if not known:
        why = "memory ran out before the first of them" if report.weights else "it was trained on several ranks"
        raise TrainingError(f"the training report has no digest on the way that could be compared: {why}")
    if steps is None:
        return max((step for step in known if step <= _MOST_STEPS), default=known[0])
    if steps not in known:
        raise TrainingError(f"steps: found {steps}; the report has digests after {', '.join(map(str, known))}")
    return steps
