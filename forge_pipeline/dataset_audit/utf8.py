"""The bytes of Arrow strings, and what each code point is: what compiled loops over text start from."""

from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit import arrow_functions as pc
from forge_pipeline.dataset_audit.arrow_arrays import text_scalar

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Strings: TypeAlias = pa.StringArray | pa.LargeStringArray | pa.ChunkedArray

CODE_POINTS = 0x34000
"""Tables end here. Beyond are no letters, digits, white space or sentence ends (a test holds Unicode to that)."""

PADDING = 32
"""Bytes that compiled code may read beyond the end of a text."""

LETTER, SPACE, WORD, LINE_BREAK, ENDING, TERMINAL, CLOSING, SPECIAL = (1 << bit for bit in range(8))
"""Bits of a class: `str.isalpha`, `str.isspace`, `str.isalnum`, and the marks below."""

LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What `str.splitlines` breaks at."""
ENDINGS = ".!?…:;\"'”’»)]}。！？"
"""Marks that a line of prose ends with."""
TERMINALS = ".!?。．｡！？؟۔।॥։።፧။៖៕᠃᠉⁇⁈⁉‼‽⸮"
"""Marks that end a sentence, in the scripts that are written today."""
CLOSINGS = "\"'”’»)]}*_」』）"
"""Marks that may stand between the end of a sentence and the white space after it."""

SPECIALS = "#.…{jJ"
"""What else counts, or may begin something that does."""


def buffers(texts: Strings, *, padding: int = PADDING) -> tuple[Bytes, Offsets]:
    """UTF-8 of all texts, with `PADDING` bytes after it, and where each text begins and the last one ends.

    A null is an empty text. The bytes are Arrow's own where enough of them follow, and read-only.
    """
    if isinstance(texts, pa.ChunkedArray):
        chunks = [pc.cast(chunk, pa.large_string()) for chunk in texts.chunks]
        texts = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
    if texts.null_count:
        texts = pc.fill_null(texts, text_scalar("", texts.type))
    _, places, content = texts.buffers()
    if not len(texts) or places is None:
        return _read_only(np.zeros(padding, dtype=np.uint8)), np.zeros(len(texts) + 1, dtype=np.int64)
    dtype = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    offsets = np.frombuffer(places, dtype=dtype)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    data = np.frombuffer(content or b"", dtype=np.uint8)
    first, last = int(offsets[0]), int(offsets[-1])
    if len(data) < last + padding:
        data, offsets = np.concatenate([data[first:last], np.zeros(padding, dtype=np.uint8)]), offsets - first
    return _read_only(data), offsets


def _read_only(data: Bytes) -> Bytes:
    data.flags.writeable = False
    return data


@cache
def classes() -> Bytes:
    """Class of each code point below `CODE_POINTS`."""
    characters = np.arange(CODE_POINTS, dtype=np.uint32).view("<U1")
    table = np.zeros(CODE_POINTS, dtype=np.uint8)
    table[np.strings.isalpha(characters)] |= LETTER
    table[np.strings.isspace(characters)] |= SPACE
    table[np.strings.isalnum(characters)] |= WORD
    marks = {LINE_BREAK: LINE_BREAKS, ENDING: ENDINGS, TERMINAL: TERMINALS, CLOSING: CLOSINGS, SPECIAL: SPECIALS}
    for bit, characters_of in marks.items():
        table[[ord(mark) for mark in characters_of]] |= bit
    return table


@cache
def lower_case() -> npt.NDArray[np.uint32]:
    """Lower-case form of each code point below `CODE_POINTS`."""
    text = lowered(np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass"))
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)


def lowered(text: str) -> str:
    """`text` in lower case, code point by code point: İ is i, and Σ is σ at the end of a word too."""
    return text.replace("İ", "i").replace("Σ", "σ").lower()
