"""What the export stage hands on: `GgufModel`, a directory of GGUF files and the report on them."""

from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.errors import ExportError
from forge_pipeline.integrity import Digest, DirectoryArtifact, read_report

EXPORT_REPORT_FILE = "export_report.json"
ADAPTER = "adapter"
"""What stands for the quantization of the file that holds the adapter alone."""


@dataclass(frozen=True)
class Fidelity:
    """How far one exported file, run by llama.cpp, is from the merged model in float32.

    Distances are over the whole vocabulary at every position of the held-out texts, in nats.

    Attributes:
        tokens: Positions compared.
        mean_kl, p99_kl: Of KL(merged model || exported file) per position.
        top1_agreement: Share of positions whose most likely token is the same, or one that the merged model holds
            to be exactly as likely; 0.0 to 1.0.
        perplexity_reference, perplexity_exported: On those texts.
        tokenizer_mismatches: Texts, held-out and built-in hard ones, that the two tokenizers split differently.
        prompts: Held-out texts compared.
        tokenizer_texts: Texts that both tokenizers were given; None in older reports.
        mismatched: Names of the built-in hard texts among the mismatches.
        top1_differences: The other positions; None in older reports.
        top1_lead: The most, over those positions, by which the merged model prefers its own token to the file's, in
            nats: 0.005 is half a percent of probability, a tie that rounding decides. None in older reports.
    """

    quantization: str
    tokens: int
    mean_kl: float
    p99_kl: float | None
    top1_agreement: float
    perplexity_reference: float
    perplexity_exported: float
    tokenizer_mismatches: int
    prompts: int
    tokenizer_texts: int | None = None
    mismatched: tuple[str, ...] = ()
    top1_differences: int | None = None
    top1_lead: float | None = None

    @property
    def perplexity_rise(self) -> float:
        """By which share the file's perplexity exceeds the merged model's; negative where it is lower."""
        return self.perplexity_exported / self.perplexity_reference - 1.0


@dataclass(frozen=True)
class GgufFile:
    """One exported file.

    Attributes:
        name: File name in the artefact's directory.
        quantization: Or `ADAPTER`.
        size: In bytes.
        tensor_types: ggml type to number of tensors: what the file holds, whatever its label says.
        fidelity: None where it was not measured.
    """

    name: str
    quantization: str
    size: int
    digest: Digest
    tensor_types: dict[str, int]
    bits_per_weight: float
    fidelity: Fidelity | None


@dataclass(frozen=True)
class ExportReport:
    """What was exported from which model.

    Attributes:
        model_digest: Of the model directory (adapter or full) that was exported.
        architecture: GGUF architecture.
        chat_template_equal: Whether every file's chat template is the tokenizer's, byte for byte.
        runtime: The llama.cpp that fidelity was measured with; None if it was not.
    """

    model_digest: Digest
    architecture: str
    files: tuple[GgufFile, ...]
    chat_template_equal: bool | None
    runtime: str | None


@dataclass(frozen=True)
class GgufModel(DirectoryArtifact):
    """GGUF files of one model, an Ollama ``Modelfile`` and ``export_report.json``."""

    @property
    def report(self) -> ExportReport:
        return read_report(self.path / EXPORT_REPORT_FILE, ExportReport)

    def file(self, quantization: str) -> Path:
        """Where the file of that quantization lies.

        Raises:
            ExportError: There is none.
        """
        files = {file.quantization: file.name for file in self.report.files}
        if quantization not in files:
            raise ExportError(f"{self.path} has no {quantization} file; it has {', '.join(files)}")
        return self.path / files[quantization]
