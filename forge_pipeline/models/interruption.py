"""Stop a model in the middle of its work: between two layers, not only between two tokens.

A long prompt is one forward pass, which takes seconds to minutes on a CPU; who no longer waits for the answer must
not hold up who does.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import CancelledError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def interruptible(model: "PreTrainedModel", is_cancelled: Callable[[], bool]) -> Iterator[None]:
    """Inside, the model asks before each of its layers whether to go on.

    Args:
        is_cancelled: Called often, so cheap. Once it says True, the forward pass raises.

    Raises:
        CancelledError: From whatever called the model.
    """
    from torch.nn import ModuleList

    def ask(*_: Any) -> None:
        if is_cancelled():
            raise CancelledError("nobody waits for this answer any more")

    layers = [layer for stack in model.modules() if isinstance(stack, ModuleList) for layer in stack]
    with ExitStack() as hooks:
        for module in (model, *layers):
            hooks.callback(module.register_forward_pre_hook(ask).remove)
        yield
