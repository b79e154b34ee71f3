"""Attacks on an audit log by somebody who can write files, and who notices: the table of the tests and of the page.

A reader knows the log's id, the digest of what it checks (a model, a dataset, a manifest stand for any artefact),
and in the later columns an earlier checkpoint, the public key, or both. A False is a claim as much as a True: what
is missed is asserted, so that nothing is promised that does not hold.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.audit_log import AuditLogger, AuditSettings, Checkpoint, Entry, merkle, verify_audit_log
from forge_pipeline.audit_log.chain import Anchor, as_digest
from forge_pipeline.audit_log.keys import LogKeys
from forge_pipeline.integrity import Digest, canonical_json

COLUMNS = ("keyless, alone", "keyless, anchored", "signed, alone", "signed, anchored")


@dataclass(frozen=True)
class LogCopy:
    """A log as its adversary sees it: two files in a directory, and its keys for the thief among adversaries."""

    directory: Path
    keys: LogKeys = field(default_factory=LogKeys)

    @property
    def path(self) -> Path:
        return self.directory / "audit_log.jsonl"

    @property
    def checkpoint_path(self) -> Path:
        return self.directory / "audit_log.jsonl.checkpoint"

    @property
    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines()

    @property
    def entries(self) -> list[Entry]:
        return [Entry.parse(line) for line in self.lines]

    def write_lines(self, lines: Iterable[bytes]) -> None:
        self.path.write_bytes(b"".join(line + b"\n" for line in lines))

    def rebuild(self, entries: Sequence[Entry], keys: LogKeys | None = None) -> None:
        """Write `entries` as a log that is right in itself: numbers, links and checkpoint made anew.

        Without keys, what tags and signatures there are stay as they were.
        """
        lines: list[bytes] = []
        tree = merkle.RangeBuilder()
        last = None
        for seq, entry in enumerate(entries):
            linked = replace(entry, seq=seq, prev_hash=last)
            line = (keys.authenticate(linked) if keys else linked).to_bytes()
            leaf = merkle.leaf_hash(line)
            last = as_digest(leaf)
            tree.append(leaf)
            lines.append(line)
        self.write_lines(lines)
        self.write_checkpoint(tree, entries[0].log_id, keys)

    def rebuild_checkpoint(self) -> None:
        """A checkpoint over the lines as they are now, without keys."""
        tree = merkle.RangeBuilder()
        for line in self.lines:
            tree.append(merkle.leaf_hash(line))
        log_id = Checkpoint.parse(self.checkpoint_path.read_text()).anchor.log_id
        self.write_checkpoint(tree, log_id, None)

    def write_checkpoint(self, tree: merkle.RangeBuilder, log_id: str, keys: LogKeys | None) -> None:
        anchor = Anchor(log_id, tree.size, as_digest(tree.root))
        self.checkpoint_path.write_text(Checkpoint.make(anchor, keys or LogKeys()).text)


@dataclass(frozen=True)
class Scene:
    """A directory with a log, what the log names by digest, an older copy of the log, and the log of another run.

    Attributes:
        log: The log under attack, in ``log/``.
        signing_key: The writer's; None: the log is keyless.
        log_id, anchor: What a careful reader wrote down while all was well.
    """

    directory: Path
    log: LogCopy
    signing_key: Ed25519PrivateKey | None
    log_id: str
    anchor: str

    @classmethod
    def write(cls, directory: Path, signing_key: Ed25519PrivateKey | None) -> "Scene":
        settings = AuditSettings("alice@lab", signing_key=signing_key)
        directory.mkdir(parents=True)
        (directory / "model.safetensors").write_bytes(b"the weights that were tested")
        (directory / "train.parquet").write_bytes(b"the rows that were trained on")
        write_manifest(directory, "passed")
        logger = AuditLogger.with_settings(directory / "log", settings, run_id="run-1")
        for name in ("train.parquet", "model.safetensors"):
            logger.log_event("artifact.materialized", **stored(name, directory))
        logger.log_event("compliance.bundle_written", digest=Digest.of_file(directory / "manifest.json"))
        shutil.copytree(directory / "log", directory / "older")
        subject = Digest.of_file(directory / "model.safetensors")
        logger.log_event("human_approval.required", subject=subject)
        logger.log_event("model.released", subject=subject)
        logger.log_event("run.closed")
        other = AuditLogger.with_settings(directory / "other", settings, run_id="run-1")
        other.log_event("model.released", subject=subject)
        log_id = logger.anchor().log_id
        log = LogCopy(directory / "log", LogKeys.of(log_id, secret=None, private=signing_key))
        return cls(directory, log, signing_key, log_id, logger.checkpoint())

    def copy_to(self, directory: Path) -> "Scene":
        shutil.copytree(self.directory, directory)
        return replace(self, directory=directory, log=replace(self.log, directory=directory / "log"))

    def is_noticed(self, *, anchored: bool) -> bool:
        """Whether a reader objects who checks the log, and the artefacts against the digests in it."""
        public = None if self.signing_key is None else self.signing_key.public_key()
        try:
            result = verify_audit_log(
                self.log.path,
                public_key=public,
                checkpoint=self.anchor if anchored else None,
                expected_log_id=self.log_id,
            )
        except FileNotFoundError:  # what has left traces elsewhere and is not there is noticed
            return True
        return not result.valid or not self._artefacts_fit()

    def _artefacts_fit(self) -> bool:
        entries = self.log.entries
        named = {entry.data["asset_key"]: entry.data["digest"] for entry in entries if "asset_key" in entry.data}
        named["manifest.json"] = next(e.data["digest"] for e in entries if e.event == "compliance.bundle_written")
        return all(Digest.of_file(self.directory / name) == digest for name, digest in named.items())


def stored(name: str, directory: Path) -> dict[str, Any]:
    digest = Digest.of_file(directory / name)
    return {"asset_key": name, "digest": digest, "files": 1, "inputs": {}, "code_version": "1", "kind": "file"}


def write_manifest(directory: Path, verdict: str) -> None:
    """A manifest that carries its own hash, right in itself whatever it says."""
    body: dict[str, object] = {"gate": verdict}
    hashed = {**body, "manifest_hash": f"sha256:{hashlib.sha256(canonical_json(body)).hexdigest()}"}
    (directory / "manifest.json").write_bytes(canonical_json(hashed))


# --- what the adversary does ------------------------------------------------------------------------------------


def _forged(entry: Entry, **data: object) -> Entry:
    return replace(entry, data={**entry.data, "forged": True, **data})


def _edit(scene: Scene, index: int) -> None:
    lines = scene.log.lines
    lines[index] = _forged(scene.log.entries[index]).to_bytes()
    scene.log.write_lines(lines)


def _splice(scene: Scene, change: Callable[[list[bytes]], list[bytes]]) -> None:
    scene.log.write_lines(change(scene.log.lines))


def _remake(scene: Scene, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Everything made anew that needs no key."""
    scene.log.rebuild(change(scene.log.entries))


