"""The tokenizer's definition decides how llama.cpp splits text."""

import json
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import ExportError
from forge_pipeline.export.tokenizer_metadata import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_tokenizer,
)


def edit(directory: Path, change: dict[str, Any], file: str = "tokenizer.json") -> None:
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.fixture
def tokenizer_directory(llama_directory: Path, tmp_path: Path) -> Path:
    """A copy of the tiny tokenizer's files to change."""
    import shutil

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(llama_directory / name, tmp_path / name)
    return tmp_path


def test_tokens_are_typed_and_special_ids_resolved(tokenizer_directory: Path) -> None:
    tokenizer = read_tokenizer(tokenizer_directory, rows=430)
    assert tokenizer.pre == "smollm"
    assert tokenizer.tokens[:3] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert tokenizer.types[:4] == (CONTROL, CONTROL, CONTROL, NORMAL)
    assert tokenizer.types[tokenizer.tokens.index("<tool>")] == USER_DEFINED
    assert (tokenizer.tokens[429], tokenizer.types[429]) == ("[PAD429]", UNUSED)
    assert tokenizer.special_ids == {"bos": 1, "eos": 2, "padding": 0}
    assert (tokenizer.adds_bos, tokenizer.adds_eos) == (False, False)


def test_an_unknown_pre_tokenizer_is_named_and_can_be_overridden(tokenizer_directory: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "never seen"}, "behavior": "Isolated", "invert": False}
    edit(tokenizer_directory, {"pre_tokenizer": split})
    with pytest.raises(ExportError, match=r"never seen.*pass that name as pre_tokenizer"):
        read_tokenizer(tokenizer_directory, rows=430)
    assert read_tokenizer(tokenizer_directory, rows=430, pre_tokenizer="tekken").pre == "tekken"


def test_the_template_file_goes_before_the_setting(tokenizer_directory: Path) -> None:
    from_file = read_tokenizer(tokenizer_directory, rows=430).chat_template
    assert from_file is not None
    assert from_file.startswith("{% for message in messages %}")
    edit(tokenizer_directory, {"chat_template": "from the setting"}, "tokenizer_config.json")
    assert read_tokenizer(tokenizer_directory, rows=430).chat_template == from_file
    (tokenizer_directory / "chat_template.jinja").unlink()
    assert read_tokenizer(tokenizer_directory, rows=430).chat_template == "from the setting"


BLANK = "\u2581"
PREPEND = {"type": "Prepend", "prepend": BLANK}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
FALLBACK = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": [["a", "b"], ["ab", "c"], ["b", "c"]]}
VOCABULARY = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "c", "ab", "abc", "bc"]


def sentencepiece(**changes: object) -> dict[str, Any]:
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    normalizer = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}
    model = FALLBACK | {"vocab": vocabulary}
    blank = {
        "model": model,
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "added_tokens": [],
        "post_processor": None,
    }
    return blank | changes


def test_scores_order_merges_as_their_ranks_do(tokenizer_directory: Path) -> None:
    edit(tokenizer_directory, sentencepiece())
    tokenizer = read_tokenizer(tokenizer_directory, rows=300)
    assert (tokenizer.model, tokenizer.adds_space_prefix, tokenizer.merges) == ("llama", True, ())
    scores = dict(zip(tokenizer.tokens, tokenizer.scores, strict=True))
    assert (scores["ab"], scores["abc"], scores["bc"], scores["a"]) == (0.0, -1.0, -2.0, -3.0)
    assert tokenizer.types[:2] == (UNKNOWN, BYTE)


METASPACE = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "first", "split": False}
ADDED = {"id": 290, "content": "<tool>", "normalized": True, "special": False}
UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "unigram": ({"model": {"type": "Unigram", "vocab": []}}, "a Unigram tokenizer"),
    "lower-casing": ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    "dropout": ({"model": {"type": "BPE", "dropout": 0.1, "vocab": {}, "merges": []}}, "BPE option dropout"),
    "a blank before the first word only": (
        sentencepiece(normalizer=None, pre_tokenizer=METASPACE), "treats blanks in a way that llama.cpp does not"
    ),
    "an added token after a blank": (sentencepiece(added_tokens=[ADDED]), "'<tool>' is matched after a blank"),
    "missing byte tokens": (sentencepiece(model=FALLBACK | {"vocab": {"a": 0, "<0x00>": 1}}), "1 of 256 byte tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), UNSUPPORTED.values(), ids=list(UNSUPPORTED))
def test_another_kind_of_tokenizer_is_refused_by_name(
    change: dict[str, Any], words: str, tokenizer_directory: Path
) -> None:
    edit(tokenizer_directory, change)
    with pytest.raises(ExportError, match=words):
        read_tokenizer(tokenizer_directory, rows=430)


PHI_3 = {"<s>": False, "</s>": True, "<|endoftext|>": False, "<unk>": False, "<|end|>": True}


def stripping(strips: dict[str, bool], side: str = "rstrip") -> dict[str, Any]:
    ids = {token: 280 + index for index, token in enumerate(strips)} | {"<unk>": 0}
    blank = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    rows = [blank | {"id": ids[token], "content": token, side: swallows} for token, swallows in strips.items()]
    return sentencepiece(added_tokens=rows)


def test_tokens_that_swallow_blanks_as_phi_3s_do_ask_for_its_name(tokenizer_directory: Path) -> None:
    assert read_tokenizer(tokenizer_directory, rows=430).name_part is None
    edit(tokenizer_directory, stripping(PHI_3))
    assert read_tokenizer(tokenizer_directory, rows=300).name_part == "Phi-3"


OTHER_STRIPS: dict[str, dict[str, Any]] = {
    "one of them not": stripping(PHI_3 | {"<|end|>": False}),
    "one of them too": stripping(PHI_3 | {"<s>": True}),
    "blanks before": stripping(PHI_3, "lstrip"),
    "without the tokens of Phi-3": stripping({"<|end|>": True, "<unk>": False}),
}


@pytest.mark.parametrize("change", OTHER_STRIPS.values(), ids=list(OTHER_STRIPS))
def test_tokens_that_swallow_blanks_otherwise_are_refused(change: dict[str, Any], tokenizer_directory: Path) -> None:
    edit(tokenizer_directory, change)
    with pytest.raises(ExportError, match="swallows the blanks beside it"):
        read_tokenizer(tokenizer_directory, rows=300)


def test_a_directory_without_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="fast tokenizer"):
        read_tokenizer(tmp_path, rows=10)
