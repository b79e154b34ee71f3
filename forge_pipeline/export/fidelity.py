"""Does the exported file still answer like the model it was made from?

The merged model in float32 (transformers) and the file (llama.cpp, as its users run it, with its
float16 key-value cache) read the same token ids of held-out texts; at every position the two
distributions over the whole vocabulary are compared. Largest logit differences are not looked
at: they say little, and a sound 8-bit file shows several units. The tokenizers are compared apart
from that, on the same texts and on strings made to be hard.

`Reference` computes the expensive half once for all files of one export.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.operation import FidelitySection, Quantization
from forge_pipeline.export.gguf_verify import STEPS, verify_gguf
from forge_pipeline.export.hard_strings import HARD_STRINGS
from forge_pipeline.export.llama_cpp import LlamaCpp
from forge_pipeline.export.result import ADAPTER, Fidelity, GgufFile, GgufModel
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.integrity import Digest
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MIN_TOKENS: Final = 64
"""Positions below which a comparison decides nothing."""


class Reference:
    """The merged model's answers: token ids and logits of each held-out text.

    Args:
        directory: The merged model, in Hugging Face form.
        texts: Held-out texts; the first `settings.prompts` that have at least two tokens are used.
        folder: An empty directory for the logits, which may be large (4 bytes x vocabulary x token).

    Raises:
        OptionalDependencyError: torch or transformers is not installed.
    """

    def __init__(self, directory: Path, texts: Sequence[str], settings: FidelitySection, folder: Path) -> None:
        transformers = require("transformers", extra="train", purpose="Fidelity checks")
        require("torch", extra="train", purpose="Fidelity checks")
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        self._folder = folder
        self._token_ids: list[list[int]] = []
        used: list[str] = []
        for text in texts:
            if len(used) == settings.prompts:
                break
            # A rendered chat template brings its own bos.
            special = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
            tokens = tokenizer(text, add_special_tokens=special)["input_ids"][: settings.max_tokens]
            if len(tokens) > 1:
                used.append(text)
                self._token_ids.append(list(tokens))
        self.prompts = len(used)
        self.longest = max((len(tokens) for tokens in self._token_ids), default=0)
        self._strings = {
            (text, special): list(tokenizer(text, add_special_tokens=special)["input_ids"])
            for text in (*used, *HARD_STRINGS.values())
            for special in (False, True)
        }
        self.threads = 1
        if used:
            self._compute(directory)

    def _compute(self, directory: Path) -> None:
        import numpy as np
        import torch
        import transformers

        self.threads = torch.get_num_threads()
        with quiet_libraries():
            # Eager attention, because sdpa leaves out Gemma 2's soft-capping.
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(directory), dtype=torch.float32, local_files_only=True, attn_implementation="eager"
            ).eval()
        for index, tokens in enumerate(self._token_ids):
            with torch.inference_mode():
                logits = model(torch.tensor([tokens])).logits[0]
            np.save(self._folder / f"{index}.npy", logits.float().numpy())

    def answers(self) -> "Iterator[tuple[list[int], npt.NDArray[np.float32]]]":
        """Token ids of each text that is used, and the merged model's logits after each of them, of shape (T, V)."""
        import numpy as np

        for index, tokens in enumerate(self._token_ids):
            yield tokens, np.load(self._folder / f"{index}.npy", allow_pickle=False)

    def compare(self, path: Path, quantization: str, *, adapter: Path | None = None) -> Fidelity:
        """Run the file at `path` over the same texts, with an adapter's file applied to it if there is one.

        Raises:
            OptionalDependencyError: ``xllamacpp`` is not installed.
            ExportError: llama.cpp does not load or run the file.
        """
        import numpy as np

        divergences, leads, losses, exported_losses = [], [], [], []
        with LlamaCpp(path, adapter=adapter, context=max(self.longest, 32), threads=self.threads) as llama:
            for tokens, logits in self.answers():
                expected = log_softmax(logits)
                found = log_softmax(llama.logits(tokens))
                divergences.append((np.exp(expected) * (expected - found)).sum(axis=1))
                leads.append(lead_over(expected, found))
                following = np.asarray(tokens[1:])[:, None]
                losses.append(-np.take_along_axis(expected[:-1], following, 1))
                exported_losses.append(-np.take_along_axis(found[:-1], following, 1))
            mismatches = {
                text
                for (text, special), token_ids in self._strings.items()
                if llama.tokenize(text, add_special=special) != token_ids
            }
        kl = np.maximum(np.concatenate(divergences), 0.0)  # rounding may leave a divergence just below zero
        lead = np.concatenate(leads)
        differing = lead[lead != 0.0]
        return Fidelity(
            quantization=quantization,
            tokens=len(kl),
            mean_kl=_rounded(kl.mean()),
            p99_kl=_rounded(np.quantile(kl, 0.99)),
            top1_agreement=_rounded((lead == 0.0).mean()),
            top1_differences=len(differing),
            top1_lead=_rounded(differing.max()) if len(differing) else 0.0,
            perplexity_reference=_rounded(np.exp(np.concatenate(losses).mean())),
            perplexity_exported=_rounded(np.exp(np.concatenate(exported_losses).mean())),
            tokenizer_mismatches=len(mismatches),
            prompts=self.prompts,
            tokenizer_texts=len({text for text, _ in self._strings}),
            # Held-out texts may be anybody's words; they are counted, not named.
            mismatched=tuple(name for name, text in HARD_STRINGS.items() if text in mismatches),
        )


