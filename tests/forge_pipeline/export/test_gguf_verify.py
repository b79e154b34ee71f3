"""verify_gguf on files that are well-formed but wrong."""

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.export.gguf_reader import parse_gguf
from forge_pipeline.export.gguf_verify import STEPS, verify_gguf
from forge_pipeline.integrity import Digest, report_to_json


def rewrite(source: Path, destination: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """Write a GGUF again after `change(metadata, tensors)`, with the gguf package itself."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    metadata = {
        key: (field.contents(), field.types[0], field.types[-1])
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key != "general.architecture"
    }
    tensors = {tensor.name: (np.array(tensor.data), tensor.tensor_type) for tensor in reader.tensors}
    change(metadata, tensors)
    writer = gguf.GGUFWriter(destination, reader.fields["general.architecture"].contents())
    for key, (value, kind, inner) in metadata.items():
        writer.add_key_value(key, value, kind, inner if kind == gguf.GGUFValueType.ARRAY else None)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return destination


def put(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Change one metadata value, keeping its type."""

    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        metadata[key] = (value, *metadata[key][1:])

    return change


def drop(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        del (tensors if name in tensors else metadata)[name]

    return change


def rename(old: str, new: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[new] = tensors.pop(old)

    return change


def poison(name: str, value: float) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name][0].reshape(-1)[7] = value

    return change


def shorten(key: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        metadata[key] = (metadata[key][0][:-1], *metadata[key][1:])

    return change


def bad_merge(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    merges = metadata["tokenizer.ggml.merges"][0]
    merges[3] = "Q Z"
    metadata["tokenizer.ggml.merges"] = (merges, *metadata["tokenizer.ggml.merges"][1:])


def test_a_sound_file_is_valid_and_described(llama_gguf: Path) -> None:
    result = verify_gguf(str(llama_gguf))
    assert result.valid, result.reason
    assert result.reason is None
    assert [result.checks[step] for step in STEPS] == ["passed"] * 5
    assert result.checks["digest"] == Digest.of_file(llama_gguf)
    assert result.checks["architecture"] == "llama"
    assert result.checks["block_count"] == 2
    assert result.checks["tensor_types"] == {"F16": 15, "F32": 5}
    assert 16 < result.checks["bits_per_weight"] < 17
    assert result.checks["provenance"] == {"forge.model_digest": "sha256:" + "0" * 64}
    assert report_to_json(result)["valid"] is True


WRONG: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], None], str]] = {
    "one block too many": (put("llama.block_count", 3), "block_count is 3, but tensors belong to 2 blocks"),
    "one block too few": (put("llama.block_count", 1), "block_count is 1"),
    "no context length": (drop("llama.context_length"), "context_length is missing"),
    "heads of zero": (put("llama.attention.head_count", 0), "head_count is 0"),
    "an epsilon of NaN": (put("llama.attention.layer_norm_rms_epsilon", float("nan")), "epsilon is nan"),
    "a missing tensor": (drop("blk.1.attn_v.weight"), "tensor blk.1.attn_v.weight is missing"),
    "a foreign tensor": (rename("blk.1.attn_v.weight", "blk.1.attn_qkv.weight"), "is missing"),
    "another width": (put("llama.feed_forward_length", 128), "has dimensions"),
    "fewer tokens than rows": (shorten("tokenizer.ggml.tokens"), "has dimensions"),
    "fewer types than tokens": (shorten("tokenizer.ggml.token_type"), "token_type does not have one entry"),
    "no tokenizer": (drop("tokenizer.ggml.model"), "tokenizer.ggml.model is missing"),
    "no merges": (drop("tokenizer.ggml.merges"), "merges"),
    "a merge of unknown tokens": (bad_merge, r"merges\[3\] 'Q Z' does not join"),
    "an eos beyond the vocabulary": (put("tokenizer.ggml.eos_token_id", 99999), "eos_token_id is 99999"),
    "NaN in float16": (poison("blk.0.ffn_up.weight", float("nan")), "blk.0.ffn_up.weight"),
    "infinity in float32": (poison("output_norm.weight", float("inf")), "output_norm.weight"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_file_is_invalid_and_says_where(
    change: Callable[[dict[str, Any], dict[str, Any]], None], words: str, llama_gguf: Path, tmp_path: Path
) -> None:
    import re

    result = verify_gguf(rewrite(llama_gguf, tmp_path / "wrong.gguf", change))
    assert not result.valid
    assert result.reason is not None
    assert re.search(words, result.reason), result.reason
    assert "failed" in [result.checks[step] for step in STEPS]


def test_rewriting_without_a_change_stays_valid(llama_gguf: Path, tmp_path: Path) -> None:
    assert verify_gguf(rewrite(llama_gguf, tmp_path / "same.gguf", lambda metadata, tensors: None)).valid


def test_an_infinite_block_scale_is_found(llama_directory: Path, tmp_path: Path) -> None:
    from forge_pipeline.export.gguf_writer import write_gguf

    path = tmp_path / "q8.gguf"
    write_gguf(llama_directory, path, "q8_0")
    data = bytearray(path.read_bytes())
    tensor = next(tensor for tensor in parse_gguf(bytes(data)).tensors if tensor.type.name == "Q8_0")
    data[tensor.offset + 34 : tensor.offset + 36] = struct.pack("<H", 0x7C00)
    path.write_bytes(data)
    result = verify_gguf(path)
    assert result.reason == f"values: tensor {tensor.name} (Q8_0) holds 1 blocks with a NaN or infinite scale"


def test_an_unknown_architecture_is_said_to_be_unchecked(llama_gguf: Path, tmp_path: Path) -> None:
    data = llama_gguf.read_bytes().replace(b"llama", b"lhama")
    (tmp_path / "other.gguf").write_bytes(data)
    result = verify_gguf(tmp_path / "other.gguf")
    assert result.valid
    assert result.checks["tensors"].startswith("not checked")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"garbage" * 9], ids=["empty", "magic only", "garbage"])
def test_what_is_no_gguf_is_an_answer_not_an_exception(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert not verify_gguf(tmp_path / "x.gguf").valid


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        verify_gguf(tmp_path / "absent.gguf")


def test_mutations_anywhere_in_the_file_are_answered_within_a_second(llama_gguf: Path, tmp_path: Path) -> None:
    original = llama_gguf.read_bytes()
    rng = random.Random(7)
    path = tmp_path / "mutated.gguf"
    for _ in range(1000):
        data = bytearray(original)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.choice([1, 4, 8])] = rng.randbytes(rng.choice([1, 4, 8]))
        path.write_bytes(data)
        start = time.process_time()
        result = verify_gguf(path)
        assert time.process_time() - start < 1.0
        assert result.valid == (result.reason is None)
