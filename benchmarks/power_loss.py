"""Power loss: what the disk may hold after a crash at any moment of a log's operations, and what comes of it.

The system calls of an operation are recorded as they happen. The disk after a crash is then any of these, for each
prefix of the calls:

* What was fsynced is there. What was written to a file and not fsynced is, write by write: not there; there; or, for
  the last write to the file, there up to any multiple of 512 bytes, up to any byte, or there but for one sector, which
  is zeros. Writes are independent of each other, so they may be reordered. A truncation that was not fsynced may not
  have happened.
* New names, renames and removals that were not made durable by an fsync of the directory: any subset of them.
* A vault transaction is durable when the call returns, and has not happened before; SQLite answers for that.

This is weaker than what journaling file systems promise (ext4 orders renames; a file's own name goes with its fsync).
It does not model a disk that lies about fsync, or that damages what it was not writing.

After the crash the log must open, take another event, verify, and hold every event that was acknowledged before.

    python -m benchmarks.power_loss
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.audit_log import LOG_FILE, VAULT_FILE, AuditLogger, AuditSettings, Entry, Vault, verify_audit_log

_SECTOR = 512  # bytes
SECRET = "a secret of some length"

Node = int
Files = dict[str, bytes]


@dataclass(frozen=True)
class Call:
    """One recorded system call with an effect on the disk.

    Attributes:
        kind: create, write, truncate, replace, unlink, fsync, fsync_directory, vault, acknowledged.
        node: The file that it is about, by a number of its own.
        name, target: Names in the directory.
        offset: Where a write began, or the size that a truncation gave.
        data: What was written; the vault's file.
    """

    kind: str
    node: Node = -1
    name: str = ""
    target: str = ""
    offset: int = 0
    data: bytes | None = b""


class Recorder:
    """Notes the calls of `os` on the files of one directory, and carries them out. fsync is noted only.

    Usage: ``with Recorder(directory) as recorder: ...``, then ``recorder.calls``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.before = snapshot(directory)
        self.calls: list[Call] = []
        self._nodes: dict[str, Node] = {name: number for number, name in enumerate(sorted(self.before))}
        self._sizes: dict[Node, int] = {node: len(self.before[name]) for name, node in self._nodes.items()}
        self._next = len(self._nodes)
        self._open: dict[int, tuple[Node, bool]] = {}  # descriptor -> file (-1: the directory), appends
        self._stack = contextlib.ExitStack()

    @property
    def nodes_before(self) -> dict[str, Node]:
        return {name: number for number, name in enumerate(sorted(self.before))}

    def __enter__(self) -> "Recorder":
        for name in ("open", "write", "ftruncate", "fsync", "replace", "unlink", "close"):
            self._stack.enter_context(mock.patch.object(os, name, self._wrap(name, getattr(os, name))))
        self._stack.enter_context(mock.patch.object(os, "fdopen", unbuffered))
        for name in ("add", "_delete"):
            self._stack.enter_context(mock.patch.object(Vault, name, self._wrap_vault(getattr(Vault, name))))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        assert replayed(self) == snapshot(self._directory), "a write went past the recorder"

    def acknowledge(self) -> None:
        """The caller has been told that all it asked for so far is on the disk."""
        self.calls.append(Call("acknowledged"))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        note = getattr(self, f"_note_{name}")

        def call(*arguments: Any, **more: Any) -> Any:
            if name == "fsync":
                return note(None, *arguments)
            existed = name == "open" and os.path.exists(arguments[0])
            result = real(*arguments, **more)
            note(existed if name == "open" else result, *arguments, *([result] if name == "open" else []))
            return result

        return call

    def _wrap_vault(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(vault: Vault, *arguments: Any, **more: Any) -> Any:
            with contextlib.ExitStack() as stack:  # SQLite's own preparations are not the log's
                stack.enter_context(mock.patch.object(os, "open", _real_open))
                stack.enter_context(mock.patch.object(os, "close", _real_close))
                result = real(vault, *arguments, **more)
            self.calls.append(Call("vault", data=vault.path.read_bytes() if vault.path.exists() else None))
            return result

        return call

    def _name(self, path: Any) -> str | None:
        path = Path(path)
        is_mine = path.parent == self._directory and not path.name.endswith(".lock") and path.name != VAULT_FILE
        return path.name if is_mine else None

    def _note_open(self, existed: Any, path: Any, flags: int, *rest: Any) -> None:
        fd = rest[-1]
        if Path(path) == self._directory:
            self._open[fd] = (-1, False)
        elif (name := self._name(path)) is not None and flags & (os.O_WRONLY | os.O_RDWR):
            if not existed:
                self._nodes[name], self._sizes[self._next] = self._next, 0
                self.calls.append(Call("create", self._next, name))
                self._next += 1
            self._open[fd] = (self._nodes[name], bool(flags & os.O_APPEND))

    def _note_write(self, written: int, fd: int, data: Any) -> None:
        if fd in self._open:
            node = self._open[fd][0]  # every writer here appends, or writes a new file from its beginning
            self.calls.append(Call("write", node, offset=self._sizes[node], data=bytes(data)[:written]))
            self._sizes[node] += written

    def _note_ftruncate(self, _: None, fd: int, size: int) -> None:
        node = self._open[fd][0]
        self.calls.append(Call("truncate", node, offset=size))
        self._sizes[node] = size

    def _note_fsync(self, _: None, fd: int) -> None:
        if fd in self._open:
            node = self._open[fd][0]
            self.calls.append(Call("fsync_directory") if node == -1 else Call("fsync", node))

    def _note_replace(self, _: None, source: Any, target: Any) -> None:
        source, target = Path(source).name, Path(target).name
        node = self._nodes.pop(source)
        self._nodes[target] = node
        self.calls.append(Call("replace", node, source, target))

    def _note_unlink(self, _: None, path: Any, **more: Any) -> None:
        if (name := self._name(path)) is not None:
            self.calls.append(Call("unlink", self._nodes.pop(name), name))

    def _note_close(self, _: None, fd: int) -> None:
        self._open.pop(fd, None)


_real_open, _real_close = os.open, os.close


def unbuffered(fd: int, mode: str) -> Any:
    """`os.fdopen` for writing, by way of `os.write`, so that the calls can be seen and made to fail."""
    assert mode == "wb"
    return _Unbuffered(fd)


class _Unbuffered:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> "_Unbuffered":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
        return len(data)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._fd


def snapshot(directory: Path) -> Files:
    """The directory's files but for locks and the vault, with their bytes."""
    paths = [path for path in directory.iterdir() if path.is_file()]
    return {p.name: p.read_bytes() for p in paths if not p.name.endswith(".lock") and not p.name.startswith(VAULT_FILE)}


@dataclass
class Disk:
    """What is on the disk for certain, and what may be."""

    names: dict[str, Node]
    contents: dict[Node, bytes]
    vault: bytes | None
    pending: dict[Node, list[Call]] = field(default_factory=dict)  # writes and truncations
    pending_names: list[Call] = field(default_factory=list)
    acknowledged: bool = False

    def take(self, call: Call) -> None:
        match call.kind:
            case "acknowledged":
                self.acknowledged = True
            case "vault":
                self.vault = call.data
            case "fsync":
                for each in self.pending.pop(call.node, []):
                    self.contents[call.node] = applied(self.contents.get(call.node, b""), each)
            case "fsync_directory":
                for each in self.pending_names:
                    rename(self.names, each)
                self.pending_names = []
            case "write" | "truncate":
                self.pending.setdefault(call.node, []).append(call)
            case _:
                self.pending_names.append(call)

    def states(self, *, fine: bool) -> Iterator[tuple[Files, bytes | None]]:
        """Everything that a crash now can leave, as files with their bytes, and the vault.

        Args:
            fine: Tear the last write at every byte, not at sectors only.
        """
        choices = [list(self._contents(node, fine=fine)) for node in self.pending]
        for kept in _subsets(self.pending_names):
            names = dict(self.names)
            for each in kept:
                rename(names, each)
            for contents in itertools.product(*choices):
                found = {**self.contents, **dict(zip(self.pending, contents, strict=True))}
                yield {name: found.get(node, b"") for name, node in names.items()}, self.vault

    def _contents(self, node: Node, *, fine: bool) -> Iterator[bytes]:
        calls = self.pending[node]
        for kept in _subsets(calls):
            whole = self.contents.get(node, b"")
            for each in kept:
                whole = applied(whole, each)
            yield whole
        *before, last = calls
        if last.kind == "write" and last.data:
            whole = self.contents.get(node, b"")
            for each in before:
                whole = applied(whole, each)
            first = -last.offset % _SECTOR
            sectors = range(first, len(last.data), _SECTOR)
            for end in range(1, len(last.data)) if fine else sectors:
                yield applied(whole, Call("write", offset=last.offset, data=last.data[:end]))
            for start in (0, *sectors):
                lost = last.data[start : start + (_SECTOR if start else first or _SECTOR)]
                data = last.data[:start] + bytes(len(lost)) + last.data[start + len(lost) :]
                yield applied(whole, Call("write", offset=last.offset, data=data))


def _subsets(calls: list[Call]) -> Iterator[tuple[Call, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(calls, size) for size in range(len(calls) + 1))


def applied(content: bytes, call: Call) -> bytes:
    """A file's bytes after a write (zeros where nothing was written) or a truncation."""
    if call.kind == "truncate":
        return content[: call.offset].ljust(call.offset, b"\0")
    data = call.data or b""
    return content[: call.offset].ljust(call.offset, b"\0") + data + content[call.offset + len(data) :]


def rename(names: dict[str, Node], call: Call) -> None:
    match call.kind:
        case "create":
            names[call.name] = call.node
        case "replace":
            names[call.target] = call.node
            if names.get(call.name) == call.node:
                del names[call.name]
        case "unlink":
            names.pop(call.name, None)


def disk_before(recorder: Recorder, vault: bytes | None) -> Disk:
    nodes = recorder.nodes_before
    return Disk(dict(nodes), {node: recorder.before[name] for name, node in nodes.items()}, vault)


def replayed(recorder: Recorder) -> Files:
    """The files if everything that was recorded reached the disk."""
    disk = disk_before(recorder, None)
    for call in recorder.calls:
        disk.take(call)
    *_, (files, _) = disk.states(fine=False) if not disk.pending else _all_kept(disk)
    return files


def _all_kept(disk: Disk) -> list[tuple[Files, bytes | None]]:
    for node in list(disk.pending):
        disk.take(Call("fsync", node))
    disk.take(Call("fsync_directory"))
    return list(disk.states(fine=False))


# --- operations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """Something done to a log while its calls are recorded.

    Attributes:
        prepare: Makes the log as it is before, in a directory.
        act: What is recorded.
        event: The event that must be there once `act` has returned; "" for none.
        settings: Who opens the log after the crash.
    """

    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    event: str
    settings: AuditSettings


def operations(key: Ed25519PrivateKey | None = None) -> dict[str, Operation]:
    """Every operation that writes, by name."""
    keyless = AuditSettings("alice@lab")
    hmac = AuditSettings("alice@lab", hmac_secret=SECRET)
    signed = AuditSettings("alice@lab", signing_key=key or Ed25519PrivateKey.generate())

    def logged(settings: AuditSettings) -> Callable[[Path], None]:
        def prepare(directory: Path) -> None:
            logger = AuditLogger.with_settings(directory, settings, run_id="run-1")
            for number in range(4):
                logger.log_event("acme.before", number=number)

        return prepare

    def nothing(directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)

    def append(settings: AuditSettings, **more: Any) -> Callable[[Path], None]:
        def act(directory: Path) -> None:
            AuditLogger.with_settings(directory, settings, run_id="run-1").log_event("acme.during", **more)

        return act

    def begin(directory: Path) -> None:
        AuditLogger.with_settings(directory, signed, run_id="run-1")

    def torn(directory: Path) -> None:
        logged(hmac)(directory)
        with (directory / LOG_FILE).open("ab") as file:
            file.write(b'{"actor":{"operator":"alice@lab"},"data":{' + b"x" * 700)

    def whole_but_unacknowledged(directory: Path) -> None:
        logged(signed)(directory)
        checkpoint = directory / f"{LOG_FILE}.checkpoint"
        before = checkpoint.read_bytes()
        append(signed)(directory)
        checkpoint.write_bytes(before)

    long = "x" * 3_000
    personal = {"subject": "ada@example.org", "name": "Ada"}
    return {
        "append": Operation(logged(keyless), append(keyless, number=1), "acme.during", keyless),
        "append a long entry": Operation(logged(keyless), append(keyless, text=long), "acme.during", keyless),
        "append with tags": Operation(logged(hmac), append(hmac, number=1), "acme.during", hmac),
        "append with signatures": Operation(logged(signed), append(signed, text=long), "acme.during", signed),
        "append with personal values": Operation(
            logged(signed), append(signed, personal=personal), "acme.during", signed
        ),
        "begin a log": Operation(nothing, begin, "audit.genesis", signed),
        "begin a log and append": Operation(nothing, append(signed, number=1), "acme.during", signed),
        "add a key": Operation(logged(keyless), append(hmac, number=1), "acme.during", hmac),
        "recover from a torn line": Operation(torn, append(hmac, number=1), "acme.during", hmac),
        "recover a whole line": Operation(whole_but_unacknowledged, append(signed, number=1), "acme.during", signed),
    }  # fmt: skip


@dataclass
class Outcome:
    """What came of the crashes of one operation.

    Attributes:
        calls: System calls recorded.
        states: Different disks tried.
        lost: Those in which an acknowledged event was missing afterwards.
        bricked: Those in which the log could not be opened and appended to.
        unverified: Those after which the log did not verify.
        raised: Those before recovery at which the verifier raised.
    """

    calls: int = 0
    states: int = 0
    lost: list[str] = field(default_factory=list)
    bricked: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.bricked or self.unverified or self.raised)


def crash_everywhere(
    name: str, operation: Operation, scratch: Path, *, share: float = 1.0, fine: bool = True, seed: int = 1
) -> Outcome:
    """Record `operation`, crash it in every way, recover each disk, and look.

    Args:
        share: The part of the states that is tried, drawn at random; those in which nothing can be torn always are.
        fine: Tear writes at every byte, not at sectors only.
    """
    chance = random.Random(f"{name} {seed}")
    directory, place = scratch / "recorded", scratch / "crashed"
    shutil.rmtree(directory, ignore_errors=True)
    operation.prepare(directory)
    acknowledged = _events(directory)
    vault = directory / VAULT_FILE
    with Recorder(directory) as recorder:
        disk = disk_before(recorder, vault.read_bytes() if vault.exists() else None)
        operation.act(directory)
        recorder.acknowledge()
    outcome, seen = Outcome(calls=len(recorder.calls) - 1), set()
    with mock.patch.object(os, "fsync", return_value=None):
        for number, call in enumerate([None, *recorder.calls]):
            if call is not None:
                disk.take(call)
            for files, kept_vault in disk.states(fine=fine):
                key = hash((frozenset(files.items()), kept_vault, disk.acknowledged))
                if key in seen or (share < 1 and disk.pending and chance.random() > share):
                    continue
                seen.add(key)
                outcome.states += 1
                expected = [*acknowledged, operation.event] if disk.acknowledged else acknowledged
                _recover(files, kept_vault, place, operation.settings, expected, f"{name}, call {number}", outcome)
    return outcome


def _recover(
    files: Files,
    vault: bytes | None,
    place: Path,
    settings: AuditSettings,
    expected: list[str],
    where: str,
    into: Outcome,
) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    if vault is not None:
        (place / VAULT_FILE).write_bytes(vault)
    log = place / LOG_FILE
    question: dict[str, Any] = {"hmac_secret": settings.hmac_secret}
    if settings.signing_key is not None:
        question["public_key"] = settings.signing_key.public_key()
    try:
        with contextlib.suppress(FileNotFoundError):
            verify_audit_log(log, **question)
    except Exception as error:  # whatever it is, it is the finding
        into.raised.append(f"{where}: {error}")
    try:
        AuditLogger.with_settings(place, settings, run_id="run-2").log_event("acme.after", personal={"who": "bob"})
    except Exception as error:
        into.bricked.append(f"{where}: {error}")
        return
    result = verify_audit_log(log, **question)
    if not result.valid or result.redacted_openings:
        into.unverified.append(f"{where}: {result.reason or 'an opening is missing'}")
    found = _events(place)
    if any(found.count(event) < expected.count(event) for event in set(expected)):
        into.lost.append(f"{where}: {found}")


def _events(directory: Path) -> list[str]:
    """The events of the whole lines."""
    log = directory / LOG_FILE
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    return [Entry.parse(line[:-1]).event for line in lines if line.endswith(b"\n")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Crash every operation of the audit log in every way.")
    parser.add_argument("--share", type=float, default=1.0)
    arguments = parser.parse_args()
    total = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        for name, operation in operations().items():
            outcome = crash_everywhere(name, operation, Path(scratch), share=arguments.share)
            total += outcome.states
            counts = f"lost {len(outcome.lost)}, bricked {len(outcome.bricked)}, not verified {len(outcome.unverified)}"
            print(
                f"{name:30} {outcome.calls:3} calls {outcome.states:6} states: {counts}, raised {len(outcome.raised)}"
            )
            for finding in [*outcome.lost, *outcome.bricked, *outcome.unverified, *outcome.raised][:3]:
                print("   ", finding)
    print(f"{total} states")


if __name__ == "__main__":
    main()
