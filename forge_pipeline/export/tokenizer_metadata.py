"""A Hugging Face tokenizer as GGUF metadata.

llama.cpp re-implements the splitting of text before BPE in C++ and picks the code by a name,
``tokenizer.ggml.pre``. Its own converter finds that name by hashing what the tokenizer makes of one
fixed text; here it follows from the definition in ``tokenizer.json`` itself (its ``pre_tokenizer``
steps), so a tokenizer with another vocabulary and the same rules is recognized too. What is not in the
table is refused, or named by the caller. Either way `fidelity` compares the token ids of both sides.

Left out: llama.cpp applies no Unicode normalization for byte-level BPE, so Qwen's NFC step is lost;
text that is already in NFC, nearly all there is, is not affected.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forge_pipeline.errors import ExportError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.h, enum llama_token_type

# One step of splitting: its kind and what distinguishes it.
_Step = tuple[str, str]

_BYTES_SPLIT: Final = ("ByteLevel", "with its own GPT-2 pattern")
_BYTES_ONLY: Final = ("ByteLevel", "bytes only")
_LLAMA_3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2: Final = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")

# Steps and BPE's `ignore_merges` (a word that is a token is taken whole) -> llama.cpp's name.
PRE_TOKENIZERS: Final[Mapping[tuple[tuple[_Step, ...], bool], str]] = {
    ((_BYTES_SPLIT,), False): "gpt-2",
    ((("Digits", "individual"), _BYTES_SPLIT), False): "smollm",
    ((("Split", _LLAMA_3), _BYTES_ONLY), True): "llama-bpe",
    ((("Split", _QWEN_2), _BYTES_ONLY), False): "qwen2",
}

# GGUF's name for each special token that tokenizer_config.json may name.
_SPECIAL: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}


@dataclass(frozen=True)
class TokenizerMetadata:
    """What goes under ``tokenizer.*``.

    Attributes:
        tokens, types: One entry a row of the embedding; rows without a token are ``[PAD<n>]``, unused.
        merges: In rank order, halves separated by a space.
        special_ids: GGUF key (``bos``, ``eos``, ``unknown``, ``seperator`` [sic], ...) to token id.
        chat_template: Exactly as the Hugging Face tokenizer has it.
    """

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special_ids: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    chat_template: str | None


def read_tokenizer(directory: Path, *, rows: int, pre_tokenizer: str | None = None) -> TokenizerMetadata:
    """Read ``tokenizer.json`` and its companions.

    Args:
        directory: A Hugging Face model or tokenizer directory.
        rows: Rows of the model's embedding; at least as many as there are tokens.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer, where the table does not know it.

    Raises:
        ExportError: The tokenizer is of a kind that cannot be exported; the message says which.
    """
    definition = _read_json(directory / "tokenizer.json")
    settings = _read_json(directory / "tokenizer_config.json")
    model = definition["model"]
    _check_byte_level_bpe(directory, definition)
    ids: dict[str, int] = dict(model["vocab"])
    added = {row["content"]: row for row in definition.get("added_tokens") or []}
    ids |= {content: row["id"] for content, row in added.items()}
    tokens, types = _table(ids, added, rows)
    special_ids = _special_ids(settings, ids)
    adds_bos, adds_eos = _adds(definition.get("post_processor"), special_ids)
    return TokenizerMetadata(
        pre=pre_tokenizer or _pre_tokenizer(definition),
        tokens=tokens,
        types=types,
        merges=tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]),
        special_ids=special_ids,
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        chat_template=read_chat_template(directory, settings),
    )


def read_chat_template(directory: Path, settings: Mapping[str, Any] | None = None) -> str | None:
    """The default chat template: ``chat_template.jinja`` before ``tokenizer_config.json``, as transformers reads it."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = (settings or _read_json(directory / "tokenizer_config.json")).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((row["template"] for row in template if row["name"] == "default"), None)
    return template if isinstance(template, str) else None


def _check_byte_level_bpe(directory: Path, definition: Mapping[str, Any]) -> None:
    model = definition["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        kind = "BPE with byte fallback (SentencePiece)" if model["type"] == "BPE" else model["type"]
        raise ExportError(
            f"{directory / 'tokenizer.json'}: a {kind} tokenizer cannot be exported yet; expected byte-level BPE"
        )
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise ExportError(f"{directory / 'tokenizer.json'}: BPE option {option} has no counterpart in llama.cpp")
    normalizer = (definition.get("normalizer") or {"type": "NFC"})["type"]
    if normalizer != "NFC":
        raise ExportError(f"{directory / 'tokenizer.json'}: normalizer {normalizer} has no counterpart in llama.cpp")


def _pre_tokenizer(definition: Mapping[str, Any]) -> str:
    steps = tuple(_steps(definition.get("pre_tokenizer")))
    name = PRE_TOKENIZERS.get((steps, bool(definition["model"].get("ignore_merges"))))
    if name is None:
        known = ", ".join(sorted(PRE_TOKENIZERS.values()))
        raise ExportError(
            f"the pre-tokenizer {json.dumps(definition.get('pre_tokenizer'), ensure_ascii=False)} is not one of "
            f"those known here ({known}); if llama.cpp has it under a name, pass that name as pre_tokenizer"
        )
    return name


def _steps(part: Mapping[str, Any] | None) -> list[_Step]:
    """The pre-tokenizer's steps in order, reduced to what changes the split."""
    if part is None:
        return []
    kind = part["type"]
    if kind == "Sequence":
        return [step for inner in part["pretokenizers"] for step in _steps(inner)]
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return [_BYTES_SPLIT if part.get("use_regex", True) else _BYTES_ONLY]
    if kind == "Digits" and part.get("individual_digits"):
        return [("Digits", "individual")]
    if kind == "Split" and part["behavior"] == "Isolated" and not part.get("invert"):
        return [("Split", part["pattern"].get("Regex", ""))]
    return [(kind, "unknown")]


def _table(
    ids: Mapping[str, int], added: Mapping[str, Mapping[str, Any]], rows: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if max(ids.values()) >= rows:
        raise ExportError(
            f"the tokenizer knows token id {max(ids.values())}, but the model's embedding has {rows} rows; "
            "resize the embedding before export"
        )
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [UNUSED] * rows
    for token, index in ids.items():
        tokens[index] = token
        types[index] = NORMAL
        if token in added:
            types[index] = CONTROL if added[token].get("special") else USER_DEFINED
    return tuple(tokens), tuple(types)


def _special_ids(settings: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    found = {}
    for name, key in _SPECIAL.items():
        token = settings.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and content in ids:
            found[key] = ids[content]
    return found


def _adds(post_processor: Mapping[str, Any] | None, special_ids: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether encoding a text puts bos before it and eos after it."""
    template: list[Mapping[str, Any]] = []
    for part in [post_processor or {}, *((post_processor or {}).get("processors") or [])]:
        if part.get("type") == "TemplateProcessing":
            template = part["single"]
            known = {name: row["ids"] for name, row in part["special_tokens"].items()}
    if not template:
        return False, False
    at = next(index for index, row in enumerate(template) if "Sequence" in row)
    before, after = ([known[row["SpecialToken"]["id"]] for row in rows] for rows in (template[:at], template[at + 1 :]))
    bos, eos = [[special_ids.get("bos")]], [[special_ids.get("eos")]]
    if before not in ([], bos) or after not in ([], eos):
        raise ExportError(f"the tokenizer adds {before} before and {after} after a text; llama.cpp can add bos and eos")
    return before == bos, after == eos


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}. Export needs a fast tokenizer's files") from error
    return content
