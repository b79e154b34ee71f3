"""A Hugging Face tokenizer as GGUF metadata.

llama.cpp re-implements the splitting of text before BPE in C++ and picks the code by a name,
``tokenizer.ggml.pre``. Its own converter finds that name by hashing what the tokenizer makes of one
fixed text; here it follows from the definition in ``tokenizer.json`` itself (its ``pre_tokenizer``
steps), so a tokenizer with another vocabulary and the same rules is recognized too. What is not in the
table is refused, or named by the caller. Either way `fidelity` compares the token ids of both sides.

Two kinds are exported: byte-level BPE (``gpt2`` in llama.cpp's words) and SentencePiece-like BPE with
byte fallback (``llama``). The latter is merged by token scores in llama.cpp and by a list of merges in
``tokenizer.json``; a token's score here is minus the rank of the first merge that makes it, which
orders merges alike.

An added token may swallow the blanks beside it. GGUF has no place for that: llama.cpp knows it of tokenizers by
name, and of Phi-3's by the model's name. A tokenizer that does exactly what llama.cpp does under the name of
Phi-3 asks for that name, every other that swallows blanks is refused.

Left out: llama.cpp applies no Unicode normalization for byte-level BPE, so Qwen's NFC step is lost;
text that is already in NFC, nearly all there is, is not affected.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

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

_BYTE_TOKEN: Final = re.compile("<0x[0-9A-F]{2}>")

# GGUF's name for each special token that tokenizer_config.json may name.
_SPECIAL: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}


@dataclass(frozen=True)
class TokenizerMetadata:
    """What goes under ``tokenizer.*``.

    Attributes:
        model: ``gpt2`` or ``llama``.
        scores: One a token for ``llama``; empty for ``gpt2``.
        adds_space_prefix: Whether a blank is put before a text and after each special token (``llama`` only).
        tokens, types: One entry a row of the embedding; rows without a token are ``[PAD<n>]``, unused.
        merges: In rank order, halves separated by a space.
        special_ids: GGUF key (``bos``, ``eos``, ``unknown``, ``seperator`` [sic], ...) to token id.
        name_part: What the model's name must hold for llama.cpp to treat blanks alike; None: it must not.
        chat_template: Exactly as the Hugging Face tokenizer has it.
    """

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    adds_space_prefix: bool
    special_ids: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    chat_template: str | None
    name_part: str | None = None


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
    _check_bpe(directory, definition)
    sentencepiece = bool(model.get("byte_fallback"))
    ids: dict[str, int] = dict(model["vocab"])
    added = {row["content"]: row for row in definition.get("added_tokens") or []}
    ids |= {content: row["id"] for content, row in added.items()}
    tokens, types = _table(ids, added, rows)
    if sentencepiece:
        types = _sentencepiece_types(tokens, types, model.get("unk_token"))
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    special_ids = _special_ids(settings, ids)
    adds_bos, adds_eos = _adds(definition.get("post_processor"), special_ids)
    return TokenizerMetadata(
        model="llama" if sentencepiece else "gpt2",
        pre=pre_tokenizer or ("default" if sentencepiece else _pre_tokenizer(definition)),
        tokens=tokens,
        types=types,
        merges=() if sentencepiece else merges,
        scores=_scores(tokens, merges) if sentencepiece else (),
        adds_space_prefix=sentencepiece and _adds_space_prefix(definition),
        special_ids=special_ids,
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        chat_template=read_chat_template(directory, settings),
        name_part=_name_part(added.values(), dict(zip(tokens, types, strict=True))),
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


def _check_bpe(directory: Path, definition: Mapping[str, Any]) -> None:
    model = definition["model"]
    file = directory / "tokenizer.json"
    if model["type"] != "BPE":
        raise ExportError(f"{file}: a {model['type']} tokenizer cannot be exported yet; expected BPE")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise ExportError(f"{file}: BPE option {option} has no counterpart in llama.cpp")
    normalizer = (definition.get("normalizer") or {"type": "NFC"})["type"]
    if not model.get("byte_fallback") and normalizer != "NFC":
        raise ExportError(f"{file}: normalizer {normalizer} has no counterpart in llama.cpp")


# How tokenizer.json turns blanks into U+2581 without (Gemma) and with a blank before the text.
_REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_PREPEND: Final = {"type": "Prepend", "prepend": "\u2581"}
_SPLIT: Final = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def _adds_space_prefix(definition: Mapping[str, Any]) -> bool:
    normalizer, splitter = definition.get("normalizer"), definition.get("pre_tokenizer")
    if normalizer == _REPLACE and splitter in (None, _SPLIT):
        return False
    if normalizer == {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]} and splitter is None:
        _check_added_tokens(definition)
        return True
    metaspace = splitter if normalizer is None and splitter and splitter["type"] == "Metaspace" else {}
    if metaspace.get("prepend_scheme") in ("always", "never") and not metaspace.get("split"):
        return bool(metaspace["prepend_scheme"] == "always")
    raise ExportError(
        "this SentencePiece-like tokenizer treats blanks in a way that llama.cpp does not (it puts one after every "
        f"special token, or none): normalizer {json.dumps(normalizer, ensure_ascii=False)}, "
        f"pre_tokenizer {json.dumps(splitter, ensure_ascii=False)}"
    )


def _check_added_tokens(definition: Mapping[str, Any]) -> None:
    """A normalized added token gets the prepended blank too, so it matches only after one; not so in llama.cpp."""
    for row in definition.get("added_tokens") or []:
        if row.get("normalized") and not row.get("special"):
            raise ExportError(
                f"the added token {row['content']!r} is matched after a blank was put before it, which llama.cpp does "
                "not do; add it with normalized=False"
            )


# llama-vocab.cpp, for models whose name holds phi-3 or phi3: special tokens swallow the blanks after them, but these.
_PHI_3: Final = "Phi-3"
_PHI_3_KEEPS: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def _name_part(added: Iterable[Mapping[str, Any]], types: Mapping[str, int]) -> str | None:
    before = sorted(row["content"] for row in added if row.get("lstrip"))
    after = {row["content"] for row in added if row.get("rstrip")}
    if not before and not after:
        return None
    special = {token for token, kind in types.items() if kind in (CONTROL, USER_DEFINED, UNKNOWN)}
    named = types.keys() >= {*_PHI_3_KEEPS, "</s>"}
    if before or not named or after != (special | {"</s>"}) - _PHI_3_KEEPS:
        raise ExportError(
            f"the added token {(before or sorted(after))[0]!r} swallows the blanks beside it, which llama.cpp knows of "
            "Phi-3's tokenizer alone; add it with lstrip=False and rstrip=False"
        )
    return _PHI_3


def _sentencepiece_types(tokens: tuple[str, ...], types: tuple[int, ...], unknown: str | None) -> tuple[int, ...]:
    kinds = list(types)
    for index, token in enumerate(tokens):
        if kinds[index] == NORMAL and _BYTE_TOKEN.fullmatch(token):
            kinds[index] = BYTE
        elif token == unknown:
            kinds[index] = UNKNOWN
    if kinds.count(BYTE) != 256:
        raise ExportError(
            f"the tokenizer falls back to bytes but has {kinds.count(BYTE)} of 256 byte tokens <0x00> to <0xFF>"
        )
    return tuple(kinds)


def _scores(tokens: tuple[str, ...], merges: tuple[str, ...]) -> tuple[float, ...]:
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    # Tokens that no merge makes come last, so that nothing is merged into them before everything else.
    return tuple(-float(ranks.get(token, len(merges))) for token in tokens)


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
