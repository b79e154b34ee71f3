"""Fine-tunes: a tokenized dataset and a base model in, a model directory with its report out."""

from forge_pipeline.training.checkpoints import manage_checkpoints
from forge_pipeline.training.fine_tune import FineTune, fine_tune
from forge_pipeline.training.loss_gate import loss_gate
from forge_pipeline.training.methods import METHODS, Method
from forge_pipeline.training.recovery import resumable_work_dir
from forge_pipeline.training.report import LossPoint, TrainingReport, read_training_report
from forge_pipeline.training.reproducibility import Reproduction, reproduce
from forge_pipeline.training.usage import ResourceUsage

__all__ = [
    "METHODS",
    "FineTune",
    "LossPoint",
    "Method",
    "Reproduction",
    "ResourceUsage",
    "TrainingReport",
    "fine_tune",
    "loss_gate",
    "manage_checkpoints",
    "read_training_report",
    "reproduce",
    "resumable_work_dir",
]
