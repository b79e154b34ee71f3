"""lm-eval's view of a model object, which computes once what requests have in common.

Tasks, prompts, tokenization, truncation and metrics stay lm-eval's: the class extends its
`HFLM` and replaces how token sequences become log-likelihoods. Requests are laid out as
trees of tokens (`token_trees`) under a four-dimensional attention mask, and the language
model's head is applied to the scored positions alone.

Not every model reads such a mask: linear attention has none, ALiBi counts positions by
itself, some attention kernels ignore it. Before the first use the model is asked the same
tokens both ways (`why_ordinary`); where the answers differ, lm-eval's own path is taken,
and the reason said. Requests longer than a sliding window take it too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation.token_trees import TokenTree, build_trees

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OnRequests = Callable[[int, int], None]
_Scored = tuple[float, bool]  # log-likelihood of a continuation, and whether greedy decoding would write it

_READS_MASKS = ("sdpa", "eager")  # attention implementations that take a mask of four dimensions
_CPU_BATCH_SIZE = 8  # of lm-eval's own path; "auto" would probe batches of 64 full contexts: minutes on a CPU
_ROWS = {"cpu": 2, "cuda": 16}  # of a forward pass; more of them only cost memory
_MOST_SCORED = 4096  # positions of a forward pass, each of which costs a row of logits


def shared_prefix_lm(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    batch_size: int | None = None,
    on_requests: OnRequests = lambda done, total: None,
) -> Any:
    """An lm-eval `LM` around `model`.

    Args:
        model: A causal language model on whatever device it lies, or an encoder-decoder, which takes lm-eval's own
            path. Its mode becomes evaluation.
        tokenizer: Its tokenizer; it is copied, because lm-eval changes the one it is given.
        batch_size: Rows per forward pass; a row holds all that begins alike, or up to 512 tokens of the rest. None:
            2 on a CPU, 16 on CUDA (what fits, where text is generated).
        on_requests: Called with (scored, all) after each forward pass.

    Returns:
        The `LM`, with `truncated` (requests longer than the context, cut on the left) and `ordinary`
        (why lm-eval's own path was taken for all or some requests; None where it was not).

    Raises:
        OptionalDependencyError: lm-eval is not installed.
    """
    from copy import deepcopy

    huggingface = require("lm_eval.models.huggingface", extra="eval", purpose="Benchmarks")
    base: Any = huggingface.HFLM

    class SharedPrefixLM(base):  # type: ignore[misc]
        def __init__(self) -> None:
            own = batch_size or ("auto" if model.device.type == "cuda" else _CPU_BATCH_SIZE)
            super().__init__(pretrained=model, tokenizer=deepcopy(tokenizer), batch_size=own)
            self.done = self.total = self.truncated = 0
            self.ordinary: str | None = None
            self._shares: bool | None = None

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.total += len(requests)
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            windows: list[tuple[None, list[int], list[int]]] = []
            owners: list[int] = []
            for owner, request in enumerate(requests):
                found = _windows(self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length)
                windows += ((None, before, after) for before, after in found)
                owners += [owner] * len(found)
            self.total += len(windows)
            # HFLM looks up windows of equal tokens in its cache and reads the wrong positions of a shorter one.
            looks_up: bool = self.logits_cache
            self.logits_cache: bool = False
            try:
                scored = self._loglikelihood_tokens(windows)
            finally:
                self.logits_cache = looks_up
            sums = [0.0] * len(requests)
            for owner, (value, _) in zip(owners, scored, strict=True):
                sums[owner] += value
            return sums

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.total += len(requests)
            return super().generate_until(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: Any = None) -> Any:
            room = self.max_length
            # A context of spaces alone has no tokens of its own: they belong to what follows.
            requests = [(text, before or [self.prefix_token_id], after) for text, before, after in requests]
            for text, _, after in requests:
                if not after:
                    raise EvaluationError(f"nothing to score: the continuation of {text!r} has no tokens")
                if len(after) > room:
                    raise EvaluationError(
                        f"a continuation of {len(after)} tokens exceeds the model's context of {room}; "
                        "leave the task out, or take a model with a longer context"
                    )
            self.truncated += sum(len(before) + len(after) > room + 1 for _, before, after in requests)
            fits = [min(len(before) + len(after) - 1, room) <= self._longest() for _, before, after in requests]
            results: list[_Scored] = [(0.0, False)] * len(requests)
            shared = [index for index, fit in enumerate(fits) if fit]
            rest = [index for index, fit in enumerate(fits) if not fit]
            if rest and self._shares:
                self.ordinary = f"{len(rest)} requests are longer than the model's attention window"
            for index, result in zip(shared, self._score([requests[index] for index in shared]), strict=True):
                results[index] = result
            if rest:
                own = super()._loglikelihood_tokens([requests[index] for index in rest], disable_tqdm=True)
                for index, result in zip(rest, own, strict=True):
                    results[index] = result
            return results

        def _longest(self) -> int:
            """Tokens of the longest input that may stand in a tree; 0 where this model reads no such masks."""
            if self._shares is None:
                self.ordinary = why_ordinary(model)
                self._shares = self.ordinary is None
            return attention_window(model) or self.max_length if self._shares else 0

        def _score(self, requests: Sequence[Any]) -> list[_Scored]:
            sequences = [(before + after)[-(self.max_length + 1) :] for _, before, after in requests]
            scored = [len(after) for _, _, after in requests]
            trees = build_trees([sequence[:-1] for sequence in sequences], scored)
            results: dict[int, _Scored] = {}
            for batch in _batches(trees, batch_size or _ROWS.get(model.device.type, 4)):
                results |= _score_trees(model, batch, sequences)
                self._count(sum(len(tree.paths) for tree in batch))
            return [results[index] for index in range(len(requests))]

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            logits = super()._model_call(inps, *args, **kwargs)
            self._count(int(inps.shape[0]))  # inps: (B, T)
            return logits

        def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            tokens = super()._model_generate(context, *args, **kwargs)
            self._count(int(context.shape[0]))
            return tokens

        def _count(self, more: int) -> None:
            self.done = min(self.done + more, self.total)
            on_requests(self.done, self.total)

    return SharedPrefixLM()


def attention_window(model: "PreTrainedModel") -> int | None:
    """Tokens that a layer with local attention looks back over; None where every layer sees everything."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if isinstance(window, int) and window > 0), default=None)


def why_ordinary(model: "PreTrainedModel") -> str | None:
    """Why trees of tokens cannot be scored with this model; None if they can, which was tried.

    A trunk with two branches must give the second branch the log-probabilities that it has without the first. How
    far they are off is held against how far they would be off if the model ignored mask and positions.
    """
    import torch

    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _READS_MASKS:
        return f"its attention implementation is {attention}; expected one of {', '.join(_READS_MASKS)}"
    head = model.get_output_embeddings()
    if head is None:
        return "it has no output embeddings"
    trunk, one, other = (
        [(step * place + 3) % config.vocab_size for place in range(length)]
        for step, length in ((7, 8), (11, 12), (13, 12))
    )
    tree = TokenTree()
    tree.add(0, trunk + one, len(one))
    tree.add(1, trunk + other, len(other))
    try:
        with torch.no_grad():
            branched = _logits(model, [tree], tree.paths[1])
            alone = _plain_logits(model, trunk + other)[-len(other) :]
            ignoring = _plain_logits(model, trunk + one + other)[-len(other) :]
    except Exception as error:  # a model is a plugin: whatever it does with such a mask, it does not read it
        return f"it refuses an attention mask of four dimensions ({type(error).__name__})"
    if branched.shape != alone.shape:
        return f"it gives logits of shape {tuple(branched.shape)}; expected {tuple(alone.shape)}"
    wrong = float((branched - alone).abs().mean())
    ignored = float((ignoring - alone).abs().mean())
    if not wrong <= 0.1 * ignored:  # NaN too
        return f"an attention mask of four dimensions does not have its effect (off by {wrong:.2g} of {ignored:.2g})"
    return None


def _windows(tokens: list[int], prefix_token: int, length: int) -> list[tuple[list[int], list[int]]]:
    """lm-eval's cuts of a long text: (context, scored tokens), each token scored once."""
    from lm_eval import utils

    found = utils.get_rolling_token_windows(
        token_list=tokens, prefix_token=prefix_token, max_seq_len=length, context_len=1
    )
    return [utils.make_disjoint_window(window) for window in found]


def _batches(trees: Sequence[TokenTree], rows: int) -> Iterator[list[TokenTree]]:
    batch: list[TokenTree] = []
    scored = 0
    for tree in trees:
        wanted = sum(map(len, tree.paths.values()))
        if batch and (len(batch) == rows or scored + wanted > _MOST_SCORED):
            yield batch
            batch, scored = [], 0
        batch.append(tree)
        scored += wanted
    if batch:
        yield batch


def _score_trees(
    model: "PreTrainedModel", batch: Sequence[TokenTree], sequences: Sequence[list[int]]
) -> dict[int, _Scored]:
    """Log-likelihood of each sequence's last tokens, and whether each is the likeliest there."""
    import numpy as np
    import torch

    width = max(map(len, batch))
    names, places, targets = [], [], []
    for row, tree in enumerate(batch):
        for name, path in tree.paths.items():
            names.append((name, len(path)))
            places += [row * width + node for node in path]
            targets += sequences[name][-len(path) :]
    wanted, where = np.unique(np.array(places, dtype=np.int64), return_inverse=True)
    with torch.no_grad():
        logits = _logits(model, batch, wanted.tolist())  # (N, V)
        at = torch.from_numpy(where).to(logits.device)
        target = torch.tensor(targets, device=logits.device)
        logs = (logits[at, target].float() - logits.float().logsumexp(-1)[at]).cpu()
        likeliest = (logits.argmax(-1)[at] == target).cpu()
    results, start = {}, 0
    for name, length in names:
        span = slice(start, start + length)
        results[name] = (float(logs[span].sum()), bool(likeliest[span].all()))
        start += length
    return results


def _logits(model: "PreTrainedModel", batch: Sequence[TokenTree], places: Sequence[int]) -> "torch.Tensor":
    """Logits at `places`, counted through the padded rows: (N, V)."""
    import torch

    width = max(map(len, batch))
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    depths = torch.zeros(len(batch), width, dtype=torch.long)
    hidden = torch.finfo(model.dtype).min
    # Padding sees itself, because a row of the softmax in which nothing is seen is not a number.
    mask = torch.full((len(batch), 1, width, width), hidden, dtype=model.dtype)
    mask[:, 0].diagonal(dim1=1, dim2=2).zero_()
    for row, tree in enumerate(batch):
        tokens[row, : len(tree)] = torch.tensor(tree.tokens)
        depths[row, : len(tree)] = torch.tensor(tree.depths)
        mask[row, 0, : len(tree), : len(tree)].masked_fill_(torch.from_numpy(tree.visible()), 0.0)
    device = model.device
    with _head_only_at(model, torch.tensor(places, device=device)):
        found = model(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=depths.to(device),
            use_cache=False,
        ).logits
    logits: torch.Tensor = found[0]
    return logits


def _plain_logits(model: "PreTrainedModel", tokens: list[int]) -> "torch.Tensor":
    import torch

    logits: torch.Tensor = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0]
    return logits


@contextmanager
def _head_only_at(model: "PreTrainedModel", places: "torch.Tensor") -> Iterator[None]:
    """Give the head only the hidden states at `places`: (B, L, D) -> (1, N, D). What scales logits after it stays."""

    def select(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = arguments[0]
        return (hidden.reshape(1, -1, hidden.shape[-1]).index_select(1, places), *arguments[1:])

    head: Any = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
