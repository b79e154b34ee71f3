"""Erased people, known again: so that an old export or a backup does not bring them back unnoticed.

A list of HMAC-SHA256(k, normal identifier) with an expiry each. The key lies in a file of its own, readable by its
owner only, away from the list. **The list is personal data**: whoever has list and key can test whether a given
person is on it (WP29 05/2014: pseudonymous, not anonymous). So it is kept as small and as short as its purpose needs:
no identifier, an expiry for every entry, and entries past theirs are dropped when the list is next written. Put it
into the record of processing (GDPR 30), and tell the person that it is kept (GDPR 13(2)(a), 17(3)).
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forge_pipeline.erasure.identifier import KINDS, Kind, Subject, normal_forms
from forge_pipeline.erasure.places import ERASURE
from forge_pipeline.errors import ConfigError, IntegrityError
from forge_pipeline.integrity import atomic, canonical_json, loads_strict

LIST_FILE = "deny_list.jsonl"
KEY_BYTES = 32
DEFAULT_DAYS = 365


@dataclass(frozen=True)
class Denied:
    """One entry: a tag, when it ends, and what is needed to look for it (words of a name, country of a number)."""

    tag: str
    kind: Kind
    expires_at: str
    words: int = 0
    region: str | None = None


class DenyList:
    """The deny-list of a deployment.

    Args:
        path: The list, one JSON line an entry; it need not exist.
        key: The key file; made, with mode 0600, when the first entry is added.

    Raises (all methods):
        ConfigError: The key file is missing, readable by others, or no key.
        IntegrityError: The list holds a line that is no entry.
    """

    def __init__(self, path: Path, key: Path) -> None:
        self._path, self._key_path = path, key
        self._key: bytes | None = None

    @classmethod
    def of_home(cls, home: Path, key: Path | None = None) -> "DenyList":
        """The list under FORGE_HOME; its key where `key` says, by default in ``<home>/keys``, outside of the store."""
        return cls(home / ERASURE / LIST_FILE, key or home / "keys" / "deny_list.key")

    def entries(self, at: datetime | None = None) -> tuple[Denied, ...]:
        """The entries that have not expired."""
        now = (at or datetime.now(UTC)).astimezone(UTC)
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return ()
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                entry = Denied(**loads_strict(line))
                if entry.kind not in KINDS or len(entry.tag) != 64:
                    raise ValueError("not a tag of a known kind")
                if datetime.fromisoformat(entry.expires_at) > now:
                    found.append(entry)
            except (ValueError, TypeError) as error:
                raise IntegrityError(f"{self._path}: line {number} is no entry of a deny-list: {error}") from error
        return tuple(found)

    def add(self, subject: Subject, *, days: int = DEFAULT_DAYS, at: datetime | None = None) -> Denied:
        """Put a person on the list for `days`, or set the expiry of the entry that is there."""
        if not 1 <= days <= 3650:
            raise ConfigError(f"a deny-list entry lasts 1 to 3650 days, not {days}: it is personal data itself")
        now = (at or datetime.now(UTC)).astimezone(UTC)
        words = len(subject.normal.split()) if subject.kind == "words" else 0
        ends = (now + timedelta(days=days)).isoformat(timespec="seconds")
        new = Denied(self._tag(subject.kind, subject.normal, make=True), subject.kind, ends, words, subject.region)
        kept = [entry for entry in self.entries(now) if entry.tag != new.tag]
        self._write([*kept, new])
        return new

    def expire(self, at: datetime | None = None) -> int:
        """Drop what has expired from the file; how many entries there are now."""
        kept = self.entries(at)
        if self._path.exists():
            self._write(kept)
        return len(kept)

    def matches(self, text: str, *, at: datetime | None = None) -> tuple[Denied, ...]:
        """The entries that `text` names. A name counts as whole words in the same case."""
        return self.reader(at=at).matches(text)

    def reader(self, *, at: datetime | None = None) -> "DenyListReader":
        """The list as it is now, for looking through many texts."""
        entries = self.entries(at)
        key = self._load() if entries else b""
        return DenyListReader(entries, key)

    def _tag(self, kind: Kind, normal: str, *, make: bool) -> str:
        if make and not self._key_path.exists():
            self._make_key()
        return tag_of(self._load(), kind, normal)

    def _load(self) -> bytes:
        if self._key is None:
            try:
                mode, text = self._key_path.stat().st_mode, self._key_path.read_text(encoding="ascii").strip()
                key = bytes.fromhex(text)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"{self._key_path}: the deny-list's key cannot be read ({type(error).__name__}); restore it, or "
                    f"remove {self._path.name} to begin a new list"
                ) from error
            if os.name == "posix" and mode & 0o077:
                raise ConfigError(f"{self._key_path} can be read by others; chmod 600 it, and think about a new list")
            if len(key) != KEY_BYTES:
                raise ConfigError(f"{self._key_path} holds {len(key)} bytes; expected {KEY_BYTES} in hex")
            self._key = key
        return self._key

    def _make_key(self) -> None:
        self._key_path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(secrets.token_bytes(KEY_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        atomic.fsync_directory(self._key_path.parent)

    def _write(self, entries: Iterable[Denied]) -> None:
        atomic.write_file(self._path, b"".join(canonical_json(asdict(entry)) + b"\n" for entry in entries))
        if os.name == "posix":
            self._path.chmod(0o600)


class DenyListReader:
    """A list and its key in memory. Made by `DenyList.reader`."""

    def __init__(self, entries: tuple[Denied, ...], key: bytes) -> None:
        self._by_tag = {entry.tag: entry for entry in entries}
        self._key = key
        self._kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if any(each.kind == kind for each in entries))
        self._regions = {entry.region for entry in entries if entry.region}
        self._words = {entry.words for entry in entries if entry.words}

    def __bool__(self) -> bool:
        """Whether there is anybody on the list."""
        return bool(self._by_tag)

    def matches(self, text: str) -> tuple[Denied, ...]:
        """The entries that `text` names, each once."""
        found: dict[str, Denied] = {}
        for kind in self._kinds:
            for normal in normal_forms(text, kind, regions=self._regions, words=self._words):
                entry = self._by_tag.get(tag_of(self._key, kind, normal))
                if entry is not None:
                    found[entry.tag] = entry
        return tuple(found.values())


def tag_of(key: bytes, kind: Kind, normal: str) -> str:
    """HMAC-SHA256 of the kind and the normal identifier, in hex."""
    return hmac.new(key, f"{kind}:{normal}".encode(), hashlib.sha256).hexdigest()
