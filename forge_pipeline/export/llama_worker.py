"""The process in which llama.cpp runs: so that its crash, hang or log is not ours.

Started by `llama_cpp.LlamaCpp` as a plain script with the library's path as its only argument; imports
nothing of this package. Speaks JSON lines: a request on stdin, one answer on stdout, ``{"error": ...}``
if it could not be done. What llama.cpp prints goes to stderr. Requests (`op` and its fields):

    open      path, context (tokens), threads, adapter (path or null) -> description, vocabulary, chat_template
    tokenize  text, add_special                -> tokens
    logits    tokens, out (path)               -> shape; writes float32 (T, V) as .npy
    generate  tokens, max_tokens               -> tokens, text; greedy, to an end-of-generation token or a full context

llama.cpp keeps no stable ABI, so nothing here trusts a struct's layout: the parameter structs
are taken as opaque bytes from the library's own defaults, the few fields that are set are found by the
pattern of those defaults, and what was set is read back through the library's getters before use.
Passing such an oversized struct by value is right wherever large structs travel in memory and stand last
among the arguments: System V x86-64, AArch64 and Windows x64.
"""

import ctypes
import json
import os
import struct
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_I32, _PTR = ctypes.c_int32, ctypes.c_void_p


class _Opaque(ctypes.Structure):
    """A parameter struct of a size that only the library knows (about 150 bytes)."""

    _fields_ = (("bytes", ctypes.c_ubyte * 1024),)


