"""`trainer_type: rlhf`: a reward model from the recipe's preference pairs, then the policy against it.

Both are fine-tunes of the recipe's base model: the first as ``trainer_type: reward``, the
second by RLOO (arXiv:2402.14740) or GRPO (arXiv:2402.03300) on the prompts of the same
rows. The reward model is measured on pairs that it has not seen: those of the validation
split, else a tenth of the prompts, held out by their content with every pair of theirs.

In the working directory:

    reward_pairs/      the rows as the reward model's training reads them
    reward_training/   its checkpoints
    reward_model/      the reward model, written last and all at once: it is there only if it is whole
    checkpoint-<step>/ the policy's

A run that resumes goes on where it stopped: within the reward model's training, or after it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.data.artifacts import SUMMARY_FILE, SplitSummary, TokenizedDataset
from forge_pipeline.errors import ForgeError
from forge_pipeline.integrity import Digest, write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.progress import Progress, Report
from forge_pipeline.training.report import RewardModelReport, TrainingReport, read_training_report

if TYPE_CHECKING:
    from forge_pipeline.models.chain import PreviousStage

MODEL, CHECKPOINTS, PAIRS = "reward_model", "reward_training", "reward_pairs"

_HELD_OUT = 10  # one prompt in so many, where there is no validation split


@dataclass(frozen=True)
class TrainedReward:
    """The reward model and what it is worth."""

    model: ModelDirectory
    report: RewardModelReport


def train_reward_model(
    config: ForgeConfig,
    dataset: TokenizedDataset,
    raw_digest: Digest,
    work_dir: Path,
    *,
    train: Callable[..., Any],
    progress: Report,
    resume: bool,
    previous: "PreviousStage | None" = None,
) -> TrainedReward:
    """Train the reward model of a recipe, or take the one that an interrupted run has finished.

    Args:
        dataset: Tokenized for trainer_type rlhf.
        train: `fine_tune`.
        resume: Whether to go on from a checkpoint of its training, where there is one.

    Raises:
        As `fine_tune`.
    """
    own = reward_config(config)
    directory = work_dir / MODEL
    pairs = _pairs(dataset, work_dir / PAIRS)
    model = _finished(directory, own, pairs)
    if model is None:
        for stale in (directory, *(() if resume else (work_dir / CHECKPOINTS,))):
            shutil.rmtree(stale, ignore_errors=True)
        model = train(
            own,
            pairs,
            raw_digest,
            directory,
            progress=lambda moment: progress(_said_of_reward(moment)),
            work_dir=work_dir / CHECKPOINTS,
            resume_from_checkpoint="auto" if resume else None,
            previous=previous,
        ).model
    return TrainedReward(model, _summary(model, read_training_report(model), pairs))


def reward_config(config: ForgeConfig) -> ForgeConfig:
    """The recipe of the reward model alone. What concerns the policy only is as it is by default, so that changing
    it trains no new reward model.
    """
    training = config.training
    defaults = type(training)()
    policy = {
        name: getattr(defaults, name)
        for name in type(training).model_fields
        if name.startswith(("grpo_", "rlhf_")) or name in ("report_to", "run_name", "merge_adapters")
    }
    own = training.model_copy(
        update={
            **policy,
            "trainer_type": "reward",
            "num_train_epochs": training.rlhf_reward_epochs,
            "max_steps": training.rlhf_reward_max_steps,
            "learning_rate": training.rlhf_reward_learning_rate,
        }
    )
    return config.model_copy(update={"training": own, "pipeline": None})


def has_begun(work_dir: Path) -> bool:
    """Whether a run in this directory has come as far as its reward model."""
    return (work_dir / MODEL).is_dir() or (work_dir / CHECKPOINTS).is_dir()


def _pairs(dataset: TokenizedDataset, directory: Path) -> TokenizedDataset:
    """The rows of `dataset` for trainer_type reward, with pairs held out; made anew each time, which costs little."""
    train = dataset.table("train")
    held_out = dataset.table("validation") if "validation" in dataset.splits else None
    if held_out is None or not held_out.num_rows:
        train, held_out = _held_out(train)
    splits = {"train": train, **({"validation": held_out} if held_out is not None and held_out.num_rows else {})}
    shutil.rmtree(directory, ignore_errors=True)
    with publishing(directory) as staging:
        for split, table in splits.items():
            pq.write_table(table, staging / f"{split}.parquet", compression="zstd")
        summaries = {split: _split(table) for split, table in splits.items()}
        write_report(staging / SUMMARY_FILE, replace(dataset.summary, trainer_type="reward", splits=summaries))
    return TokenizedDataset.open(directory)


def _held_out(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows to learn and rows to measure on; none of the latter where all rows have one prompt."""
    keys = [
        hashlib.sha256(json.dumps(prompt, sort_keys=True, ensure_ascii=False).encode()).digest()
        for prompt in table.column("prompt").to_pylist()
    ]
    prompts = sorted(set(keys))
    chosen = set(prompts[: max(1, len(prompts) // _HELD_OUT)]) if len(prompts) > 1 else set()
    held_out = pa.array([key in chosen for key in keys])
    return table.filter(pa.compute.invert(held_out)), table.filter(held_out)


def _split(table: pa.Table) -> SplitSummary:
    lengths = table.column("length").to_pylist()
    return SplitSummary(
        rows=len(lengths),
        tokens=sum(lengths),
        trained_tokens=None,
        truncated=0,
        fully_masked=0,
        max_length_seen=max(lengths, default=0),
        mean_length=sum(lengths) / len(lengths) if lengths else 0.0,
    )


def _finished(directory: Path, own: ForgeConfig, pairs: TokenizedDataset) -> ModelDirectory | None:
    """The reward model of an earlier run, if it is of this recipe and these rows."""
    if not directory.is_dir():
        return None
    try:
        model = ModelDirectory.open(directory)
        record = model.record
    except (ForgeError, OSError):  # half gone, or of another version: it is trained again
        return None
    same = record.config_digest == config_digest(own) and record.tokenized_digest == pairs.digest
    return model if same else None


def _summary(model: ModelDirectory, report: TrainingReport, pairs: TokenizedDataset) -> RewardModelReport:
    return RewardModelReport(
        digest=model.digest,
        steps=report.steps,
        train_loss=report.train_loss,
        eval_loss=report.eval_loss,
        accuracy=report.metrics.get("eval_accuracy"),
        held_out_pairs=pairs.summary.splits["validation"].rows if "validation" in pairs.splits else 0,
        metrics=report.metrics,
    )


def _said_of_reward(moment: Progress) -> Progress:
    return replace(moment, message=f"reward model: {moment.message}")
