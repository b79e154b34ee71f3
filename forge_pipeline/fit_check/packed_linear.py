"""A linear layer whose weight takes the room of a 4-bit one: what QLoRA holds and what it unpacks.

Two values a byte, one float32 scale for each 64 of them; with double quantization one byte a scale and one
float32 for each 256 scales (arXiv:2305.14314, section 3). A product unpacks the whole weight into the
compute dtype, in forward and again in backward, and keeps the packed one only (bitsandbytes' MatMul4Bit).
"""

from collections.abc import Iterator
from typing import Any

import torch  # noqa: TID253  # itself imported only where it is used

BLOCK, SCALES_A_BLOCK = 64, 256


def packed_bytes(values: int, *, double_quant: bool) -> int:
    """Bytes of so many 4-bit values with their scales."""
    scales = -(-values // BLOCK)
    return -(-values // 2) + (scales + 4 * -(-scales // SCALES_A_BLOCK) if double_quant else 4 * scales)


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]  # torch is untyped here
    """Takes the place of a linear layer in a model on `meta`. PEFT puts its adapters on it as on any other."""

    def __init__(self, linear: torch.nn.Linear, compute: torch.dtype, *, double_quant: bool) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        size = packed_bytes(linear.weight.numel(), double_quant=double_quant)
        self.weight = torch.nn.Parameter(torch.empty(size, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.bias = linear.bias
        self._compute = compute

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features), in the dtype of `hidden`."""
        result: torch.Tensor = _UnpackedProduct.apply(
            hidden.to(self._compute), self.weight, self.in_features, self.out_features
        )
        return (result if self.bias is None else result + self.bias).to(hidden.dtype)


class _UnpackedProduct(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, packed: torch.Tensor, columns: int, rows: int) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = (rows, columns)
        return hidden @ _unpacked(packed, rows, columns, hidden.dtype).t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (packed,) = ctx.saved_tensors
        rows, columns = ctx.shape
        return grad @ _unpacked(packed, rows, columns, grad.dtype), None, None, None


def _unpacked(packed: torch.Tensor, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    return packed.new_empty((rows, columns), dtype=dtype)


def pack_linear_layers(model: torch.nn.Module, compute: torch.dtype, *, double_quant: bool) -> None:
    """Put a `PackedLinear` in the place of every linear layer but the output head, as transformers does."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for parent, name, layer in list(_linear_layers(model)):
        if layer is not head:
            setattr(parent, name, PackedLinear(layer, compute, double_quant=double_quant))


def _linear_layers(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.Linear):
                yield parent, name, child
