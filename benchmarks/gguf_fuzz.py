"""Malformed GGUF files against `verify_gguf`: no crash, no hang, bounded memory, no truncated file called valid.

    python -m benchmarks.gguf_fuzz --count 10000

A small sound file is taken apart into its fields (counts, lengths, types, strings, offsets,
data), one to three of them are changed by a named mutation, the file is written and verified.
The same seed gives the same files. A mutation may leave a well-formed file, one letter of a
name changed say: form cannot find that, and each such file is verified again with the audit
log that names the original, which must refuse it.

Prints the machine, one line a mutation, and the totals; exit code 1 if a bar is missed.
"""

import argparse
import itertools
import json
import os
import platform
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forge_pipeline.audit_log import LOG_FILE, AuditLogger
from forge_pipeline.export import verify_gguf
from forge_pipeline.integrity import Digest

MOST_SECONDS = 1.0  # CPU seconds one file may take
MOST_MEMORY = 64  # MiB that the process may grow by

_U32, _U64 = "<I", "<Q"
_STRING, _ARRAY = 8, 9
_EXTREMES = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**40, 2**62, 2**63, 2**64 - 32, 2**64 - 1)
_EMBEDDING, _FEED_FORWARD, _HEADS, _BLOCKS = 32, 64, 4, 2


@dataclass
class Field:
    """Some bytes of a file and what they are."""

    kind: str
    data: bytes


@dataclass
class Parts:
    """A GGUF file, taken apart; `join` puts it together again."""

    head: list[Field]
    pairs: list[list[Field]]
    rows: list[list[Field]]
    data: bytearray
    tail: list[Callable[[bytes], bytes]] = field(default_factory=list)
    """Done to the whole file at last: cut, lengthened, bits flipped."""

    @property
    def header(self) -> list[Field]:
        return [*self.head, *(each for part in (*self.pairs, *self.rows) for each in part)]

    def join(self) -> bytes:
        header = b"".join(each.data for each in self.header)
        whole = header + b"\0" * (-len(header) % 32) + bytes(self.data)
        for change in self.tail:
            whole = change(whole)
        return whole

    def count_again(self) -> None:
        """Make the counts those of the parts, so that a dropped part is not found by its count."""
        self.head[2].data = struct.pack(_U64, len(self.rows))
        self.head[3].data = struct.pack(_U64, len(self.pairs))


