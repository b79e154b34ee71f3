"""A GGUF file -> an ordinary Hugging Face directory, made once and kept.

transformers cannot train or save a model that it loaded from GGUF, unless the weights
are dequantized on the way in (`GgufConfig(dequantize=True)`). That costs seconds of
header parsing at every load, so the result is published under
``<forge home>/cache/base_models/<key>``, where the key digests the file, the dtype and
the transformers version. Processes that ask at the same time wait for one of them.

The weights are stored in bfloat16. A recipe trains against bfloat16 weights and folds
the adapter in float32: with bfloat16 on disk both see the *same* base, bit for bit, and
it is half the size (269 MB instead of 538 MB for SmolLM2-135M). Rounding a dequantized
4-bit weight, one of 16 levels of its block, to 8 significant bits costs little beside
the quantization itself; the expansion, not the file it came from, is the base model
that everything afterwards is compared with.
"""

import functools
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from forge_pipeline._optional import require
from forge_pipeline.errors import ModelError
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.models.writing import write_full_model, write_tokenizer

_log = logging.getLogger(__name__)
_DTYPE = "bfloat16"
_LAYOUT = 1  # raised when the written files change their form
_MAX_GROWTH = 6  # bfloat16 bytes per byte of a GGUF file; a 2-bit file grows most


def expand_gguf(gguf_file: Path, cache: Path) -> Path:
    """Return the Hugging Face directory that holds the weights and tokenizer of `gguf_file`.

    Args:
        gguf_file: A GGUF file with a tokenizer inside.
        cache: Directory for expansions; made if need be.

    Raises:
        ModelError: The file is not a GGUF that transformers understands, or the disk is too full.
        OptionalDependencyError: transformers or gguf is not installed.
    """
    transformers = require("transformers", extra="train", purpose="Base models")
    key = json_digest(
        {
            "gguf": Digest.of_file(gguf_file),
            "dtype": _DTYPE,
            "transformers": transformers.__version__,
            "layout": _LAYOUT,
        }
    )
    destination = cache / key.hex[:32]
    if destination.is_dir():
        return destination
    require("gguf", extra="export", purpose="Base models in GGUF form")
    filelock = require("filelock", extra="train", purpose="Base models in GGUF form")
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / f".{destination.name}.lock"):
        if not destination.is_dir():  # another process may have made it while we waited
            _check_space(gguf_file, cache)
            _expand(gguf_file, destination)
    return destination


def _expand(gguf_file: Path, destination: Path) -> None:
    import gguf
    import torch
    import transformers
    from transformers.utils.quantization_config import GgufConfig

    _log.info("expanding %s into %s; this happens once", gguf_file.name, destination)
    started = time.monotonic()
    with publishing(destination) as staging, quiet_libraries(), _memoised(gguf, "GGUFReader", "get_tensor_name_map"):
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
        write_full_model(model, staging)
        write_tokenizer(tokenizer, staging)
    _log.info("expanded %s in %.1f s", gguf_file.name, time.monotonic() - started)


def _check_space(gguf_file: Path, cache: Path) -> None:
    needed, free = gguf_file.stat().st_size * _MAX_GROWTH, shutil.disk_usage(cache).free
    if free < needed:
        raise ModelError(
            f"expanding {gguf_file.name} may need {needed / 1e9:.1f} GB under {cache}, where {free / 1e9:.1f} GB are "
            "free; free some space, or set FORGE_HOME to a directory on a larger disk"
        )


@contextmanager
def _memoised(module: ModuleType, *names: str) -> Iterator[None]:
    """Cache the results of `module`'s named callables while the block runs.

    Loading one GGUF makes transformers parse its whole header three times and build one tensor name
    map per module (397 for SmolLM2-135M): 8 of 18 s, all for equal arguments.
    """
    originals = {name: getattr(module, name) for name in names}
    for name, original in originals.items():
        setattr(module, name, functools.cache(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)
