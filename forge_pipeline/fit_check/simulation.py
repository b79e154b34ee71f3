"""Memory of one training step by running it on fake tensors: nothing is allocated, nothing computed.

The architecture's own modules, PEFT's own adapters and TRL's own fused head run forward, backward and an
optimizer step under `FakeTensorMode`, while `LiveMemory` counts. Steps:

(1) adapters and 4-bit layers are put on a model on `meta`; (2) weights become fake tensors, optimizer states
and, with gradient accumulation, gradients are there from the step before; (3) passes before, forward,
passes after, backward; (4) the optimizer's step; (5) for GRPO the cache of the completions, by formula,
and one decoding step. The most of all moments is what the device must hold.

Deep models are traced at two depths (see `skeleton.Depths`) and stretched, moment by moment: the first and
the last layer's backward, the head, the step each grow along a straight line with the number of layers, and
so does every one between them.

Not in it: what libraries allocate for themselves (see `calibration`), evaluation batches, checkpoints being
written, PiSSA's decomposition while the adapter is made.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  # itself imported only where it is used
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: TID253  # itself imported only where it is used

from forge_pipeline.config import ForgeConfig
from forge_pipeline.fit_check.cache import cache_bytes
from forge_pipeline.fit_check.live_memory import LiveMemory
from forge_pipeline.fit_check.optimizers import optimizer_bytes, step_bytes
from forge_pipeline.fit_check.packed_linear import pack_linear_layers
from forge_pipeline.fit_check.parts import PARTS, Part, in_order, total
from forge_pipeline.fit_check.plan import BYTES, TrainingPlan
from forge_pipeline.fit_check.skeleton import (
    Depths,
    build_skeleton,
    cut_to,
    decoder_layers,
    depths_of,
    materialize,
    text_config,
)
from forge_pipeline.models.adapters import lora_config
from forge_pipeline.models.devices import Device
from forge_pipeline.models.logit_tiles import logit_tiles_for

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TILE_VOCABULARY = 32768  # of TRL's fused head
_BLOCK = {"cuda": 512, "mps": 256, "cpu": 64}  # bytes to which an allocator rounds


@dataclass(frozen=True)
class Simulated:
    """Bytes of tensors on the device.

    Attributes:
        parts: At the moment of most bytes.
        moment: Which one that is.
        moments: Bytes in all at each moment.
        trained: Values that are trained.
        depths: How it was traced.
    """

    parts: Mapping[Part, int]
    moment: str
    moments: Mapping[str, int]
    trained: int
    depths: Depths

    @property
    def total(self) -> int:
        return total(self.parts)


def simulate(
    config: ForgeConfig, architecture: "PretrainedConfig", plan: TrainingPlan, *, in_full: bool = False
) -> Simulated:
    """Trace one training step of `plan`.

    Args:
        config: The recipe, of which the `lora` section is used.
        in_full: Trace every layer, which costs about 0.1 s a layer.

    Raises:
        Exception: Whatever an architecture raises that cannot be traced; the caller takes the formula then.
    """
    depths = depths_of(architecture, in_full=in_full or bool(config.lora.rank_pattern))
    near, trained_near = _trace(config, cut_to(architecture, depths.near), plan, depths)
    if depths.far == depths.near:
        return _result(near, trained_near, depths)
    far, trained_far = _trace(config, cut_to(architecture, depths.far), plan, depths)
    stretched = {
        moment: {
            part: max(
                0.0, near[moment].get(part, 0) + depths.stretch * (far[moment].get(part, 0) - near[moment].get(part, 0))
            )
            for part in PARTS
        }
        for moment in near
        if moment in far
    }
    trained = round(trained_near + depths.stretch * (trained_far - trained_near))
    return _result(stretched, trained, depths)


def _result(moments: Mapping[str, Mapping[Part, float]], trained: int, depths: Depths) -> Simulated:
    most = max(moments, key=lambda moment: total(moments[moment]))
    sums = {moment: total(parts) for moment, parts in moments.items()}
    return Simulated(in_order(moments[most]), most, sums, trained, depths)


def _trace(
    config: ForgeConfig, architecture: "PretrainedConfig", plan: TrainingPlan, depths: Depths
) -> tuple[dict[str, dict[Part, int]], int]:
    """The peaks of every moment, and how many values are trained."""
    with _quiet(), _head_as_on(plan.device):
        model = _prepare(config, architecture, plan)
        with FakeTensorMode(allow_non_fake_inputs=True), _counter(architecture, plan) as memory:
            step = _Step(model, memory, architecture, plan, depths)
            step.run()
            trained = sum(weight.numel() for weight in step.trained)
    return memory.peaks, trained


def _counter(architecture: "PretrainedConfig", plan: TrainingPlan) -> LiveMemory:
    text = text_config(architecture)
    vocabulary = int(text.vocab_size)
    widths = {vocabulary, _TILE_VOCABULARY, vocabulary % _TILE_VOCABULARY}
    others = {getattr(text, name, 0) for name in ("hidden_size", "intermediate_size", "moe_intermediate_size")}
    return LiveMemory(logit_widths=frozenset(widths - others - {0, 1}), block=_BLOCK[plan.device])


def _prepare(config: ForgeConfig, architecture: "PretrainedConfig", plan: TrainingPlan) -> torch.nn.Module:
    """(1): the model that is trained, on `meta`."""
    from peft import LoraConfig, get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    model = build_skeleton(architecture, plan.weights, attention=plan.attention, head=plan.passes.head)
    if plan.passes.head == "fused":
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if plan.four_bit:
        pack_linear_layers(model, getattr(torch, plan.compute), double_quant=plan.double_quant)
    if plan.checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    adapter = lora_config(config, model)
    if adapter is None:
        return model
    if plan.passes.head == "score":
        adapter.task_type = "SEQ_CLS"
    if isinstance(adapter, LoraConfig) and isinstance(adapter.init_lora_weights, str):
        adapter.init_lora_weights = True  # other starts need values; the adapter is as large
    with torch.device("meta"):
        tuned = get_peft_model(model, adapter)
    if plan.checkpointing:
        tuned.enable_input_require_grads()
    return tuned.train()


class _Step:
    """(2) to (5), on fake tensors."""

    def __init__(
        self, model: Any, memory: LiveMemory, architecture: "PretrainedConfig", plan: TrainingPlan, depths: Depths
    ) -> None:
        self.plan, self.memory, self.model = plan, memory, model
        self._architecture, self._depths = architecture, depths
        materialize(model)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self._kept: list[torch.Tensor] = []
        self._stage = ""

    def run(self) -> None:
        self._hold_weights()
        self._hold_states()
        self._watch_layers()
        if self.plan.completion:
            self._generate()
        batch = self._batch()
        for _ in range(self.plan.passes.before):
            self._without_gradient("before", batch)
        self._enter("forward", "early")
        with self._autocast():
            loss = self._loss(batch)
        kept = [loss]
        for _ in range(self.plan.passes.after):
            kept.append(self._without_gradient("reference", batch))
        self._enter("backward", "head")
        loss.backward()
        del kept, loss
        self._optimize()

    def _hold_weights(self) -> None:
        every = self.plan.trains_every_weight
        for weight in [*self.model.parameters(), *self.model.buffers()]:
            self.memory.hold(weight, "weights" if every or not weight.requires_grad else "adapter")
        if self.plan.has_reference:
            with self.memory.making("reference"):
                self._kept += [torch.empty_like(weight) for weight in self.model.parameters()]

    def _hold_states(self) -> None:
        """Optimizer states of the step before, and gradients of the micro batch before."""
        plan = self.plan
        with self.memory.making("optimizer"):
            for weight in self.trained:
                size = optimizer_bytes(
                    plan.optim, tuple(weight.shape), weight.element_size(), galore_rank=plan.galore_rank
                )
                self._kept.append(torch.empty(size, dtype=torch.uint8))
        for weight in self.trained:
            weight.register_post_accumulate_grad_hook(lambda each: self.memory.hold(each.grad, "gradients"))
            if plan.accumulation > 1:
                weight.grad = torch.empty_like(weight)
                self.memory.hold(weight.grad, "gradients")

    def _watch_layers(self) -> None:
        layers = decoder_layers(self.model, int(text_config(self._architecture).num_hidden_layers))
        for index, layer in enumerate(layers):
            place = self._place_of(index, len(layers))
            layer.register_forward_pre_hook(self._entering(place))
            layer.register_forward_hook(self._leaving(place, last=index == len(layers) - 1))

    def _place_of(self, index: int, count: int) -> str:
        if index >= count - self._depths.period:
            return "late"
        return "early" if index < self._depths.near - self._depths.period else "middle"

    def _entering(self, place: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._enter(self._stage, place)

        return enter

    def _leaving(self, place: str, *, last: bool) -> Callable[..., None]:
        def leave(_: Any, __: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if self._stage == "forward" and hidden.requires_grad:
                hidden.register_hook(lambda grad: self._enter("backward", place))
            if last and self._stage != "backward":
                self._enter(self._stage, "head")

        return leave

    def _enter(self, stage: str, place: str) -> None:
        self._stage = stage
        self.memory.enter(f"{stage}, {place}")

    def _batch(self) -> dict[str, torch.Tensor]:
        plan = self.plan
        shape = (plan.model_rows, plan.model_length)
        ids = torch.zeros(shape, dtype=torch.long)
        batch = {"input_ids": ids}
        if plan.packed:
            batch["position_ids"] = torch.zeros(shape, dtype=torch.long)
        elif plan.attention != "flash_attention_2":  # its kernels take lengths, not a mask
            batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
        return batch

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        head, labels = self.plan.passes.head, batch["input_ids"]
        if head == "fused":
            return -self.model(**batch, labels=labels, fused_lm_head=True).log_probs.sum()
        logits = self.model(**batch, use_cache=False).logits
        if head == "score":
            return logits.float().sum()
        if self.plan.autocast:
            logits = logits.float()  # accelerate returns float32 from an autocast forward
        shifted = logits[:, :-1]
        half = logits.shape[0] // 2
        likelihood = torch.nn.functional.cross_entropy(
            shifted[:half].contiguous().reshape(-1, logits.shape[-1]), labels[:half, 1:].reshape(-1)
        )
        return likelihood - _log_probabilities(shifted, labels[:, 1:]).sum()

    def _without_gradient(self, stage: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self._enter(stage, "early")
        with torch.no_grad(), self._autocast():
            return self._loss(batch)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.plan.autocast is None:
            return contextlib.nullcontext()
        cast: contextlib.AbstractContextManager[Any] = torch.autocast("cpu", dtype=getattr(torch, self.plan.autocast))
        return cast

    def _generate(self) -> None:
        """The cache when the last token is sampled, and that token's logits in float32."""
        plan, text = self.plan, text_config(self._architecture)
        rows = plan.generated_rows
        self._enter("generation", "decoding")
        with self.memory.making("kv_cache"):
            size = cache_bytes(text, tokens=plan.length, rows=rows, element=BYTES[plan.autocast or plan.weights])
            cache = torch.empty(size, dtype=torch.uint8)
        scores = [torch.empty((rows, int(text.vocab_size)), dtype=torch.float32) for _ in range(3)]
        hidden = torch.empty((rows, int(text.hidden_size) * 16), dtype=torch.float32)
        del cache, scores, hidden

    def _optimize(self) -> None:
        self._enter("optimizer", "step")
        sizes = [weight.numel() * weight.element_size() for weight in self.trained]
        with self.memory.making("optimizer"):
            needed = step_bytes(self.plan.optim, max(sizes), sum(sizes), on_cuda=self.plan.device == "cuda")
            temporary = torch.empty(needed, dtype=torch.uint8)
        del temporary


def _log_probabilities(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As TRL's `selective_log_softmax`: at once in float32, row by row in half precision."""
    if logits.dtype in (torch.float32, torch.float64):
        chosen = torch.gather(logits, dim=-1, index=labels.unsqueeze(-1)).squeeze(-1)
        return chosen - torch.stack([torch.logsumexp(row, dim=-1) for row in logits])
    rows = [
        torch.nn.functional.log_softmax(row, dim=-1).gather(dim=-1, index=label.unsqueeze(-1)).squeeze(-1)
        for row, label in zip(logits, labels, strict=True)
    ]
    return torch.stack(rows)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries say of each other's calls to themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _head_as_on(device: Device) -> Iterator[None]:
    """On CUDA the fused head's tiles are folded by kernels in place; elsewhere by operations with temporaries.

    How many tokens a tile has is the device's, too.
    """
    from trl.kernels import chunked_logprob as module

    names = [name for name in ("_forward_tile", "_backward_tile") if device == "cuda" and hasattr(module, name)]
    originals = {name: getattr(module, name) for name in names}
    vars(module).update(dict.fromkeys(names, lambda *args, **kwargs: None))
    try:
        with logit_tiles_for(device):
            yield
    finally:
        vars(module).update(originals)