def lead_over(expected: "npt.NDArray[np.float64]", found: "npt.NDArray[np.float64]") -> "npt.NDArray[np.float64]":
    """By how many nats `expected` prefers its own most likely token to that of `found`, of shape (T,).

    0.0 where both pick the same token, or one that `expected` holds to be exactly as likely.

    Args:
        expected, found: Log-probabilities of shape (T, V).
    """
    import numpy as np

    picked = np.take_along_axis(expected, found.argmax(axis=1)[:, None], 1)[:, 0]
    lead: npt.NDArray[np.float64] = expected.max(axis=1) - picked
    return lead


def log_softmax(logits: "npt.NDArray[np.float32]") -> "npt.NDArray[np.float64]":
    """Log-probabilities of shape (T, V)."""
    import numpy as np

    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def _rounded(value: "np.floating") -> float:
    """Four significant digits: what is meaningful, and the same on another number of threads."""
    return float(f"{float(value):.4g}")


def fidelity_gates(config: ForgeConfig, exported: GgufModel) -> tuple[GateDecision, ...]:
    """Gates ``gguf_is_valid`` and ``gguf_is_faithful`` on exactly the bytes of `exported`."""
    return (_valid_gate(exported), _faithful_gate(config.export.fidelity, exported))


def _valid_gate(exported: GgufModel) -> GateDecision:
    faults = [fault for file in exported.report.files if (fault := _fault(exported.path / file.name, file.digest))]
    count = len(exported.report.files)
    outcome: Outcome = "fail" if faults or not count else "pass"
    reason = "; ".join(faults) or (
        f"{count} of {count} files are well-formed, complete and hold finite values" if count else "there are no files"
    )
    return GateDecision(
        "gguf_is_valid", outcome, reason, exported.digest, guards=("release",), metric="invalid files",
        observed=float(len(faults)), threshold=0.0, n=count,
    )  # fmt: skip


def _fault(path: Path, recorded: Digest) -> str | None:
    try:
        result = verify_gguf(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error}"
    if not result.valid:
        return f"{path.name}: {result.reason}"
    unchecked = [step for step in STEPS if result.checks[step] != "passed"]
    if unchecked:
        return f"{path.name}: {unchecked[0]} {result.checks[unchecked[0]]}"
    if result.checks["digest"] != recorded:
        return f"{path.name} is {result.checks['digest']}, the report says {recorded}"
    return None


def _faithful_gate(settings: FidelitySection, exported: GgufModel) -> GateDecision:
    report = exported.report
    outcome, reason = _judge(settings, report.files, report.chat_template_equal)
    limits = _by_name(settings.max_mean_kl)
    limited = [file.fidelity for file in report.files if file.fidelity and _row(file.quantization) in limits]
    # The one nearest to its limit, or furthest beyond it.
    worst = max(limited, key=lambda fidelity: fidelity.mean_kl - limits[_row(fidelity.quantization)], default=None)
    return GateDecision(
        gate="gguf_is_faithful",
        outcome=outcome,
        reason=reason,
        subject=exported.digest,
        guards=("release",),
        metric=f"mean_kl[{worst.quantization}]" if worst else None,
        observed=worst.mean_kl if worst else None,
        threshold=limits[_row(worst.quantization)] if worst else None,
        n=worst.tokens if worst else None,
    )


