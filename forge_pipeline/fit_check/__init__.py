"""Will this recipe fit: memory of training by simulation, of serving by arithmetic, before anything is loaded."""

from forge_pipeline.fit_check.check import fit_check
from forge_pipeline.fit_check.report import Budget, FitReport, ServingMemory, Suggestion, TrainingMemory

__all__ = ["Budget", "FitReport", "ServingMemory", "Suggestion", "TrainingMemory", "fit_check"]
