"""A fine-tuned model as GGUF files for llama.cpp and its kin, verified and measured."""

from forge_pipeline.export.adapter_gguf import export_adapter_gguf
from forge_pipeline.export.fidelity import fidelity_gates
from forge_pipeline.export.gguf_reader import GgufFormatError, GgufHeader, read_gguf
from forge_pipeline.export.gguf_verify import VerifyGgufResult, verify_gguf
from forge_pipeline.export.gguf_writer import write_gguf, write_ggufs
from forge_pipeline.export.llama_cpp import LlamaCpp, run_gguf
from forge_pipeline.export.result import ExportReport, Fidelity, GgufFile, GgufModel
from forge_pipeline.export.stage import gguf

__all__ = [
    "ExportReport",
    "Fidelity",
    "GgufFile",
    "GgufFormatError",
    "GgufHeader",
    "GgufModel",
    "LlamaCpp",
    "VerifyGgufResult",
    "export_adapter_gguf",
    "fidelity_gates",
    "gguf",
    "read_gguf",
    "run_gguf",
    "verify_gguf",
    "write_gguf",
    "write_ggufs",
]