def sound_parts() -> Parts:
    """A two-block llama that `verify_gguf` calls valid, made from nothing but the specification."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = [f"{one} {other}" for one in letters[:6] for other in letters[:6]]
    tokens = ["<s>", "</s>", *letters, *(merge.replace(" ", "") for merge in merges)]
    pairs = [
        _text_pair("general.architecture", "llama"),
        _text_pair("general.name", "a model to be broken"),
        _scalar_pair("general.alignment", 4, struct.pack(_U32, 32)),
        *(
            _scalar_pair(f"llama.{name}", 4, struct.pack(_U32, value))
            for name, value in {
                "block_count": _BLOCKS,
                "context_length": 128,
                "embedding_length": _EMBEDDING,
                "feed_forward_length": _FEED_FORWARD,
                "attention.head_count": _HEADS,
                "attention.head_count_kv": _HEADS,
            }.items()
        ),
        _scalar_pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        _scalar_pair("tokenizer.ggml.add_bos_token", 7, b"\1"),
        _text_pair("tokenizer.ggml.model", "gpt2"),
        _strings_pair("tokenizer.ggml.tokens", tokens),
        _numbers_pair("tokenizer.ggml.token_type", 5, [3, 3] + [1] * (len(tokens) - 2)),
        _strings_pair("tokenizer.ggml.merges", merges),
        _scalar_pair("tokenizer.ggml.eos_token_id", 4, struct.pack(_U32, 1)),
        _text_pair("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_EMBEDDING, len(tokens)),
        "output_norm.weight": (_EMBEDDING,),
    }
    square, wide = (_EMBEDDING, _EMBEDDING), (_EMBEDDING, _FEED_FORWARD)
    for block in range(_BLOCKS):
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{block}.{name}.weight"] = (_EMBEDDING,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{block}.{name}.weight"] = square
        shapes |= {f"blk.{block}.ffn_gate.weight": wide, f"blk.{block}.ffn_up.weight": wide}
        shapes[f"blk.{block}.ffn_down.weight"] = (_FEED_FORWARD, _EMBEDDING)
    rows, data = [], bytearray()
    for number, (name, dims) in enumerate(shapes.items()):
        quantized = len(dims) == 2 and number % 2 == 0
        rows.append(_row(name, dims, 8 if quantized else 0, len(data)))
        count = dims[0] * (dims[1] if len(dims) == 2 else 1)
        data += (
            (struct.pack("<e", 0.5) + bytes(range(32))) * (count // 32)
            if quantized
            else struct.pack("<f", 0.25) * count
        )
        data += b"\0" * (-len(data) % 32)
    head = [
        Field("magic", b"GGUF"),
        Field("version", struct.pack(_U32, 3)),
        Field("count", struct.pack(_U64, len(rows))),
        Field("count", struct.pack(_U64, len(pairs))),
    ]
    return Parts(head, pairs, rows, data)


def _string(text: str, what: str) -> list[Field]:
    data = text.encode()
    return [Field("length", struct.pack(_U64, len(data))), Field(what, data)]


def _scalar_pair(key: str, kind: int, value: bytes) -> list[Field]:
    return [*_string(key, "text"), Field("type", struct.pack(_U32, kind)), Field("value", value)]


def _text_pair(key: str, value: str) -> list[Field]:
    return [*_string(key, "text"), Field("type", struct.pack(_U32, _STRING)), *_string(value, "text")]


def _strings_pair(key: str, values: list[str]) -> list[Field]:
    items = [each for value in values for each in _string(value, "text")]
    return [*_array_head(key, _STRING, len(values)), *items]


def _numbers_pair(key: str, kind: int, values: list[int]) -> list[Field]:
    return [*_array_head(key, kind, len(values)), *(Field("value", struct.pack("<i", value)) for value in values)]


def _array_head(key: str, kind: int, count: int) -> list[Field]:
    head = [Field("type", struct.pack(_U32, _ARRAY)), Field("type", struct.pack(_U32, kind))]
    return [*_string(key, "text"), *head, Field("count", struct.pack(_U64, count))]


def _row(name: str, dims: tuple[int, ...], kind: int, offset: int) -> list[Field]:
    return [
        *_string(name, "text"),
        Field("dimensions", struct.pack(_U32, len(dims))),
        *(Field("dimension", struct.pack(_U64, dim)) for dim in dims),
        Field("ggml type", struct.pack(_U32, kind)),
        Field("offset", struct.pack(_U64, offset)),
    ]


# The mutations


def _put_number(parts: Parts, rng: random.Random, *kinds: str) -> None:
    """Another number in a field of one of `kinds`: an extreme, a neighbour, or that of another field."""
    fields = [each for each in parts.header if each.kind in kinds]
    chosen = rng.choice(fields)
    width = len(chosen.data)
    old = int.from_bytes(chosen.data, "little")
    near = old + rng.choice([-32, -1, 1, 32])
    other = int.from_bytes(rng.choice(fields).data, "little")
    chosen.data = (rng.choice([rng.choice(_EXTREMES), near, other]) % 2 ** (8 * width)).to_bytes(width, "little")


def _counts(parts: Parts, rng: random.Random) -> None:
    _put_number(parts, rng, "count", "dimensions")


def _lengths(parts: Parts, rng: random.Random) -> None:
    _put_number(parts, rng, "length")


def _types(parts: Parts, rng: random.Random) -> None:
    chosen = rng.choice([each for each in parts.header if each.kind in ("type", "ggml type", "version")])
    chosen.data = struct.pack(_U32, rng.choice([rng.randrange(48), 2**31, 2**32 - 1, 3 << 24]))


def _offsets(parts: Parts, rng: random.Random) -> None:
    _put_number(parts, rng, "offset")


def _dimensions(parts: Parts, rng: random.Random) -> None:
    _put_number(parts, rng, "dimension")


def _values(parts: Parts, rng: random.Random) -> None:
    chosen = rng.choice([each for each in parts.header if each.kind == "value"])
    not_finite = struct.pack("<f", rng.choice([float("nan"), float("inf"), -1.0]))
    extreme = (rng.choice(_EXTREMES) % 2 ** (8 * len(chosen.data))).to_bytes(len(chosen.data), "little")
    chosen.data = not_finite if len(chosen.data) == 4 and rng.random() < 0.3 else extreme


def _nested_arrays(parts: Parts, rng: random.Random) -> None:
    pair = rng.choice(parts.pairs)
    depth = rng.choice([1, 2, 10, 1000, 20000])
    deep = struct.pack("<IQ", _ARRAY, 1) * depth + struct.pack("<IQ", 4, 0)
    pair[2:] = [Field("type", struct.pack(_U32, _ARRAY)), Field("nested", deep)]


def _texts(parts: Parts, rng: random.Random) -> None:
    """Letters that are no UTF-8, control characters, text of another place, all under the right length."""
    texts = [*parts.pairs, *parts.rows]
    part = rng.choice(texts)
    at = rng.choice([number for number, each in enumerate(part) if each.kind == "text"])
    another = rng.choice([each.data for other in texts for each in other if each.kind == "text"])
    part[at].data = rng.choice([b"\xff\xfe", b"\xc0\x80", b"", b"\0", b"x" * 70000, another, part[at].data[::-1]])
    part[at - 1].data = struct.pack(_U64, len(part[at].data))


def _lists(parts: Parts, rng: random.Random) -> None:
    """A tokenizer list with an element more or less, its count put right."""
    pair = rng.choice([each for each in parts.pairs if len(each) > 20])
    first = 5  # key's length, key, type, element type, count
    width = 2 if pair[first].kind == "length" else 1
    if rng.random() < 0.5:
        at = first + width * rng.randrange((len(pair) - first) // width)
        del pair[at : at + width]
    else:
        pair += [Field(each.kind, each.data) for each in pair[-width:]]
    pair[4].data = struct.pack(_U64, (len(pair) - first) // width)


def _dropped(parts: Parts, rng: random.Random) -> None:
    part = rng.choice([parts.pairs, parts.rows])
    part.pop(rng.randrange(len(part)))
    parts.count_again()


def _repeated(parts: Parts, rng: random.Random) -> None:
    part = rng.choice([parts.pairs, parts.rows])
    chosen = rng.choice(part)
    part.insert(rng.randrange(len(part) + 1), [Field(each.kind, each.data) for each in chosen])
    parts.count_again()


def _truncated(parts: Parts, rng: random.Random) -> None:
    share = rng.random()
    parts.tail.append(lambda whole: whole[: int(len(whole) * share)])


def _appended(parts: Parts, rng: random.Random) -> None:
    junk = rng.choice([b"\0", b"\0" * 32, rng.randbytes(rng.randrange(1, 2000)), b"PK\x03\x04junk"])
    parts.tail.append(lambda whole: whole + junk)


def _bits(parts: Parts, rng: random.Random) -> None:
    places = [(rng.random(), rng.randrange(8)) for _ in range(rng.randrange(1, 5))]
    size = sum(len(each.data) for each in parts.header)

    def flip(whole: bytes) -> bytes:
        data = bytearray(whole)
        for share, bit in places:
            data[int(share * min(size, len(data)))] ^= 1 << bit
        return bytes(data)

    parts.tail.append(flip)


def _spliced(parts: Parts, rng: random.Random) -> None:
    at, length, repeat = rng.random(), rng.randrange(1, 64), rng.random() < 0.5
    size = sum(len(each.data) for each in parts.header)

    def splice(whole: bytes) -> bytes:
        start = int(at * size)
        piece = whole[start : start + length]
        return whole[:start] + piece * 2 * repeat + whole[start + length :]

    parts.tail.append(splice)


def _weights(parts: Parts, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(parts.data) - 4)
        parts.data[at : at + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, b"\x00\x7c\x00\x7c", b"\x00\x00\x80\x7f"])


MUTATIONS: dict[str, Callable[[Parts, random.Random], None]] = {
    "counts": _counts,
    "lengths": _lengths,
    "types": _types,
    "offsets": _offsets,
    "dimensions": _dimensions,
    "values": _values,
    "nested arrays": _nested_arrays,
    "texts": _texts,
    "lists": _lists,
    "dropped parts": _dropped,
    "repeated parts": _repeated,
    "truncated": _truncated,
    "junk appended": _appended,
    "bits of the header": _bits,
    "spliced": _spliced,
    "weights": _weights,
}


def malformed(number: int, seed: int) -> tuple[str, bytes]:
    """File `number` of the sequence `seed`: the mutation's name, and the bytes."""
    rng = random.Random(f"{seed}/{number}")
    name = list(MUTATIONS)[number % len(MUTATIONS)]
    parts = sound_parts()
    MUTATIONS[name](parts, rng)
    if rng.random() < 0.3 and name not in ("truncated", "junk appended"):  # these two are asserted by name
        rng.choice([_bits, _values, _offsets, _spliced])(parts, rng)
    return name, parts.join()