def _remake_with_key(scene: Scene, change: Callable[[list[Entry]], list[Entry]]) -> None:
    bare = [replace(entry, hmac=None, sig=None) for entry in scene.log.entries]
    scene.log.rebuild(change(bare), scene.log.keys)


def _approval(entries: list[Entry], run_id: str) -> Entry:
    data = {"subject": entries[1].data["digest"]}
    return replace(entries[-1], event="human_approval.granted", data=data, run={"run_id": run_id})


def _in_bytes(scene: Scene, old: bytes, new: bytes) -> None:
    """Change the last line's bytes, and the checkpoint with them."""
    *before, last = scene.log.lines
    assert last.count(old) == 1
    scene.log.write_lines([*before, last.replace(old, new)])
    scene.log.rebuild_checkpoint()


def _put_in_place(scene: Scene, name: str) -> None:
    shutil.rmtree(scene.log.directory)
    shutil.copytree(scene.directory / name, scene.log.directory)


def _begin_again(scene: Scene, signing_key: Ed25519PrivateKey | None) -> None:
    entries = scene.log.entries
    shutil.rmtree(scene.log.directory)
    settings = AuditSettings("alice@lab", signing_key=signing_key)
    logger = AuditLogger.with_settings(scene.log.directory, settings, run_id="run-1")
    for entry in entries[1:]:
        logger.log_event(entry.event, **entry.data)


