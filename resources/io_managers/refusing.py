"""The default IO manager: it refuses, so that nothing is ever pickled by accident."""

from typing import Any, NoReturn

import dagster as dg

from resources.last_word import failure


class RefusingIOManager(dg.ConfigurableIOManager):
    """Dagster's default would pickle; this one says what to do instead."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if obj is not None:
            self._refuse(context.asset_key.to_user_string() if context.has_asset_key else context.name, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        self._refuse(context.name, None)

    def _refuse(self, name: str, obj: Any) -> NoReturn:
        raise failure(
            f"{name} ({type(obj).__name__}) has no typed IO manager, and results are never pickled. "
            "Give the asset io_manager_key='dataset_io', 'model_io' or 'report_io'"
        )