def _by_name(limits: Mapping[Quantization, float]) -> dict[str, float]:
    return {str(quantization): limit for quantization, limit in limits.items()}


def _row(quantization: str) -> str:
    """Whose limits hold for a file: an adapter is measured beside its base in f16."""
    return "f16" if quantization == ADAPTER else quantization


def _judge(
    settings: FidelitySection, files: Sequence[GgufFile], chat_template_equal: bool | None
) -> tuple[Outcome, str]:
    if not settings.enabled:
        return "not_run", "export.fidelity.enabled is false"
    unmeasured = [file.name for file in files if file.fidelity is None]
    if unmeasured or not files:
        return "not_run", f"not measured: {', '.join(unmeasured) or 'there are no files'}; it needs llama.cpp and texts"
    measured = [file.fidelity for file in files if file.fidelity is not None]
    faults = [fault for fidelity in measured for fault in _faults(settings, fidelity)]
    if chat_template_equal is False:
        faults.append("the chat template in the file is not the tokenizer's")
    if faults:
        return "fail", "; ".join(faults)
    fewest = min(fidelity.tokens for fidelity in measured)
    if fewest < MIN_TOKENS:
        return "insufficient_evidence", f"only {fewest} positions compared; at least {MIN_TOKENS} are needed"
    limited = {str(each) for each in settings.max_mean_kl.keys() | settings.min_top1.keys()}
    judged = [f"{f.quantization}: mean KL {f.mean_kl:g}, top-1 {f.top1_agreement:.1%}" for f in measured]
    unlimited = [fidelity.quantization for fidelity in measured if _row(fidelity.quantization) not in limited]
    if len(unlimited) == len(measured):
        where = "export.fidelity.max_mean_kl"
        return "not_run", f"no threshold for {', '.join(unlimited)} ({'; '.join(judged)}); set one in {where}"
    note = f" ({', '.join(unlimited)}: reported only)" if unlimited else ""
    return "pass", "; ".join(judged) + note


def _margin(fidelity: Fidelity) -> str:
    """How firmly the merged model held what the file answers otherwise: near 0 nats, such positions were ties."""
    if not fidelity.top1_differences:
        return ""
    return f" ({fidelity.top1_differences} of {fidelity.tokens} positions, led by at most {fidelity.top1_lead:g} nats)"


def _faults(settings: FidelitySection, fidelity: Fidelity) -> list[str]:
    row, name = _row(fidelity.quantization), fidelity.quantization
    faults = []
    limit = _by_name(settings.max_mean_kl).get(row)
    if limit is not None and not fidelity.mean_kl <= limit:
        faults.append(f"{name}: mean KL {fidelity.mean_kl:g} exceeds {limit:g}")
    limit = _by_name(settings.max_p99_kl).get(row)
    if limit is not None and not (fidelity.p99_kl is not None and fidelity.p99_kl <= limit):
        faults.append(f"{name}: KL at 99 % of the positions {fidelity.p99_kl:g} exceeds {limit:g}")
    share = _by_name(settings.min_top1).get(row)
    if share is not None and not fidelity.top1_agreement >= share:
        faults.append(f"{name}: top-1 agreement {fidelity.top1_agreement:.2%} is below {share:.2%}{_margin(fidelity)}")
    limit = _by_name(settings.max_perplexity_rise).get(row)
    if limit is not None and not fidelity.perplexity_rise <= limit:
        faults.append(f"{name}: perplexity rises by {fidelity.perplexity_rise:.2%}, more than {limit:.2%}")
    if fidelity.tokenizer_mismatches:
        named = f" ({', '.join(fidelity.mismatched)})" if fidelity.mismatched else ""
        faults.append(f"{name}: {fidelity.tokenizer_mismatches} texts are tokenized differently{named}")
    return faults
