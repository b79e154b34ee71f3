"""Files that serve a model: what each server is told, read back, and what no server would do right."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.deploy import TARGETS, deploy
from forge_pipeline.deploy.configs import IMAGES
from forge_pipeline.errors import ConfigError, ExportError
from forge_pipeline.models import ModelDirectory
from forge_pipeline.models.quantization import QuantizationRecord

CONVERSATION = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿Dos?"},
    {"role": "assistant", "content": "2"}, {"role": "user", "content": "{{ more }}"},
]  # fmt: skip


def wanted_text(model: ModelDirectory) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.path)
    return tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)


def rendered_by_jinja(template: str) -> str:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=CONVERSATION, add_generation_prompt=True)


def rendered_by_go(template: str) -> str:
    """The few constructs of Go's text/template that a Modelfile of ours has."""
    system = CONVERSATION[0]["content"]
    match = re.fullmatch(
        r"\{\{ if \.System \}\}(.*?)\{\{ else \}\}.*?\{\{ end \}\}\{\{ range \.Messages \}\}\{\{ if eq \.Role \"user\" \}\}"
        r"(.*?)\{\{ else if eq \.Role \"assistant\" \}\}(.*?)\{\{ end \}\}\{\{ end \}\}(.*)",
        template,
        re.DOTALL,
    )
    assert match, template
    opening, user, assistant, generation = match.groups()
    parts = [opening.replace("{{ .System }}", system)]
    for message in CONVERSATION[1:]:
        turn = user if message["role"] == "user" else assistant
        parts.append("".join(message["content"] if piece == "{{ .Content }}" else piece.replace('{{ "{{" }}', "{{")
                             for piece in re.split(r"(\{\{ \.Content \}\})", turn)))  # fmt: skip
    return "".join([*parts, generation])


def compose_of(done: Any) -> dict[str, Any]:
    services = yaml.safe_load((done.path / "compose.yaml").read_text())["services"]
    (service,) = services.values()
    return service


def mounted(service: dict[str, Any]) -> dict[str, str]:
    """Place in the container -> place here."""
    return {each["target"]: each["source"] for each in service["volumes"] if each["read_only"]}


def test_vllm_is_told_of_a_whole_model(whole: ModelDirectory, recipe: Callable, tmp_path: Path) -> None:
    done = deploy(recipe(), whole, tmp_path / "out", "vllm")
    values = yaml.safe_load((done.path / "vllm.yaml").read_text())
    assert values == {"model": "/models/model", "dtype": "float32", "max-model-len": 256, "served-model-name": ["tiny"]}
    service = compose_of(done)
    assert mounted(service)["/models/model"] == str(whole.path)
    assert service["image"] == IMAGES["vllm"]