# Files that are large on purpose: as much as each cap lets through


def bombs() -> dict[str, bytes]:
    """Named files that make the reader do as much as it is ready to do."""

    def header(tensors: int, pairs: int, rest: bytes) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest

    def text(data: bytes) -> bytes:
        return struct.pack(_U64, len(data)) + data

    def one(kind: int, count: int, items: bytes) -> bytes:
        return header(0, 1, text(b"k") + struct.pack("<IIQ", _ARRAY, kind, count) + items)

    row = struct.Struct("<IQIQ")
    rows = b"".join(text(b"t%d" % n) + row.pack(1, 1, 24, n * 32) for n in range(1 << 16))
    pairs = b"".join(text(b"k%d" % n) + struct.pack("<II", 4, n) for n in range(1 << 16))
    wide = "人工".encode()
    return {
        "65,536 tensors": header(1 << 16, 0, rows) + b"\0" * (-len(rows) - 24 & 31) + b"\0" * (32 << 16),
        "65,536 metadata pairs": header(0, 1 << 16, pairs),
        "786,432 strings": one(_STRING, 3 << 18, text(wide) * (3 << 18)),
        "786,432 booleans": one(7, 3 << 18, b"\1" * (3 << 18)),
        "16 MiB of numbers": one(6, 1 << 22, struct.pack("<f", 0.5) * (1 << 22)),
        "a string of 16 MiB": header(
            0, 1, text(b"k") + struct.pack(_U32, _STRING) + text("ä".encode() * ((1 << 23) - 1))
        ),
        "a string of 32 MiB": header(0, 1, text(b"k") + struct.pack(_U32, _STRING) + text(b"x" * (1 << 25))),
        "arrays in arrays, a million deep": one(_ARRAY, 1, struct.pack("<IQ", _ARRAY, 1) * 1_000_000),
        "2^33 strings of 10 MB": one(_STRING, 2**33, b"\0" * 10_000_000),
        "786,433 strings": one(_STRING, (3 << 18) + 1, b"\0" * 8 * ((3 << 18) + 1)),
    }