def _swap(scene: Scene, name: str, *, relog: bool) -> None:
    (scene.directory / name).write_bytes(b"other bytes")
    if relog:
        digest = Digest.of_file(scene.directory / name)
        _remake(scene, lambda es: [_forged(e, digest=digest) if e.data.get("asset_key") == name else e for e in es])


def _forge_manifest(scene: Scene, *, relog: bool) -> None:
    write_manifest(scene.directory, "passed with distinction")
    if relog:
        digest = Digest.of_file(scene.directory / "manifest.json")
        event = "compliance.bundle_written"
        _remake(scene, lambda es: [_forged(e, digest=digest) if e.event == event else e for e in es])


def _truncate(scene: Scene, *, rebuild: bool) -> None:
    _splice(scene, lambda lines: lines[:-2])
    if rebuild:
        scene.log.rebuild_checkpoint()


def _edit_genesis(entries: list[Entry]) -> list[Entry]:
    return [replace(entries[0], data={**entries[0].data, "binds": {"policy_digest": "another"}}), *entries[1:]]


def _remove_line_feed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _drop_member(scene: Scene, name: str) -> None:
    """Take one member out of the last line, and make the checkpoint anew."""
    *before, last = scene.log.lines
    members = json.loads(last)
    members.pop(name, None)
    scene.log.write_lines([*before, canonical_json(members)])
    scene.log.rebuild_checkpoint()


ALL, NONE = (True,) * 4, (False,) * 4
MORE_THAN_THE_FILES = (False, True, True, True)
AN_ANCHOR = (False, True, False, True)
A_KEY = (False, False, True, True)

