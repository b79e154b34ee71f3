"""Which storages live, how large they are, and what they hold: a dispatch mode over fake tensors.

The mode stands above `FakeTensorMode`, so that no memory is allocated and nothing is computed; it sees
every operation of forward, backward and optimizer, and follows each storage from the operation that made
it to the moment when nothing refers to it any more. Views share their base's storage and count once.

Fake tensors have no values, so code that asks for one gets an answer that does not lose memory: a mask is
never "all ones" (rows are padded, so attention takes a materialized mask), a boolean selection takes
everything, a number is 1.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch  # noqa: TID253  # itself imported only where it is used
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: TID253  # itself imported only where it is used
from torch.utils._pytree import tree_leaves  # noqa: TID253  # itself imported only where it is used

from forge_pipeline.fit_check.parts import Part

_ATEN = torch.ops.aten


class LiveMemory(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """Counts bytes by part while it is entered.

    Attributes:
        peaks: For each moment that was entered, the parts when most bytes lived.
    """

    def __init__(self, *, logit_widths: frozenset[int] = frozenset(), block: int = 64) -> None:
        """Args:
        logit_widths: Sizes of the last dimension by which logits are told from other activations.
        block: Bytes to whose multiples the allocator rounds.
        """
        super().__init__()
        self.peaks: dict[str, dict[Part, int]] = {}
        self._logit_widths, self._block = logit_widths, block
        self._live: dict[int, tuple[int, Part]] = {}
        self._totals: dict[Part, int] = {}
        self._now, self._most = 0, -1
        self._moment: str | None = None
        self._fresh: Part = "activations"

    def enter(self, moment: str) -> None:
        """Keep peaks under `moment` from now on; entered again, the greater one stays."""
        self._moment = moment
        self._most = sum(self.peaks.get(moment, {}).values()) or -1
        self._note_peak()

    @contextmanager
    def making(self, part: Part) -> Iterator[None]:
        """What is allocated in the block counts as `part`."""
        before, self._fresh = self._fresh, part
        try:
            yield
        finally:
            self._fresh = before

    def hold(self, tensor: torch.Tensor, part: Part) -> None:
        """Say what `tensor`'s storage holds; it is counted from now on if it was not yet."""
        storage = tensor.untyped_storage()
        known = self._live.get(storage._cdata)
        if known is None:
            self._add(storage, part)
            return
        size, old = known
        self._totals[old] -= size
        self._totals[part] = self._totals.get(part, 0) + size
        self._live[storage._cdata] = (size, part)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _ATEN._local_scalar_dense.default:
            return _scalar(args[0])
        if func is _ATEN.nonzero.default:
            result: Any = args[0].new_zeros((args[0].numel(), args[0].dim()), dtype=torch.long)
        elif func is _ATEN.masked_select.default:
            result = args[0].reshape(-1).clone()
        elif func is _ATEN.index.Tensor and any(_is_mask(each) for each in args[1]):
            result = func(args[0], _indices_for_masks(args[1]))
        else:
            result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._live:
            return
        is_logits = self._fresh == "activations" and tensor.dim() > 1 and tensor.shape[-1] in self._logit_widths
        self._add(storage, "logits" if is_logits else self._fresh)

    def _add(self, storage: torch.UntypedStorage, part: Part) -> None:
        size = -(-storage.nbytes() // self._block) * self._block
        if not size:
            return
        key = storage._cdata
        self._live[key] = (size, part)
        self._totals[part] = self._totals.get(part, 0) + size
        self._now += size
        weakref.finalize(storage, self._remove, key).atexit = False
        self._note_peak()

    def _remove(self, key: int) -> None:
        size, part = self._live.pop(key)
        self._totals[part] -= size
        self._now -= size

    def _note_peak(self) -> None:
        if self._moment is not None and self._now > self._most:
            self._most = self._now
            self.peaks[self._moment] = {part: size for part, size in self._totals.items() if size}


def _scalar(tensor: torch.Tensor) -> bool | int | float:
    if tensor.dtype is torch.bool:
        return False
    return 1.0 if tensor.dtype.is_floating_point else 1


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _indices_for_masks(indices: Any) -> list[torch.Tensor | None]:
    """Boolean masks as the indices of all their elements."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if _is_mask(index):
            found += [index.new_zeros(index.numel(), dtype=torch.long) for _ in range(index.dim())]
        else:
            found.append(index)
    return found