# The run


@dataclass
class Outcome:
    """What came of one mutation, or of all."""

    files: int = 0
    refused: int = 0
    well_formed: int = 0
    accepted_with_log: int = 0
    slowest_cpu_s: float = 0.0
    slowest_wall_s: float = 0.0


def run(count: int, seed: int, folder: Path) -> dict[str, object]:
    """Verify `count` files; what came of them, as JSON values. An exception of the verifier is not caught."""
    path = folder / "model.gguf"
    original = sound_parts().join()
    path.write_bytes(original)
    if not (sound := verify_gguf(path)).valid:
        raise AssertionError(f"the file to start from is not valid: {sound.reason}")
    log = _log_naming(Digest.of(original), folder)
    if not verify_gguf(path, audit_log=log).valid:
        raise AssertionError("the log does not name the file to start from")
    outcomes = {name: Outcome() for name in MUTATIONS}
    truncated_valid = unchanged = 0
    reasons: Counter[str] = Counter()
    before = _peak_mib()
    for number in itertools.count():
        if number - unchanged == count:
            break
        name, data = malformed(number, seed)
        if data == original:  # a mutation that put back what was there
            unchanged += 1
            continue
        path.write_bytes(data)
        outcome = outcomes[name]
        wall, cpu = time.perf_counter(), time.process_time()
        result = verify_gguf(path)
        outcome.slowest_cpu_s = max(outcome.slowest_cpu_s, time.process_time() - cpu)
        outcome.slowest_wall_s = max(outcome.slowest_wall_s, time.perf_counter() - wall)
        outcome.files += 1
        outcome.refused += not result.valid
        outcome.well_formed += result.valid
        reasons[str(result.reason or "well-formed").split(":")[0]] += 1
        if result.valid:
            truncated_valid += name == "truncated"
            outcome.accepted_with_log += verify_gguf(path, audit_log=log).valid
    return {
        "machine": machine(),
        "seed": seed,
        "files": count,
        "unchanged": unchanged,
        "refused": sum(each.refused for each in outcomes.values()),
        "well_formed": sum(each.well_formed for each in outcomes.values()),
        "accepted_with_log": sum(each.accepted_with_log for each in outcomes.values()),
        "truncated_called_valid": truncated_valid,
        "slowest_cpu_s": round(max(each.slowest_cpu_s for each in outcomes.values()), 4),
        "slowest_wall_s": round(max(each.slowest_wall_s for each in outcomes.values()), 4),
        "memory_growth_mib": round(_peak_mib() - before, 1),
        "refused_in_step": dict(sorted(reasons.items())),
        "mutations": {name: vars(each) for name, each in outcomes.items()},
    }


