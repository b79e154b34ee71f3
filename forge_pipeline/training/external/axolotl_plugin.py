# mypy: ignore-errors
# Runs in another environment, against libraries of other versions than ours.
"""Axolotl takes callbacks from plugins, which it imports by name: this one hands it ours."""

from axolotl.integrations.base import BasePlugin

RECORDER = None  # set by run_axolotl before Axolotl loads this


class Progress(BasePlugin):
    def add_callbacks_pre_trainer(self, cfg, model):
        return [RECORDER]
