"""Files that serve a model, for the servers people run: correct for adapters and for whole models, versions pinned."""

from forge_pipeline.deploy.configs import TARGETS, Deployment, Target, deploy
from forge_pipeline.deploy.turns import TurnFormat, turn_format

__all__ = ["TARGETS", "Deployment", "Target", "TurnFormat", "deploy", "turn_format"]