def run_bombs(folder: Path) -> dict[str, dict[str, object]]:
    """Each large file in a process of its own, so that its memory is its own."""
    found: dict[str, dict[str, object]] = {}
    path = folder / "bomb.gguf"
    path.write_bytes(sound_parts().join())
    verify_gguf(path)  # numpy is loaded before anything is measured
    for name, data in bombs().items():
        path.write_bytes(data)
        size = len(data)
        del data
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            before, cpu = _current_mib(), time.process_time()
            result = verify_gguf(path)
            facts = {"seconds": round(time.process_time() - cpu, 3), "valid": result.valid, "reason": result.reason}
            facts["memory_growth_mib"] = round(max(0.0, _peak_mib() - before), 1)
            os.write(writer, json.dumps(facts).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        found[name] = {"mib": round(size / 2**20, 1), "exit": status, **(json.loads(answer) if answer else {})}
    return found


def machine() -> str:
    """What this ran on, in a line."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:  # not Linux
        pass
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"


def missed(found: dict[str, object]) -> list[str]:
    """The bars that were not met."""
    bars = {
        "a truncated file was called valid": found["truncated_called_valid"] == 0,
        "a changed file was accepted although the log names another": found["accepted_with_log"] == 0,
        f"a file took more than {MOST_SECONDS} s": found["slowest_cpu_s"] < MOST_SECONDS,  # type: ignore[operator]
        f"memory grew by more than {MOST_MEMORY} MiB": found["memory_growth_mib"] <= MOST_MEMORY,  # type: ignore[operator]
    }
    return [words for words, met in bars.items() if not met]


def _log_naming(digest: Digest, folder: Path) -> Path:
    logger = AuditLogger(str(folder / "log"), run_id="fuzz")
    logger.log_event(
        "artifact.materialized",
        asset_key="fuzz/gguf_model",
        digest=digest,
        files=1,
        inputs={},
        code_version="fuzz",
        kind="GgufModel",
    )
    return folder / "log" / LOG_FILE


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _current_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the peak so far, which hides growth up to it
        return _peak_mib()
    return pages * resource.getpagesize() / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--bombs", action="store_true", help="also verify a few files of the largest size taken")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gguf-fuzz.") as name:
        found = run(args.count, args.seed, Path(name))
        if args.bombs:
            found["bombs"] = run_bombs(Path(name))
    if args.json:
        print(json.dumps(found))
    else:
        _print(found)
    for words in missed(found):
        print(f"MISSED: {words}", file=sys.stderr)
    return 1 if missed(found) else 0


def _print(found: dict[str, object]) -> None:
    tables = ("mutations", "bombs", "refused_in_step")
    for name, value in found.items():
        if name not in tables:
            print(f"{name.replace('_', ' '):<24} {value}")
    print(f"\n{'refused in step':<24} {found['refused_in_step']}")
    for table in ("mutations", "bombs"):
        for name, facts in found.get(table, {}).items():  # type: ignore[attr-defined]
            print(f"{name:<34} " + "  ".join(f"{key} {_short(value)}" for key, value in facts.items()))


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)[:70]


if __name__ == "__main__":
    sys.exit(main())