def test_vllm_is_told_of_an_adapter_its_rank_and_its_own_template(
    make_adapter: Callable, recipe: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = make_adapter()
    done = deploy(recipe(), adapter, tmp_path / "out", "vllm", context=128)
    values = yaml.safe_load((done.path / "vllm.yaml").read_text())
    assert (values["enable-lora"], values["max-lora-rank"], values["max-model-len"]) == (True, 16, 128)
    assert json.loads(values["lora-modules"][0]) == {"name": "tiny", "path": "/models/adapter"}
    places = mounted(compose_of(done))
    assert (places["/models/base"], places["/models/adapter"]) == (str(tiny_model), str(adapter.path))
    assert values["chat-template"] == "/config/chat_template.jinja"
    assert rendered_by_jinja((done.path / "chat_template.jinja").read_text()) == wanted_text(adapter)


def test_tgi_is_told_of_an_adapter_and_its_own_template(
    make_adapter: Callable, recipe: Callable, tmp_path: Path
) -> None:
    adapter = make_adapter()
    done = deploy(recipe(), adapter, tmp_path / "out", "tgi")
    service = compose_of(done)
    options = dict(zip(service["command"][::2], service["command"][1::2], strict=True))
    assert options["--model-id"] == "/models/base"
    assert (options["--max-total-tokens"], options["--max-input-tokens"]) == ("256", "255")
    assert service["environment"] == {"LORA_ADAPTERS": "tiny=/models/adapter", "USAGE_STATS": "off"}
    written = json.loads((done.path / "tokenizer_config.json").read_text())
    assert rendered_by_jinja(written["chat_template"]) == wanted_text(adapter)


def test_ollama_gets_the_adapter_the_template_and_the_stop(
    make_adapter: Callable, recipe: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = make_adapter()
    text = (deploy(recipe(), adapter, tmp_path / "out", "ollama").path / "Modelfile").read_text()
    template = re.search(r'TEMPLATE """(.*?)"""\n', text, re.DOTALL).group(1)
    assert rendered_by_go(template) == wanted_text(adapter)
    rest = text.replace(f'TEMPLATE """{template}"""\n', "").splitlines()
    assert rest == [
        f"FROM {tiny_model}", f"ADAPTER {adapter.path}", 'PARAMETER stop "<|im_end|>"', "PARAMETER num_ctx 256",
    ]  # fmt: skip


def test_ollama_gets_the_template_of_a_gguf_file(
    gguf_file: Path, whole: ModelDirectory, recipe: Callable, tmp_path: Path
) -> None:
    text = (deploy(recipe(), gguf_file, tmp_path / "out", "ollama").path / "Modelfile").read_text()
    assert text.startswith(f"FROM {gguf_file}\n")
    assert rendered_by_go(re.search(r'TEMPLATE """(.*?)"""\n', text, re.DOTALL).group(1)) == wanted_text(whole)
    assert 'PARAMETER stop "<|im_end|>"' in text


def test_llama_cpp_runs_the_file_with_its_own_template(
    gguf_file: Path, whole: ModelDirectory, recipe: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    from forge_pipeline.export import LlamaCpp

    done = deploy(recipe(), gguf_file, tmp_path / "out", "llama-cpp")
    service = compose_of(done)
    options = service["command"]
    inside = options[options.index("--model") + 1]
    assert "--jinja" in options
    with LlamaCpp(Path(mounted(service)[inside]), context=int(options[options.index("--ctx-size") + 1])) as runtime:
        assert runtime.chat_template is not None
        assert rendered_by_jinja(runtime.chat_template) == wanted_text(whole)


def test_no_image_is_called_latest() -> None:
    assert all(re.search(r":.*\d", image) and "latest" not in image for image in IMAGES.values())


ROUNDED = QuantizationRecord("nf4", True, "bfloat16")
REFUSED: dict[str, tuple[dict[str, Any] | None, dict[str, Any], str]] = {
    "rounded base": ({"quantization": ROUNDED}, {}, "rounded to 4 bits"),
    "dora": (None, {"use_dora": True}, "DoRA's magnitudes"),
    "modules saved whole": (None, {"modules_to_save": ["norm"]}, "modules saved whole"),
    "biases": (None, {"bias": "lora_only"}, "has biases"),
}


@pytest.mark.parametrize(("recorded", "lora", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("target", ["ollama", "vllm", "tgi"])
def test_an_adapter_that_a_server_would_apply_otherwise_is_to_be_merged_first(
    target: Any, recorded: dict | None, lora: dict, words: str, make_adapter: Callable, recipe: Callable, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=rf"{words}.*forge merge"):
        deploy(recipe(), make_adapter(recorded, **lora), tmp_path / "out", target)
    assert not (tmp_path / "out").exists()


def test_what_a_target_cannot_serve_is_said(
    whole: ModelDirectory, make_adapter: Callable, gguf_file: Path, recipe: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=f"expected one of {', '.join(TARGETS)}"):
        deploy(recipe(), whole, out, "nginx")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"llama\.cpp runs GGUF files"):
        deploy(recipe(), whole, out, "llama-cpp")
    with pytest.raises(ExportError, match="vLLM runs model directories"):
        deploy(recipe(), gguf_file, out, "vllm")
    with pytest.raises(ConfigError, match="needs the model's repository"):
        deploy(recipe(), whole, out, "hf-endpoints")
    with pytest.raises(ExportError, match="lies on this machine"):
        deploy(recipe(), make_adapter(), out, "hf-endpoints", repository="me/x", revision="b" * 40)
    with pytest.raises(ConfigError, match="the model takes 256 tokens"):
        deploy(recipe(), whole, out, "vllm", context=100_000)
