"""Top-1 agreement of the f16 file on a sample large enough to say, and whether what differs are ties.

A share of 99.9 % cannot be told from 99.8 % on two thousand positions, so the f16 file alone is compared on about ten
thousand. Beside it stands the model itself in transformers, computing in float16 (weights, activations, cache):
what half precision alone changes, with no GGUF and no llama.cpp in it.

Per answerer: positions that it answers otherwise than the model in float32, and by how many nats float32 led there.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Logits = Callable[[Sequence[int]], npt.NDArray[np.float32]]

FINEST_LEADS: Final = (0.001, 0.005, 0.01)  # nats


@dataclass(frozen=True)
class Top1:
    """How one answerer's most likely tokens compare with the model's in float32.

    Attributes:
        positions, texts: Compared.
        mean_kl: In nats, over the whole vocabulary.
        leads: At each position answered otherwise, by how many nats float32 preferred its own token; ascending.
        ties: For each of `FINEST_LEADS`, positions of the sample where float32's first token leads its second by less.
    """

    positions: int
    texts: int
    mean_kl: float
    leads: tuple[float, ...]
    ties: tuple[int, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """Of the agreement, 95 %, as if positions were independent."""
        from forge_pipeline.evaluation import wilson_interval

        return wilson_interval(self.positions - len(self.leads), self.positions)


def measure(model: Path, file: Path, texts: Sequence[str], tokens: int) -> dict[str, Top1]:
    """The file and transformers in float16, each beside transformers in float32, on the same token ids.

    Args:
        model: The directory that `file` was made from.
        tokens: Taken of each text.
    """
    import torch
    import transformers

    from forge_pipeline.config.operation import FidelitySection
    from forge_pipeline.export import LlamaCpp
    from forge_pipeline.export.fidelity import Reference

    def in_half(token_ids: Sequence[int]) -> "npt.NDArray[np.float32]":
        with torch.inference_mode():
            rows: npt.NDArray[np.float32] = half(torch.tensor([list(token_ids)])).logits[0].float().numpy()
        return rows

    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=file.parent)))
        reference = Reference(model, texts, FidelitySection(prompts=len(texts), max_tokens=tokens), work)
        llama = stack.enter_context(LlamaCpp(file, context=reference.longest, threads=1))
        half = transformers.AutoModelForCausalLM.from_pretrained(
            str(model), dtype=torch.float16, local_files_only=True, attn_implementation="eager"
        ).eval()
        return {
            "the f16 file in llama.cpp": _compare(reference, llama.logits),
            "transformers in float16": _compare(reference, in_half),
        }


def _compare(reference: Any, answer: "Logits") -> Top1:
    import numpy as np

    from forge_pipeline.export.fidelity import lead_over, log_softmax

    divergences, leads, gaps = [], [], []
    for token_ids, logits in reference.answers():
        expected, found = log_softmax(logits), log_softmax(answer(token_ids))
        divergences.append((np.exp(expected) * (expected - found)).sum(axis=1))
        leads.append(lead_over(expected, found))
        second, first = np.partition(expected, -2, axis=1)[:, -2:].T
        gaps.append(first - second)
    kl, lead, gap = np.maximum(np.concatenate(divergences), 0.0), np.concatenate(leads), np.concatenate(gaps)
    return Top1(
        positions=len(lead),
        texts=reference.prompts,
        mean_kl=float(kl.mean()),
        leads=tuple(sorted(float(each) for each in lead[lead != 0.0])),
        ties=tuple(int((gap < limit).sum()) for limit in FINEST_LEADS),
    )


def section(found: dict[str, Top1], tokens: int) -> list[str]:
    """The results as lines of Markdown."""
    some = next(iter(found.values()))
    rows = [
        f"| {name} | {row.mean_kl:.2g} | {len(row.leads)} of {row.positions:,} | "
        f"{1 - len(row.leads) / row.positions:.3%} | {row.interval[0]:.2%} to {row.interval[1]:.2%} | "
        f"{max(row.leads, default=0.0):.2g} |"
        for name, row in found.items()
    ]
    ties = ", ".join(f"{count} by less than {limit:g}" for count, limit in zip(some.ties, FINEST_LEADS, strict=True))
    return [
        "## Top-1 of f16, on a larger sample",
        "",
        f"{some.positions:,} positions of {some.texts} dialogues, at most {tokens} tokens each, against transformers "
        "in float32. The interval is Wilson's, 95 %, as if positions were independent. The lead is by how many nats "
        "float32 preferred its own token to the one answered, at most, over the positions answered otherwise.",
        "",
        "| answers | mean KL | answered otherwise | top-1 | interval | largest lead |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Of these positions, float32's own first token leads its second at {ties} nats. "
        "Where the answers differ on one of them, the table counts a difference all the same.",
    ]
