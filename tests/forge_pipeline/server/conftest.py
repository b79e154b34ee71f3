"""Servers shared by the tests of this folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge_pipeline.server.served import (
    PREFERENCES,
    TRAINABLE,
    ServerProcess,
    Studio,
    in_thread,
    jsonl,
    settings_for,
    wait_for,
)


@pytest.fixture(scope="session")
def tiny_t5(tiny_model: Path) -> Path:
    """An encoder-decoder of two layers with the tiny llama's tokenizer, beside the tiny llama."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template, tokenizer.pad_token = None, "<|endoftext|>"
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    directory = tiny_model.with_name("tiny-t5-served")
    T5ForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server that can do everything but start runs."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "root").mkdir()
    settings = settings_for(folder / "data", dataset_roots=(folder / "root",), upload_limit_bytes=200_000)
    with in_thread(settings) as studio:
        assert studio.upload("rows.jsonl", jsonl(TRAINABLE)).json()["filename"] == "rows.jsonl"
        yield studio


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("served"))
    yield process
    with contextlib.suppress(Exception):
        process.stop()


@pytest.fixture(scope="session")
def studio(server_process: ServerProcess) -> Studio:
    """A server that runs jobs."""
    studio = server_process.start()
    studio.upload("rows.jsonl", jsonl(TRAINABLE))
    studio.upload("preferences.jsonl", jsonl(PREFERENCES))
    wait_for(lambda: studio.get("/api/health").json()["launcher"] == "ready", timeout=120)
    return studio