class _Batch(ctypes.Structure):
    """llama.h, struct llama_batch."""

    _fields_ = (
        ("n_tokens", _I32),
        ("token", ctypes.POINTER(_I32)),
        ("embd", _PTR),
        ("pos", ctypes.POINTER(_I32)),
        ("n_seq_id", ctypes.POINTER(_I32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(_I32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_TOKENS = ctypes.POINTER(_I32)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (_Opaque, []),
    "llama_context_default_params": (_Opaque, []),
    "llama_model_load_from_file": (_PTR, [ctypes.c_char_p, _Opaque]),
    "llama_init_from_model": (_PTR, [_PTR, _Opaque]),
    "llama_adapter_lora_init": (_PTR, [_PTR, ctypes.c_char_p]),
    "llama_set_adapters_lora": (_I32, [_PTR, ctypes.POINTER(_PTR), ctypes.c_size_t, ctypes.POINTER(ctypes.c_float)]),
    "llama_n_ctx": (ctypes.c_uint32, [_PTR]),
    "llama_n_batch": (ctypes.c_uint32, [_PTR]),
    "llama_n_ubatch": (ctypes.c_uint32, [_PTR]),
    "llama_n_threads": (_I32, [_PTR]),
    "llama_n_threads_batch": (_I32, [_PTR]),
    "llama_model_get_vocab": (_PTR, [_PTR]),
    "llama_model_desc": (_I32, [_PTR, ctypes.c_char_p, ctypes.c_size_t]),
    "llama_model_chat_template": (ctypes.c_char_p, [_PTR, ctypes.c_char_p]),
    "llama_vocab_n_tokens": (_I32, [_PTR]),
    "llama_vocab_is_eog": (ctypes.c_bool, [_PTR, _I32]),
    "llama_tokenize": (_I32, [_PTR, ctypes.c_char_p, _I32, _TOKENS, _I32, ctypes.c_bool, ctypes.c_bool]),
    "llama_token_to_piece": (_I32, [_PTR, _I32, ctypes.c_char_p, _I32, _I32, ctypes.c_bool]),
    "llama_batch_init": (_Batch, [_I32, _I32, _I32]),
    "llama_batch_free": (None, [_Batch]),
    "llama_decode": (_I32, [_PTR, _Batch]),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [_PTR, _I32]),
    "llama_get_memory": (_PTR, [_PTR]),
    "llama_memory_clear": (None, [_PTR, ctypes.c_bool]),
}


def set_context_fields(params: bytearray, *, context: int, threads: int) -> None:
    """Set n_ctx, n_batch, n_ubatch and both thread counts in the bytes of default context parameters.

    The struct begins with n_ctx, n_batch, n_ubatch (512, 2048, 512). The thread counts are the two equal
    positive numbers before ctx_type (0), which stands before four enums of -1 (rope scaling, pooling,
    attention, flash attention: "from the model").

    Raises:
        RuntimeError: The defaults do not show that pattern; this build's layout is not known.
    """
    numbers = struct.unpack_from("<64i", params)
    places = [at for at in range(4, 32) if numbers[at : at + 5] == (0, -1, -1, -1, -1)]
    if numbers[:3] != (512, 2048, 512) or len(places) != 1 or not numbers[places[0] - 2] == numbers[places[0] - 1] > 0:
        raise RuntimeError(f"this build of llama.cpp lays out its parameters in a way not known here: {numbers[:24]}")
    struct.pack_into("<3I", params, 0, context, context, min(context, 512))
    struct.pack_into("<2i", params, 4 * (places[0] - 2), threads, threads)


class _Llama:
    def __init__(self, library: str) -> None:
        self._lib = ctypes.CDLL(library)
        for name, (restype, argtypes) in _SIGNATURES.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = restype, argtypes
        self._lib.llama_backend_init()

    def open(self, path: str, context: int, threads: int, adapter: str | None = None) -> dict[str, Any]:
        lib = self._lib
        self._model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self._model:
            raise RuntimeError("llama.cpp does not load the file")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._size = lib.llama_vocab_n_tokens(self._vocab)
        defaults = lib.llama_context_default_params()
        params = bytearray(defaults.bytes)
        set_context_fields(params, context=context, threads=threads)
        self._context = lib.llama_init_from_model(self._model, _Opaque.from_buffer_copy(params))
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot make a context of {context} tokens")
        # n_ctx is rounded up to a multiple of 256.
        taken = lib.llama_n_ctx(self._context) >= context and lib.llama_n_batch(self._context) >= context
        threads_set = (lib.llama_n_threads(self._context), lib.llama_n_threads_batch(self._context))
        if not taken or threads_set != (threads, threads):
            raise RuntimeError("llama.cpp did not take the parameters; its layout is not known here")
        self._room = context
        if adapter is not None:
            self._apply(adapter)
        text = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, text, len(text))
        template = lib.llama_model_chat_template(self._model, None)
        return {
            "description": text.value.decode(errors="replace"),
            "vocabulary": self._size,
            "chat_template": template.decode() if template else None,
        }

    def _apply(self, adapter: str) -> None:
        lora = self._lib.llama_adapter_lora_init(self._model, adapter.encode())
        if not lora:
            raise RuntimeError(f"llama.cpp does not load the adapter {adapter}")
        if self._lib.llama_set_adapters_lora(self._context, (_PTR * 1)(lora), 1, (ctypes.c_float * 1)(1.0)):
            raise RuntimeError(f"llama.cpp does not apply the adapter {adapter}")

    def tokenize(self, text: str, add_special: bool) -> dict[str, Any]:
        data = text.encode()
        room = len(data) + 16
        tokens = (_I32 * room)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, True)
        if count < 0:
            raise RuntimeError(f"llama.cpp needs room for {-count} tokens of {len(data)} bytes")
        return {"tokens": list(tokens[:count])}

    def logits(self, tokens: list[int], out: str) -> dict[str, Any]:
        import numpy as np

        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._decode(tokens, 0, every=True)
        rows = np.empty((len(tokens), self._size), np.float32)
        for row in range(len(tokens)):
            rows[row] = self._row(row)
        np.save(out, rows)
        return {"shape": list(rows.shape)}

    def generate(self, tokens: list[int], max_tokens: int) -> dict[str, Any]:
        import numpy as np

        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._decode(tokens, 0, every=False)
        made: list[int] = []
        while len(made) < max_tokens:
            token = int(np.argmax(self._row(-1)))
            if self._lib.llama_vocab_is_eog(self._vocab, token):
                break
            made.append(token)
            if len(tokens) + len(made) > self._room:
                break
            self._decode([token], len(tokens) + len(made) - 1, every=False)
        text = b"".join(self._piece(token) for token in made).decode(errors="replace")
        return {"tokens": made, "text": text}

    def _row(self, index: int) -> "npt.NDArray[np.float32]":
        import numpy as np

        return np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, index), (self._size,))

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(512)
        count = self._lib.llama_token_to_piece(self._vocab, token, room, len(room), 0, False)
        return room.raw[: max(count, 0)]

    def _decode(self, tokens: list[int], position: int, every: bool) -> None:
        if not 0 < position + len(tokens) <= self._room:  # llama.cpp would abort
            raise RuntimeError(f"{position + len(tokens)} tokens do not fit into a context of {self._room}")
        batch = self._lib.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, position + index
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
                batch.logits[index] = every or index == len(tokens) - 1
            status = self._lib.llama_decode(self._context, batch)
        finally:
            self._lib.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode answered {status} for {len(tokens)} tokens at position {position}")


def _no_core_dumps() -> None:
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    _no_core_dumps()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    llama = None
    for line in sys.stdin:
        request = json.loads(line)
        operation = request.pop("op")
        try:
            llama = llama or _Llama(sys.argv[1])
            answer = getattr(llama, operation)(**request)
        except (RuntimeError, OSError, AttributeError) as error:
            answer = {
                "error": f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeError) else str(error)
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
