"""Which tensor gets which type, and what the rows become."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.config.operation import Quantization
from forge_pipeline.errors import ExportError
from forge_pipeline.export.architectures import CATALOGUES
from forge_pipeline.export.gguf_verify import verify_gguf
from forge_pipeline.export.gguf_writer import write_gguf
from forge_pipeline.export.llama_cpp import LlamaCpp
from forge_pipeline.export.quantize import TypePolicy, quantize_rows

SMOLLM2_135M = {
    "embedding": 576, "feed_forward": 1536, "queries": 576, "attended": 576, "keys": 192, "values": 192,
    "vocabulary": 49152, "head": 64, "half_head": 32,
}  # fmt: skip


def histogram(quantization: Quantization, sizes: dict[str, int], blocks: int) -> dict[str, int]:
    catalogue, policy = CATALOGUES["llama"], TypePolicy(quantization, blocks, tied=True)
    types = []
    for name in catalogue.required_names(blocks):
        dims = catalogue.dims(name, sizes)
        assert dims is not None
        types.append(policy.type_of(name, dims))
    return dict(Counter(types))


def test_q4_k_m_of_smollm2_is_mostly_five_bits() -> None:
    """What llama.cpp's own quantizer makes of it: 16 Q4_K tensors, because 576 is not a multiple of 256."""
    found = histogram("q4_k_m", SMOLLM2_135M, 30)
    assert found["Q4_K"] == 16
    assert found["F32"] == 61
    assert sum(found.values()) == 272
    assert found["Q5_0"] > 150


def test_a_wide_model_gets_its_label() -> None:
    wide = SMOLLM2_135M | {"embedding": 2048, "feed_forward": 8192, "queries": 2048, "attended": 2048}
    # Blocks 0-2, 21-23 and every third between: 11 of 24, each with two tensors, and the output matrix.
    assert histogram("q4_k_m", wide, 24) == {"Q6_K": 23 + 2, "F32": 49, "Q4_K": 24 * 7 - 24}


@pytest.mark.parametrize("quantization", ["bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m"])
def test_every_quantization_runs_and_stays_near(
    quantization: Quantization, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    import numpy as np

    directory = tiny_model(hidden_size=256, intermediate_size=512, head_dim=64, initializer_range=0.05)
    write_gguf(directory, tmp_path / "full.gguf", "f32")
    write_gguf(directory, tmp_path / "small.gguf", quantization)
    result = verify_gguf(tmp_path / "small.gguf")
    assert result.valid, result.reason
    tokens = list(range(3, 40))
    with LlamaCpp(tmp_path / "full.gguf") as full, LlamaCpp(tmp_path / "small.gguf") as small:
        expected, found = full.logits(tokens), small.logits(tokens)
    error = np.abs(expected - found).mean() / expected.std()
    limits = {"bf16": 0.02, "q8_0": 0.04, "q6_k": 0.08, "q5_k_m": 0.15, "q4_k_m": 0.3, "q3_k_m": 0.5}
    assert error < limits[quantization]


@pytest.mark.parametrize("type_name", ["Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "Q5_1", "IQ4_NL"])
def test_native_rows_decode_to_what_went_in(type_name: str) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    rows = np.random.default_rng(0).standard_normal((7, 512)).astype(np.float32)
    encoded = quantize_rows(rows, type_name, threads=3)
    assert (encoded == quantize_rows(rows, type_name, threads=1)).all()
    decoded = quants.dequantize(encoded, GGMLQuantizationType[type_name])
    assert np.abs(decoded - rows).mean() < 0.2


def test_infinite_values_are_refused_before_ggml_sees_them() -> None:
    import numpy as np

    with pytest.raises(ExportError, match="NaN or infinite"):
        quantize_rows(np.full((1, 256), np.inf, np.float32), "Q4_K")