ATTACKS: dict[str, tuple[Callable[[Scene], None], tuple[bool, bool, bool, bool]]] = {
    "modify an entry": (lambda s: _edit(s, 2), ALL),
    "modify the last entry": (lambda s: _edit(s, -1), ALL),
    "delete an entry": (lambda s: _splice(s, lambda ls: ls[:3] + ls[4:]), ALL),
    "insert an entry": (lambda s: _splice(s, lambda ls: [*ls[:3], ls[2], *ls[3:]]), ALL),
    "reorder entries": (lambda s: _splice(s, lambda ls: [*ls[:2], ls[3], ls[2], *ls[4:]]), ALL),
    "truncate the tail": (lambda s: _truncate(s, rebuild=False), ALL),
    "truncate the tail, rebuild the checkpoint": (lambda s: _truncate(s, rebuild=True), MORE_THAN_THE_FILES),
    "edit the tail, rebuild": (lambda s: _remake(s, lambda es: [*es[:-1], _forged(es[-1])]), MORE_THAN_THE_FILES),
    "forge an approval in a closed run, rebuild": (
        lambda s: _remake(s, lambda es: [*es, _approval(es, "run-1")]),
        ALL,
    ),
    # Only a key tells whose an extension is; an anchor covers what was there when it was taken, and says so.
    "forge an approval under another run, rebuild": (
        lambda s: _remake(s, lambda es: [*es, _approval(es, "run-2")]),
        A_KEY,
    ),
    "replace the history, rebuild": (
        lambda s: _remake(s, lambda es: [es[0], *map(_forged, es[1:])]),
        MORE_THAN_THE_FILES,
    ),
    "edit the genesis, rebuild": (lambda s: _remake(s, _edit_genesis), MORE_THAN_THE_FILES),
    "roll back to an older copy of log and checkpoint": (lambda s: _put_in_place(s, "older"), AN_ANCHOR),
    "insider with the key rewrites": (
        lambda s: _remake_with_key(s, lambda es: [*es[:2], _forged(es[2]), *es[3:]]),
        AN_ANCHOR,
    ),
    "insider with the key appends": (
        lambda s: _remake_with_key(s, lambda es: [*es, _approval(es, "run-2")]),
        NONE,
    ),
    "replay another run's log": (lambda s: _put_in_place(s, "other"), ALL),
    "delete everything": (lambda s: shutil.rmtree(s.log.directory), ALL),
    "delete everything and begin again": (lambda s: _begin_again(s, None), ALL),
    "delete everything and begin again with the key": (lambda s: _begin_again(s, s.signing_key), ALL),
    "swap the model file": (lambda s: _swap(s, "model.safetensors", relog=False), ALL),
    "swap the model file, rebuild": (lambda s: _swap(s, "model.safetensors", relog=True), MORE_THAN_THE_FILES),
    "swap the dataset": (lambda s: _swap(s, "train.parquet", relog=False), ALL),
    "swap the dataset, rebuild": (lambda s: _swap(s, "train.parquet", relog=True), MORE_THAN_THE_FILES),
    "forge the manifest and its own hash": (lambda s: _forge_manifest(s, relog=False), ALL),
    "forge the manifest, rebuild": (lambda s: _forge_manifest(s, relog=True), MORE_THAN_THE_FILES),
    "delete a hash, rebuild the checkpoint": (lambda s: _drop_member(s, "prev_hash"), ALL),
    "delete the signature, rebuild the checkpoint": (lambda s: _drop_member(s, "sig"), A_KEY),
    "double a key": (lambda s: _in_bytes(s, b'"seq":', b'"seq":0,"seq":'), ALL),
    "double the actor": (
        lambda s: _in_bytes(s, b'{"actor":', b'{"actor":{"operator":"ceo@bank"},"actor":'),
        ALL,
    ),
    "put the envelope's operator beside the actor": (
        lambda s: _in_bytes(s, b'"prev_hash"', b'"operator":"ceo@bank","prev_hash"'),
        ALL,
    ),
    "put NaN into a field": (lambda s: _in_bytes(s, b'"data":{', b'"data":{"loss":NaN'), ALL),
    "insert a blank line": (lambda s: _splice(s, lambda ls: [*ls[:3], b"", *ls[3:]]), ALL),
    "append a blank line": (lambda s: _splice(s, lambda ls: [*ls, b""]), ALL),
    "remove the final line feed": (lambda s: _remove_line_feed(s.log.path), ALL),
    "delete the checkpoint": (lambda s: s.log.checkpoint_path.unlink(), A_KEY),
}

# Log, key, artefacts and every copy of every anchor in one hand: nothing that is kept on one machine notices.
EVERYTHING = "insider with the key rewrites, and every anchor with it"


def with_every_anchor(scene: Scene) -> Scene:
    """The scene after `EVERYTHING`, with the reader's own notes exchanged."""
    _remake_with_key(scene, lambda es: [*es[:2], _forged(es[2]), *es[3:]])
    return replace(scene, anchor=scene.log.checkpoint_path.read_text())


def matrix(directory: Path, signing_key: Ed25519PrivateKey) -> dict[str, tuple[bool, ...]]:
    """Attack -> who notices it, of `COLUMNS`, each attack carried out on a fresh copy."""
    scenes = {key is not None: Scene.write(directory / f"scene-{key is not None}", key) for key in (None, signing_key)}
    found = {}
    for number, (name, (attack, _)) in enumerate(ATTACKS.items()):
        noticed = []
        for column, title in enumerate(COLUMNS):
            scene = scenes[title.startswith("signed")].copy_to(directory / f"{number}-{column}")
            attack(scene)
            noticed.append(scene.is_noticed(anchored=title.endswith("anchored")))
            shutil.rmtree(scene.directory)
        found[name] = tuple(noticed)
    return found


def table(found: dict[str, tuple[bool, ...]]) -> str:
    """The matrix as Markdown."""
    rows = [f"| attack | {' | '.join(COLUMNS)} |", "|---" * 5 + "|"]
    rows += [
        f"| {name} | {' | '.join('noticed' if seen else '**missed**' for seen in row)} |" for name, row in found.items()
    ]
    return "\n".join(rows) + "\n"
