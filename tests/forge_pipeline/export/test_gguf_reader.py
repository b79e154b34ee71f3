"""The parser: what the specification allows is read, everything else is one named error, quickly."""

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.export import gguf_reader
from forge_pipeline.export.gguf_reader import GgufFormatError, parse_gguf, read_gguf


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(
    pairs: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (tensor("a"),),
    data: int = 128,
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
) -> bytes:
    """A file with `data` zero bytes of tensor data; `counts` overrides (tensors, pairs)."""
    tensor_count = len(tensors) if counts[0] is None else counts[0]
    pair_count = len(pairs) if counts[1] is None else counts[1]
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def test_every_metadata_type_is_read() -> None:
    scalars: dict[int, tuple[str, float]] = {0: ("B", 7), 1: ("b", -7), 2: ("H", 7), 3: ("h", -7), 4: ("I", 7)}
    scalars |= {5: ("i", -7), 6: ("f", 0.5), 10: ("Q", 7), 11: ("q", -7), 12: ("d", 0.5)}
    pairs = [pair(f"k{kind}", kind, struct.pack("<" + code, value)) for kind, (code, value) in scalars.items()]
    pairs += [pair("flag", 7, b"\1"), pair("text", 8, text("ö")), pair("flags", 9, array(7, 2, b"\1\0"))]
    pairs += [pair("words", 9, array(8, 2, text("a") + text("")))]
    pairs += [pair("numbers", 9, array(5, 3, struct.pack("<3i", 1, -2, 3)))]
    header = parse_gguf(gguf(tuple(pairs)))
    assert {kind: header.metadata[f"k{kind}"] for kind in scalars} == {
        kind: value for kind, (_, value) in scalars.items()
    }
    assert (header.metadata["flag"], header.metadata["text"], header.metadata["flags"]) == (True, "ö", [True, False])
    assert header.metadata["words"] == ["a", ""]
    assert list(header.metadata["numbers"]) == [1, -2, 3]  # type: ignore[arg-type]


def test_tensors_are_located_by_absolute_offset() -> None:
    data = gguf(tensors=(tensor("a", (8, 2)), tensor("b", (32,), 8, 64)), data=64 + 34)
    first, second = parse_gguf(data).tensors
    assert (first.size, second.size, second.offset - first.offset) == (64, 34, 64)
    assert second.offset + second.size == len(data)


@pytest.mark.parametrize("end", [0, 30])
def test_the_last_tensor_may_or_may_not_be_padded(end: int) -> None:
    assert parse_gguf(gguf(tensors=(tensor("a", (32,), 8),), data=34 + end)).tensors[0].size == 34


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends inside magic"),
    "four bytes": (b"GGUF", "ends inside version"),
    "another magic": (b"GGML" + gguf()[4:], "magic"),
    "version 1": (gguf(version=1), "version 1 is not supported"),
    "big-endian": (gguf(version=3 << 24), "big-endian version 3"),
    "more tensors than bytes": (gguf(counts=(2**40, None)), "do not fit"),
    "more pairs than bytes": (gguf(counts=(None, 2**63)), "do not fit"),
    "string longer than the file": (gguf((text("k") + struct.pack("<IQ", 8, 2**40),)), "claims"),
    "key longer than the file": (gguf((struct.pack("<Q", 2**63) + b"x" * 20,)), "claims"),
    "array of 2^33 bytes": (gguf((pair("k", 9, array(0, 2**33)),)), "do not fit"),
    "array of 2^61 doubles": (gguf((pair("k", 9, array(12, 2**61)),)), "do not fit"),
    "array of arrays": (gguf((pair("k", 9, array(9, 1, array(0, 0))),)), "array of arrays"),
    "array of an unknown type": (gguf((pair("k", 9, array(77, 1, b"1")),)), "unknown type 77"),
    "unknown type": (gguf((pair("k", 13, b"1234"),)), "unknown type 13"),
    "boolean of two": (gguf((pair("k", 7, b"\2"),)), "boolean of value 2"),
    "string in an array longer than the file": (
        gguf((pair("k", 9, array(8, 1, struct.pack("<Q", 2**62))),)),
        "longer than",
    ),
    "bad UTF-8 in a value": (gguf((pair("k", 8, text(b"\xff\xfe")),)), "not UTF-8"),
    "bad UTF-8 in an array": (gguf((pair("k", 9, array(8, 1, text(b"\xff"))),)), "not UTF-8"),
    "duplicate key": (gguf((pair("k", 7, b"\1"), pair("k", 7, b"\1"))), "there twice"),
    "empty key": (gguf((pair("", 7, b"\1"),)), "empty"),
    "alignment of zero": (gguf((pair("general.alignment", 4, struct.pack("<I", 0)),)), "power of two"),
    "alignment of 48": (gguf((pair("general.alignment", 4, struct.pack("<I", 48)),)), "power of two"),
    "alignment in words": (gguf((pair("general.alignment", 8, text("32")),)), "power of two"),
    "no dimensions": (gguf(tensors=(tensor("a", ()),)), "0 dimensions"),
    "nine dimensions": (gguf(tensors=(tensor("a", (1,) * 9),)), "9 dimensions"),
    "zero dimension": (gguf(tensors=(tensor("a", (32, 0)),)), "impossible dimensions"),
    "dimensions that overflow": (gguf(tensors=(tensor("a", (2**62, 2**62)),)), "impossible dimensions"),
    "product beyond the file": (gguf(tensors=(tensor("a", (2**40, 2**40)),)), "the file at"),
    "unknown ggml type": (gguf(tensors=(tensor("a", (32,), 4),)), "unknown ggml type 4"),
    "part of a block": (gguf(tensors=(tensor("a", (33,), 8),)), "whole Q8_0 blocks"),
    "name of 64 bytes": (gguf(tensors=(tensor("n" * 64),)), "1 to 63 bytes"),
    "name of 40 two-byte letters": (gguf(tensors=(tensor("ö" * 40),)), "1 to 63 bytes"),
    "empty name": (gguf(tensors=(tensor(""),)), "1 to 63 bytes"),
    "same name twice": (gguf(tensors=(tensor("a"), tensor("a", offset=128)), data=256), "there twice"),
    "misaligned": (gguf(tensors=(tensor("a"), tensor("b", offset=130)), data=300), "leaves a gap"),
    "overlapping": (gguf(tensors=(tensor("a"), tensor("b", offset=0)), data=256), "overlaps"),
    "a gap": (gguf(tensors=(tensor("a"), tensor("b", offset=160)), data=320), "leaves a gap"),
    "offset that wraps into the header": (gguf(tensors=(tensor("a", offset=2**64 - 32),)), "leaves a gap"),
    "truncated data": (gguf()[:-1], "the file at"),
    "trailing junk": (gguf() + b"junk", "follow the last tensor"),
    "junk in the padding before the data": (
        gguf(tensors=(tensor("ab"),))[:-129] + b"x" + bytes(128),
        "after the header is",
    ),
    "junk in the padding between tensors": (
        gguf(tensors=(tensor("a", (32,), 8), tensor("b", (32,), 8, 64)), data=34) + b"x" * 30 + b"\0" * 34,
        "after tensor 'a' is not zero",
    ),
    "a key of 70,000 bytes": (gguf((pair("k" * 70_000, 7, b"\1"),)), "more than this reader takes"),
    "a flag as alignment": (gguf((pair("general.alignment", 7, b"\1"),)), "alignment is bool"),
    "junk in the last padding": (gguf(tensors=(tensor("a", (32,), 8),), data=34) + b"x" * 30, "not zero"),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_file_is_refused_with_its_offset(data: bytes, words: str) -> None:
    start = time.process_time()
    with pytest.raises(GgufFormatError, match=words) as caught:
        parse_gguf(data)
    assert "(at byte " in str(caught.value)
    assert time.process_time() - start < 0.5


