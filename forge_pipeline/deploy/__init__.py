"""Files that serve a model, for the servers people run: correct for adapters and for whole models, versions pinned."""

from forge_pipeline.deploy.configs import TARGETS, Deployment, Target, deploy
from forge_pipeline.deploy.hub_push import Pushed, push_to_hub
from forge_pipeline.deploy.released_card import find_released_card
from forge_pipeline.export.turns import TurnFormat, turn_format

__all__ = [
    "TARGETS",
    "Deployment",
    "Pushed",
    "Target",
    "TurnFormat",
    "deploy",
    "find_released_card",
    "push_to_hub",
    "turn_format",
]
