"""`deploy`: the files with which a server runs a model.

What each server gets, and why it answers as the model was judged:

==============  ==========================  =====================================================================
target          model                       chat template
==============  ==========================  =====================================================================
ollama          GGUF file, whole or adapter  translated, where the translation gives the same text (`turns`)
vllm            whole or adapter            the trained tokenizer's own; with an adapter given as a file, because
                                            vLLM takes the base model's otherwise
tgi             whole or adapter            the trained tokenizer's own, as above
llama-cpp       GGUF file                   the file's own, which is the tokenizer's, byte for byte
hf-endpoints    a repository on the Hub     the repository's
==============  ==========================  =====================================================================

An adapter is refused where a server would apply it otherwise than it was trained: on rounded base weights,
with DoRA, with modules or biases saved whole. `forge merge` makes a whole model of it, which every server runs.

Images are named by version, never ``latest``. Configs name this machine's folders as mounts; the container
sees ``/models/...`` and ``/config``.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, ExportError
from forge_pipeline.export import read_gguf
from forge_pipeline.export.modelfile import gguf_context, gguf_stops, gguf_template, render_modelfile
from forge_pipeline.export.turns import turn_format
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.models import ModelDirectory, resolve_base_model
from forge_pipeline.models.loading import check_same_base, load_saved_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Target = Literal["ollama", "vllm", "tgi", "llama-cpp", "hf-endpoints"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)

# The versions whose options the files are written for.
IMAGES: Final = {
    "vllm": "vllm/vllm-openai:v0.33.0",
    "tgi": "ghcr.io/huggingface/text-generation-inference:3.3.7",
    "llama-cpp": "ghcr.io/ggml-org/llama.cpp:server-b11549",
}
_LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's max_lora_rank may be


@dataclass(frozen=True)
class Deployment:
    """What was written.

    Attributes:
        path: The directory.
        files: Names in it.
        command: What starts the server, typed in that directory.
    """

    path: Path
    target: Target
    files: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class _Served:
    """A model as a server sees it.

    Attributes:
        whole: The directory of all weights, or the base model's; None for a GGUF file and for a base on the Hub.
        whole_name: What a server is told: a path in the container, or the Hub id.
        adapter: The adapter's directory; None for a whole model.
        gguf: The file.
        context: Longest conversation, in tokens.
    """

    name: str
    whole: Path | None
    whole_name: str
    adapter: ModelDirectory | None
    gguf: Path | None
    tokenizer: "PreTrainedTokenizerBase | None"
    context: int
    dtype: str
    rank: int
    revision: str | None = None


def deploy(
    config: ForgeConfig,
    model: ModelDirectory | Path,
    output_dir: Path,
    target: Target,
    *,
    name: str | None = None,
    repository: str | None = None,
    revision: str | None = None,
    context: int | None = None,
) -> Deployment:
    """Write the files that serve `model`.

    Args:
        config: The recipe it was trained with: its base model, where `model` is an adapter.
        model: A model directory, or a GGUF file.
        output_dir: Must not exist, or be empty.
        name: What clients ask for; None: the recipe's name.
        repository, revision: hf-endpoints: where it lies on the Hub, and the commit.
        context: Longest conversation in tokens; None: 4096, or as much as the model takes.

    Raises:
        ExportError: This server cannot run this model as it was trained.
        ConfigError: The target is not one, or needs `repository` and `revision`.
        ModelError: The adapter belongs on another base model.
        FileExistsError: `output_dir` holds something.
    """
    if target not in _WRITERS:
        raise ConfigError(f"target: found {target!r}; expected one of {', '.join(TARGETS)}")
    if target == "hf-endpoints" and not (repository and revision):
        raise ConfigError("hf-endpoints needs the model's repository on the Hub and the commit to serve; push it first")
    served = _served_file(Path(model), name or config.name) if isinstance(model, Path) else None
    served = served or _served_directory(config, model, name or config.name)  # type: ignore[arg-type]
    limit = min(context or 4096, served.context)
    if context and context > served.context:
        raise ConfigError(f"context: found {context}; the model takes {served.context} tokens")
    files, command = _WRITERS[target](served, limit, repository, revision)
    output_dir = Path(output_dir)
    with publishing(output_dir) as staging:
        for file, text in files.items():
            write_file(staging / file, text.encode("utf-8"))
    return Deployment(output_dir, target, tuple(sorted(files)), command)


def _served_file(path: Path, name: str) -> _Served:
    context = gguf_context(read_gguf(path).metadata, str(path))
    return _Served(name, None, "", None, path.resolve(), None, context, "auto", 0)


def _served_directory(config: ForgeConfig, model: ModelDirectory, name: str) -> _Served:
    record = model.record
    if record.head != "causal-lm":
        raise ExportError(f"{model.path} ends in a {record.head} head; these servers write text")
    tokenizer = load_saved_tokenizer(model)
    path = model.path.resolve()
    if record.kind == "full":
        found = _architecture(path)
        return _Served(name, path, "/models/model", None, None, tokenizer, _context(found), _dtype(found), 0)
    rank = _check_servable(model)
    base = resolve_base_model(config)
    check_same_base(model, base)
    if base.source == "hub":
        from forge_pipeline.models.architecture import read_architecture

        found = read_architecture(config, base).to_dict()
        context, dtype = _context(found), _dtype(found)
        return _Served(name, None, base.path, model, None, tokenizer, context, dtype, rank, base.revision)
    found = _architecture(Path(base.path))
    whole = Path(base.path).resolve()
    return _Served(name, whole, "/models/base", model, None, tokenizer, _context(found), _dtype(found), rank)


def _check_servable(model: ModelDirectory) -> int:
    """The adapter's largest rank."""
    settings = json.loads((model.path / "adapter_config.json").read_text("utf-8"))
    reasons = {
        "was trained on base weights rounded to 4 bits": model.record.quantization is not None,
        "was trained on another architecture than the base model's own": bool(model.record.architecture),
        f"is of the kind {settings.get('peft_type')}": settings.get("peft_type") != "LORA",
        "has DoRA's magnitudes": bool(settings.get("use_dora")),
        "has modules saved whole": bool(settings.get("modules_to_save")),
        "has biases": settings.get("bias", "none") != "none",
        "adapts experts": bool(settings.get("target_parameters")),
        "belongs on the model of an earlier stage": bool(model.record.earlier),
    }
    if found := [words for words, holds in reasons.items() if holds]:
        raise ExportError(
            f"{model.path} {found[0]}, which a server that applies adapters does not reproduce; make a whole model of "
            f"it first: forge merge {model.path} OUTPUT"
        )
    return max([int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values())])