def test_an_empty_file_on_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(GgufFormatError, match="empty"):
        read_gguf(tmp_path / "empty.gguf")


def test_arrays_together_have_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_reader, "MAX_STRINGS", 3)
    two = array(8, 2, text("a") + text("b"))
    assert parse_gguf(gguf((pair("k", 9, two),))).metadata["k"] == ["a", "b"]
    with pytest.raises(GgufFormatError, match="more than this reader takes"):
        parse_gguf(gguf((pair("k", 9, two), pair("l", 9, two))))


def test_all_text_together_has_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = (pair("k", 9, array(8, 2, text("abcd") + text("efgh"))), pair("l", 8, text("ij")))
    monkeypatch.setattr(gguf_reader, "MAX_TEXT_BYTES", 13)  # the two keys, ten letters, the tensor's name
    assert parse_gguf(gguf(pairs)).metadata["l"] == "ij"
    for cap, words in {12: "more than this reader takes", 6: "the strings up to 'k' hold more text"}.items():
        monkeypatch.setattr(gguf_reader, "MAX_TEXT_BYTES", cap)
        with pytest.raises(GgufFormatError, match=words):
            parse_gguf(gguf(pairs))


def test_a_header_longer_than_the_first_read_is_read_on(monkeypatch: pytest.MonkeyPatch, llama_gguf: Path) -> None:
    whole = parse_gguf(llama_gguf.read_bytes())
    for window in (1, 100, 5000):
        monkeypatch.setattr(gguf_reader, "_FIRST_WINDOW", window)
        assert read_gguf(llama_gguf) == whole


def test_every_truncation_of_a_real_file_is_refused(llama_gguf: Path) -> None:
    data = llama_gguf.read_bytes()
    header = parse_gguf(data)
    cuts = [*range(0, header.data_offset, 97), *range(header.data_offset, len(data) - 31, 4999), len(data) - 32]
    for cut in cuts:
        with pytest.raises(GgufFormatError):
            parse_gguf(data[:cut])


def _flip(data: bytearray, at: int, rng: random.Random) -> None:
    data[at] ^= 1 << rng.randrange(8)


def _extreme(data: bytearray, at: int, rng: random.Random) -> None:
    value = rng.choice([0, 1, 2**31, 2**32 - 1, 2**33, 2**40, 2**62, 2**63, 2**64 - 32, 2**64 - 1])
    data[at : at + 8] = struct.pack("<Q", value)


def _cut_out(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at : at + rng.randrange(1, 64)]


def _repeat(data: bytearray, at: int, rng: random.Random) -> None:
    data[at:at] = data[at : at + rng.randrange(1, 64)]


def test_ten_thousand_mutations_never_crash_or_hang(llama_gguf: Path) -> None:
    original = llama_gguf.read_bytes()
    header_end = parse_gguf(original).data_offset
    rng = random.Random(20261121)
    mutations: list[Callable[[bytearray, int, random.Random], None]] = [_flip, _extreme, _cut_out, _repeat]
    slowest, refused = 0.0, 0
    for _ in range(10_000):
        data = bytearray(original)
        for _ in range(rng.randrange(1, 4)):
            rng.choice(mutations)(data, rng.randrange(header_end), rng)
        start = time.process_time()
        try:
            parse_gguf(bytes(data))
        except GgufFormatError:
            refused += 1
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 1.0
    assert refused > 3000
