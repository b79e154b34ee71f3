"""The child process: its answers, and what becomes of its deaths."""

import os
import signal
import struct
from pathlib import Path

import pytest

from forge_pipeline.errors import ExportError
from forge_pipeline.export.llama_cpp import LlamaCpp, run_gguf, runtime_name
from forge_pipeline.export.llama_worker import set_context_fields


def test_the_runtime_names_its_version() -> None:
    name = runtime_name()
    assert name is not None
    assert name.startswith("xllamacpp 20")


def test_a_conversation_is_answered_the_same_way_twice(llama_gguf: Path) -> None:
    messages = [{"role": "user", "content": "The quick brown"}]
    first = run_gguf(llama_gguf, messages, 8, threads=1)
    assert first
    assert run_gguf(llama_gguf, messages, 8, threads=1) == first


def test_greedy_generation_follows_the_logits(llama_gguf: Path) -> None:
    with LlamaCpp(llama_gguf) as llama:
        tokens = llama.tokenize("The quick brown")
        text = llama.generate(tokens, 1)
        best = int(llama.logits(tokens)[-1].argmax())
        assert llama.vocabulary > best
        assert llama.generate(tokens, 5).startswith(text)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model"], ids=["empty", "magic", "text"])
def test_a_file_that_llama_cpp_refuses_is_an_export_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"bad\.gguf: llama\.cpp does not load the file"):
        LlamaCpp(path)
    with pytest.raises(ExportError, match=r"bad\.gguf: llama\.cpp"):
        run_gguf(path, [{"role": "user", "content": "Hi"}], 4, threads=1)


def test_a_killed_child_is_an_export_error_with_the_signal(llama_gguf: Path) -> None:
    with LlamaCpp(llama_gguf) as llama:
        os.kill(llama._child.pid, signal.SIGKILL)
        with pytest.raises(ExportError, match=r"SIGKILL during 'tokenize'"):
            llama.tokenize("x")


def test_too_slow_is_said_so(llama_gguf: Path) -> None:
    with LlamaCpp(llama_gguf) as llama:
        llama._timeout = 0.2
        os.kill(llama._child.pid, signal.SIGSTOP)
        with pytest.raises(ExportError, match=r"took longer than 0\.2 s"):
            llama.tokenize("x")


def test_a_text_longer_than_the_context_is_an_error_not_a_crash(llama_gguf: Path) -> None:
    with LlamaCpp(llama_gguf, context=256) as llama:
        with pytest.raises(ExportError, match="300 tokens do not fit into a context of 256"):
            llama.logits([5] * 300)
        assert llama.logits([5] * 256).shape[0] == 256


def default_params(*numbers: int) -> bytearray:
    return bytearray(struct.pack(f"<{len(numbers)}i", *numbers).ljust(1024, b"\0"))


def test_context_fields_are_found_where_the_build_has_them() -> None:
    for extra in ([], [0], [0, 0, 1]):
        params = default_params(512, 2048, 512, 1, *extra, 4, 4, 0, -1, -1, -1, -1)
        set_context_fields(params, context=1024, threads=2)
        assert struct.unpack_from(f"<{11 + len(extra)}i", params) == (
            1024,
            1024,
            512,
            1,
            *extra,
            2,
            2,
            0,
            -1,
            -1,
            -1,
            -1,
        )


def test_an_unknown_layout_is_refused_before_anything_is_set() -> None:
    params = default_params(512, 4096, 512, 1, 4, 4, 0, -1, -1, -1, -1)
    with pytest.raises(RuntimeError, match="not known here"):
        set_context_fields(params, context=1024, threads=2)