def _architecture(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    return found


def _context(found: dict[str, Any]) -> int:
    text = found.get("text_config") or found
    return int(text.get("max_position_embeddings") or 2048)


def _dtype(found: dict[str, Any]) -> str:
    return str(found.get("dtype") or found.get("torch_dtype") or "auto").removeprefix("torch.")


def _stops(tokenizer: "PreTrainedTokenizerBase", directory: Path | None) -> list[str]:
    """The texts of the tokens that end an answer: the tokenizer's, and those of the generation settings."""
    ids: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    settings = directory / "generation_config.json" if directory else None
    if settings and settings.is_file():
        own = json.loads(settings.read_text("utf-8")).get("eos_token_id")
        ids += own if isinstance(own, list) else [] if own is None else [own]
    return [str(tokenizer.convert_ids_to_tokens(each)) for each in dict.fromkeys(ids)]


Files = dict[str, str]


def _ollama(served: _Served, context: int, repository: str | None, revision: str | None) -> tuple[Files, str]:
    if served.gguf:
        metadata = read_gguf(served.gguf).metadata
        template, stops = gguf_template(metadata), gguf_stops(metadata)
    else:
        if served.whole is None:
            raise ExportError(
                f"Ollama has no {served.whole_name} from the Hub under an adapter; merge it (forge merge), or "
                "export it (forge export)"
            )
        assert served.tokenizer is not None
        template, stops = _go_template(served.tokenizer), _stops(served.tokenizer, served.whole)
    adapter = str(served.adapter.path.resolve()) if served.adapter else None
    text = render_modelfile(
        str(served.gguf or served.whole), context=context, template=template, stops=stops, adapter=adapter
    )
    return {"Modelfile": text}, f"ollama create {served.name} -f Modelfile"


def _go_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    if not tokenizer.chat_template:
        return None
    begins = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return turn_format(tokenizer).go_template(leave_out=str(tokenizer.bos_token) if begins else "")


def _vllm(served: _Served, context: int, repository: str | None, revision: str | None) -> tuple[Files, str]:
    _needs_weights(served, "vLLM")
    values: dict[str, Any] = {"model": served.whole_name, "dtype": served.dtype, "max-model-len": context}
    files: Files = {}
    if served.revision:
        values["revision"] = served.revision
    if served.adapter:
        values["served-model-name"] = [f"{served.name}-base"]
        values["enable-lora"] = True
        values["max-lora-rank"] = next((each for each in _LORA_RANKS if each >= served.rank), served.rank)
        values["lora-modules"] = [json.dumps({"name": served.name, "path": "/models/adapter"})]
        if template := _own_template(served):
            files["chat_template.jinja"] = template
            values["chat-template"] = "/config/chat_template.jinja"
    else:
        values["served-model-name"] = [served.name]
    files["vllm.yaml"] = _yaml(values)
    files["compose.yaml"] = _compose(
        served, "vllm", ["--config", "/config/vllm.yaml"], 8000, gpu=True, environment={"VLLM_NO_USAGE_STATS": "1"}
    )
    return files, "docker compose up"


def _tgi(served: _Served, context: int, repository: str | None, revision: str | None) -> tuple[Files, str]:
    _needs_weights(served, "TGI")
    options = ["--model-id", served.whole_name, "--max-total-tokens", str(context)]
    options += ["--max-input-tokens", str(context - 1), "--port", "8080"]
    files: Files = {}
    environment = {"USAGE_STATS": "off"}
    if served.revision:
        options += ["--revision", served.revision]
    if served.dtype in ("float16", "bfloat16"):
        options += ["--dtype", served.dtype]
    if served.adapter:
        environment["LORA_ADAPTERS"] = f"{_adapter_name(served)}=/models/adapter"
        if template := _own_template(served):
            files["tokenizer_config.json"] = json.dumps({"chat_template": template}, ensure_ascii=False) + "\n"
            options += ["--tokenizer-config-path", "/config/tokenizer_config.json"]
    files["compose.yaml"] = _compose(served, "tgi", options, 8080, gpu=True, environment=environment)
    return files, "docker compose up"


def _llama_cpp(served: _Served, context: int, repository: str | None, revision: str | None) -> tuple[Files, str]:
    if served.gguf is None:
        raise ExportError("llama.cpp runs GGUF files; export the model first (forge export), and name the file")
    options = ["--model", f"/models/{served.gguf.name}", "--alias", served.name, "--ctx-size", str(context), "--jinja"]
    options += ["--host", "0.0.0.0", "--port", "8080"]
    return {"compose.yaml": _compose(served, "llama-cpp", options, 8080)}, "docker compose up"


def _hf_endpoints(served: _Served, context: int, repository: str | None, revision: str | None) -> tuple[Files, str]:
    """Arguments of `huggingface_hub.create_inference_endpoint`, which starts it."""
    _needs_weights(served, "Hugging Face Endpoints")
    environment = {"MAX_TOTAL_TOKENS": str(context), "MAX_INPUT_TOKENS": str(context - 1), "USAGE_STATS": "off"}
    model, commit = repository, revision
    if served.adapter:
        if served.whole is not None:
            raise ExportError(
                "the adapter's base model lies on this machine, where the endpoint cannot read it; merge the adapter "
                "(forge merge) and push the whole model"
            )
        environment["LORA_ADAPTERS"] = f"{_adapter_name(served)}={repository}@{revision}"
        model, commit = served.whole_name, served.revision
    values = {
        "name": _plain(served.name.lower())[:32].strip("-") or "model",
        "repository": model,
        "revision": commit,
        "framework": "pytorch",
        "task": "text-generation",
        "accelerator": "gpu",
        "vendor": "aws",
        "region": "eu-west-1",
        "instance_type": "nvidia-l4",
        "instance_size": "x1",
        "type": "authenticated",
        "min_replica": 0,
        "max_replica": 1,
        "custom_image": {"url": IMAGES["tgi"], "healthRoute": "/health", "port": 80},  # the image's own port
        "env": {"MODEL_ID": "/repository", **environment},  # where an endpoint mounts the repository
    }
    program = "import json, huggingface_hub as h; h.create_inference_endpoint(**json.load(open('endpoint.json')))"
    command = f'python -c "{program}"'
    return {"endpoint.json": json.dumps(values, indent=2) + "\n"}, command


_WRITERS: Final[dict[str, Callable[[_Served, int, str | None, str | None], tuple[Files, str]]]] = {
    "ollama": _ollama,
    "vllm": _vllm,
    "tgi": _tgi,
    "llama-cpp": _llama_cpp,
    "hf-endpoints": _hf_endpoints,
}


def _needs_weights(served: _Served, server: str) -> None:
    if served.gguf is not None:
        raise ExportError(
            f"{server} runs model directories, not GGUF files; name the model that {served.gguf} came from"
        )


def _own_template(served: _Served) -> str | None:
    template = served.tokenizer.chat_template if served.tokenizer else None
    if isinstance(template, dict):
        raise ExportError("the tokenizer has several chat templates; set model.chat_template to the one to serve")
    return template


def _compose(
    served: _Served,
    target: str,
    command: list[str],
    port: int,
    *,
    gpu: bool = False,
    environment: dict[str, str] | None = None,
) -> str:
    mounts = [_mount("./", "/config")]
    if served.gguf:
        mounts.append(_mount(str(served.gguf), f"/models/{served.gguf.name}"))
    if served.whole:
        mounts.append(_mount(str(served.whole), served.whole_name))
    if served.adapter:
        mounts.append(_mount(str(served.adapter.path.resolve()), "/models/adapter"))
    service: dict[str, Any] = {
        "image": IMAGES[target],
        "command": [_literal(each) for each in command],
        "ports": [f"127.0.0.1:{port}:{port}"],
        "volumes": mounts,
    }
    values = {key: _literal(value) for key, value in (environment or {}).items()}
    if served.revision:
        # A base model from the Hub may be gated; the token stays in the shell that starts this.
        values["HF_TOKEN"] = "${HF_TOKEN:-}"
    if values:
        service["environment"] = values
    if gpu:
        devices = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
        service["shm_size"] = "1g"
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return _yaml({"services": {_plain(served.name) or "model": service}})


def _mount(here: str, inside: str) -> dict[str, Any]:
    """A read-only bind mount, in the long form, which takes paths with colons."""
    return {"type": "bind", "source": _literal(here), "target": _literal(inside), "read_only": True}


def _literal(text: str) -> str:
    """As Compose reads it back: it replaces ``$NAME`` by the shell's variables."""
    return text.replace("$", "$$")


def _plain(name: str) -> str:
    """What services and endpoints may be called."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def _adapter_name(served: _Served) -> str:
    if found := set("=@,") & set(served.name):
        raise ConfigError(f"name: {served.name!r} has {min(found)!r}, which TGI's list of adapters cannot hold")
    return served.name


def _yaml(values: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return text
