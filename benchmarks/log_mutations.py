"""Random damage to a log whose checkpoint was kept elsewhere: all is to be noticed, and none to break the verifier.

python -m benchmarks.log_mutations --count 10000
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.log_attacks import Scene
from forge_pipeline.audit_log import VerifyResult, verify_audit_log


@dataclass(frozen=True)
class Mutations:
    """What `damage_logs` found.

    Attributes:
        tried: Damaged copies that differ from the log.
        detected: Those that the verifier called invalid.
        missed, raised: Damaged copies that it called valid, or at which it raised.
        failures: Kind of failure -> how often.
        slowest: Seconds of the longest verification.
    """

    tried: int
    detected: int
    missed: tuple[bytes, ...]
    raised: tuple[str, ...]
    failures: dict[str, int]
    slowest: float


def damage(data: bytes, chance: random.Random) -> bytes:
    """One or two accidents to bytes or to lines."""
    for _ in range(chance.randint(1, 2)):
        data = chance.choice(_BYTE_DAMAGE + _LINE_DAMAGE)(data, chance)
    return data


def damage_logs(directory: Path, count: int, *, seed: int = 20261121) -> Mutations:
    """Verify `count` damaged copies of an anchored log, a keyless one and a signed one in turn."""
    chance = random.Random(seed)
    scenes = [Scene.write(directory / name, key) for name, key in (("a", None), ("b", Ed25519PrivateKey.generate()))]
    originals = [scene.log.path.read_bytes() for scene in scenes]
    tried = detected = 0
    missed: list[bytes] = []
    raised: list[str] = []
    failures: dict[str, int] = {}
    slowest = 0.0
    while tried < count:
        which = tried % len(scenes)
        scene, mutated = scenes[which], damage(originals[which], chance)
        if mutated == originals[which]:
            continue
        tried += 1
        scene.log.path.write_bytes(mutated)
        began = time.perf_counter()
        try:
            result = _verify(scene)
        except Exception as error:  # whatever it is, it is the finding
            raised.append(f"{type(error).__name__}: {error}")
            continue
        slowest = max(slowest, time.perf_counter() - began)
        if result.valid:
            missed.append(mutated)
        else:
            detected += 1
            failures[str(result.failure)] = failures.get(str(result.failure), 0) + 1
    return Mutations(tried, detected, tuple(missed), tuple(raised), dict(sorted(failures.items())), slowest)


def _verify(scene: Scene) -> VerifyResult:
    public = None if scene.signing_key is None else scene.signing_key.public_key()
    return verify_audit_log(scene.log.path, public_key=public, checkpoint=scene.anchor)


Damage = Callable[[bytes, random.Random], bytes]


def _lines(change: Callable[[list[bytes], random.Random], None]) -> Damage:
    def changed(data: bytes, chance: random.Random) -> bytes:
        lines = data.splitlines(keepends=True) or [b"\n"]
        change(lines, chance)
        return b"".join(lines)

    return changed


def _at(data: bytes, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = _at(data, chance)
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :] if at < len(data) else data + b"x"


def _remove(data: bytes, chance: random.Random) -> bytes:
    at = _at(data, chance)
    return data[:at] + data[at + chance.randint(1, 40) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = _at(data, chance)
    return data[:at] + chance.randbytes(chance.randint(1, 8)) + data[at:]


def _insert_json(data: bytes, chance: random.Random) -> bytes:
    at = _at(data, chance)
    piece = chance.choice(
        [b" ", b"\n", b"\r", b"\t", b'"', b"{}", b"[" * 200, b"NaN", b'"seq":1,', b"\\u0000", b"0", b"-", b"1e9"]
    )
    return data[:at] + piece + data[at:]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: _at(data, chance)]


def _zero(data: bytes, chance: random.Random) -> bytes:
    at, length = _at(data, chance) // 512 * 512, chance.choice([1, 16, 512])
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


def _exchange_character(data: bytes, chance: random.Random) -> bytes:
    return data.replace(bytes([chance.choice(b'abcdef0123456789"{}:,\n')]), b"7", 1)


def _exchange_digits(data: bytes, chance: random.Random) -> bytes:
    """Another digit for a digit: what JSON does not notice."""
    places = [place for place, byte in enumerate(data) if byte in b"0123456789abcdef"]
    if not places:
        return b"7"
    at = chance.choice(places)
    return data[:at] + bytes([chance.choice(b"0123456789abcdef")]) + data[at + 1 :]


_BYTE_DAMAGE: list[Damage] = [
    _flip, _remove, _insert, _insert_json, _cut, _zero, _exchange_character, _exchange_digits, _exchange_digits,
]  # fmt: skip
_LINE_DAMAGE: list[Damage] = [
    _lines(lambda lines, chance: chance.shuffle(lines)),
    _lines(lambda lines, chance: lines.insert(chance.randrange(len(lines)), chance.choice(lines))),
    _lines(lambda lines, chance: lines.__delitem__(chance.randrange(len(lines)))),
    _lines(lambda lines, chance: lines.insert(chance.randrange(len(lines) + 1), b"\n")),
    _lines(lambda lines, chance: lines.append(chance.choice(lines))),
    _lines(lambda lines, chance: lines.reverse()),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Verify randomly damaged logs.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20261121)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(damage_logs(Path(directory), arguments.count, seed=arguments.seed))


if __name__ == "__main__":
    main()
