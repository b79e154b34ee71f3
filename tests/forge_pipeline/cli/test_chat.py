"""`forge chat`: answers as they are made, by whom is asked, to the end of the turn."""

import io
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from forge_pipeline.evaluation import generate
from forge_pipeline.evaluation.streaming import generate_streaming
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory, ModelRecord, load_base, load_tokenizer, load_tuned, resolve_base_model
from forge_pipeline.models.directory import write_record
from forge_pipeline.models.writing import write_tokenizer
from forge_pipeline.registry import Registry

ASKED = [{"role": "user", "content": "What is two plus two?"}]


@pytest.fixture
def tuned(recipe: Callable, tiny_llama: Path, tmp_path: Path) -> ModelDirectory:
    """The tiny model with other weights, as if it had been trained whole."""
    import torch
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "tuned"
    shutil.copytree(tiny_llama, directory)
    torch.manual_seed(5)
    weights = {
        name: each + 0.05 * torch.randn_like(each) for name, each in load_file(directory / "model.safetensors").items()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(load_tokenizer(recipe()), directory)
    nothing = Digest.of(b"")
    record = ModelRecord(
        kind="full", base_model=resolve_base_model(recipe()).record, trainer_type="sft", config_digest=nothing,
        dataset_digest=nothing, tokenized_digest=nothing, chat_template_digest=nothing, seed=0,
    )  # fmt: skip
    write_record(directory, record)
    return ModelDirectory.open(directory)


def answer_of(loaded: tuple, messages: list = ASKED, **settings: object) -> str:
    return generate(*loaded, [messages], max_new_tokens=12, **settings)[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_pieces_are_the_answer_that_is_given_at_once(
    temperature: float, tuned: ModelDirectory, recipe: Callable
) -> None:
    loaded = load_tuned(recipe(), tuned)
    pieces: list[str] = []
    whole = generate_streaming(*loaded, ASKED, pieces.append, max_new_tokens=12, temperature=temperature, seed=3)
    assert whole == "".join(pieces) == answer_of(loaded, temperature=temperature, seed=3)
    assert whole


def test_an_answer_ends_with_its_turn(tuned: ModelDirectory, recipe: Callable) -> None:
    import torch

    model, tokenizer = load_tuned(recipe(), tuned)
    end = tokenizer.eos_token_id
    forced = model.lm_head.register_forward_hook(
        lambda module, inputs, logits: torch.nn.functional.one_hot(
            torch.full(logits.shape[:-1], end), logits.shape[-1]
        ).float()
    )
    try:
        assert generate_streaming(model, tokenizer, ASKED, lambda text: None, max_new_tokens=12) == ""
    finally:
        forced.remove()


def test_the_base_model_answers_first_when_asked_for(forge: Callable, tuned: ModelDirectory, recipe: Callable) -> None:
    done = forge("chat", tuned.path, "--prompt", ASKED[0]["content"], "--max-new-tokens", 12, "--base")
    assert done.code == 0, done.err
    messages = [*ASKED]
    base, own = answer_of(load_base(recipe()), messages), answer_of(load_tuned(recipe(), tuned), messages)
    assert done.out == f"base: {base}\ntuned: {own}\n"
    assert base != own


def test_a_registered_model_is_found_by_number_digest_and_alias_and_refused_once_changed(
    forge: Callable, tuned: ModelDirectory, recipe: Callable, tmp_path: Path
) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'home' / 'registry.sqlite'}")
    row = registry.register_model(
        uid=tuned.digest, name="tiny", line="tiny", base_model="tiny", task="text-generation", provider="x",
        strategy="sft", created_at=datetime.now(UTC), path=str(tuned.path), training_params={}, metrics={},
    )  # fmt: skip
    registry.set_alias("tiny", "production", tuned.digest, set_by="ann", reason="a test of it")
    registry.close()
    number = getattr(row, "id", 1)
    wanted = answer_of(load_tuned(recipe(), tuned), [{"role": "system", "content": "Be brief."}, *ASKED]) + "\n"
    asked = ["--prompt", ASKED[0]["content"], "--system", "Be brief.", "--max-new-tokens", 12]
    for name in (str(number), str(tuned.digest), "tiny:production"):
        done = forge("chat", name, *asked)
        assert (done.code, done.out) == (0, wanted), done.err
    assert "is neither a path nor a model of the registry" in forge("chat", "tiny:staging", *asked).err
    (tuned.path / "config.json").write_text((tuned.path / "config.json").read_text() + " ")
    assert forge("chat", "tiny:production", *asked).code == 6


def test_a_gguf_file_answers_turn_by_turn_from_one_loaded_model(
    forge: Callable, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    from forge_pipeline.export import run_gguf, write_gguf

    path = tmp_path / "tiny.f32.gguf"
    write_gguf(tiny_llama, path, "f32", {}, name="tiny")
    monkeypatch.setattr("sys.stdin", io.StringIO("Say hello.\n\nName a color.\n"))
    done = forge("chat", path, "--max-new-tokens", 8)
    assert done.code == 0, done.err
    first = run_gguf(path, [{"role": "user", "content": "Say hello."}], 8)
    talk = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": first}]
    second = run_gguf(path, [*talk, {"role": "user", "content": "Name a color."}], 8)
    assert done.out == f"{first}\n{second}\n"
    assert forge("chat", path, "--base", "--prompt", "x").code == 1
