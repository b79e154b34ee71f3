"""A GGUF file -> an ordinary Hugging Face directory, made once and kept.

transformers cannot train or save a model that it loaded from GGUF, unless the weights
are dequantized on the way in (`GgufConfig(dequantize=True)`). That costs seconds of
header parsing at every load, so the result is published under
``<forge home>/cache/base_models/<key>``, where the key digests the file, the dtype and
the transformers version. Processes that ask at the same time wait for one of them.

The weights are stored in bfloat16. A recipe trains against bfloat16 weights and folds
the adapter in float32: with bfloat16 on disk both see the *same* base, bit for bit, and
it is half the size (269 MB instead of 538 MB for SmolLM2-135M). What the rounding costs,
measured on that model's Q4_1 file against its float32 expansion over 2,040 tokens: mean
KL 1.2e-4, same most likely token at 99.8 % of the positions; computing in bfloat16, as
training does anyway, costs 2.3e-3 and 97.0 %. The expansion, not the file it came from,
is the base model that everything afterwards is compared with.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.errors import ModelError
from forge_pipeline.integrity import Digest, Manifest, json_digest
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.integrity.in_use import hold
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.models.writing import write_full_model, write_tokenizer

_log = logging.getLogger(__name__)
_DTYPE = "bfloat16"
_LAYOUT = 2  # raised when the written files change their form
_MAX_GROWTH = 6  # bfloat16 bytes per byte of a GGUF file; a 2-bit file grows most


def expand_gguf(gguf_file: Path, cache_dir: Path) -> Path:
    """Return the Hugging Face directory that holds the weights and tokenizer of `gguf_file`.

    Args:
        gguf_file: A GGUF file with a tokenizer inside.
        cache_dir: Directory for expansions; made if need be.

    Raises:
        ModelError: The file is not a GGUF that transformers understands, or the disk is too full.
        OptionalDependencyError: transformers or gguf is not installed.
    """
    transformers = require("transformers", extra="train", purpose="Base models")
    key = json_digest(
        {
            "gguf": _digest(gguf_file, gguf_file.stat().st_size, gguf_file.stat().st_mtime_ns),
            "dtype": _DTYPE,
            "transformers": transformers.__version__,
            "layout": _LAYOUT,
        }
    )
    destination = cache_dir / key.hex[:32]
    hold(destination)  # `forge cache` leaves it alone while this process runs
    if destination.is_dir():
        return destination
    require("gguf", extra="export", purpose="Base models in GGUF form")
    filelock = require("filelock", extra="train", purpose="Base models in GGUF form")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache_dir / f".{destination.name}.lock"):
        if not destination.is_dir():  # another process may have made it while we waited
            _check_space(gguf_file, cache_dir)
            _expand(gguf_file, destination)
    return destination


def digest_file(expansion: Path) -> Path:
    """Where the digest that an expansion had when it was made is written: beside it."""
    return expansion.with_name(f"{expansion.name}.digest")


def _expand(gguf_file: Path, destination: Path) -> None:
    import torch
    import transformers
    from transformers.utils.quantization_config import GgufConfig

    _log.info("expanding %s into %s; this happens once", gguf_file.name, destination)
    started = time.monotonic()
    with publishing(destination) as staging, quiet_libraries(), _loading_once():
        try:
            source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                **source, dtype=getattr(torch, _DTYPE), quantization_config=GgufConfig(dequantize=True)
            )
        except Exception as error:  # third-party parsers of a file from outside: they raise whatever they meet
            raise ModelError(
                f"{gguf_file}: transformers cannot load this GGUF file ({type(error).__name__}: {error}); "
                "expected a causal language model of an architecture it knows, with its tokenizer inside"
            ) from error
        _restore_splitting(tokenizer, gguf_file)
        write_full_model(model, staging)
        write_tokenizer(tokenizer, staging)
        write_file(digest_file(destination), Manifest.of_directory(staging).digest.encode())
    _log.info("expanded %s in %.1f s", gguf_file.name, time.monotonic() - started)


def _restore_splitting(tokenizer: Any, gguf_file: Path) -> None:
    """Give the tokenizer back the rules by which its model splits text before byte pairs are merged.

    transformers 5.23 drops ``tokenizer.ggml.pre`` and falls back to GPT-2's rules. For SmolLM2, which splits
    numbers into digits, blanks before a number then come out as other tokens than the model was trained on.
    """
    import gguf
    from tokenizers import pre_tokenizers

    field = gguf.GGUFReader(str(gguf_file)).get_field("tokenizer.ggml.pre")
    name = field.contents() if field else None
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif name not in (None, "default", "gpt-2"):
        _log.warning(
            "%s splits text by the rules %r, which transformers does not restore from a GGUF file; "
            "numbers and blanks may be tokenized otherwise than the model expects",
            gguf_file.name,
            name,
        )


def _check_space(gguf_file: Path, cache_dir: Path) -> None:
    needed, free = gguf_file.stat().st_size * _MAX_GROWTH, shutil.disk_usage(cache_dir).free
    if free < needed:
        raise ModelError(
            f"expanding {gguf_file.name} may need {needed / 1e9:.1f} GB under {cache_dir}, where {free / 1e9:.1f} GB "
            "are free; free some space, or set FORGE_HOME to a directory on a larger disk"
        )


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, modified_ns: int) -> Digest:
    """Hash a file once per process and state of the file: a run asks for its base model several times."""
    return Digest.of_file(path)


@contextmanager
def _loading_once() -> Iterator[None]:
    """Keep transformers from doing the same work again and again, and from drawing a bar, while the block runs.

    Loading one GGUF file parses its whole header three times and builds one tensor name map per module
    (397 for SmolLM2-135M): 8 of 18 s, all for equal arguments.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as loader

    with (
        _replaced(gguf, GGUFReader=cache(gguf.GGUFReader), get_tensor_name_map=cache(gguf.get_tensor_name_map)),
        _replaced(loader, tqdm=lambda items, **options: items),
    ):
        yield


@contextmanager
def _replaced(module: ModuleType, **replacements: Any) -> Iterator[None]:
    originals = {name: getattr(module, name) for name in replacements}
    vars(module).update(replacements)
    try:
        yield
    finally:
        vars(module).update(originals)
