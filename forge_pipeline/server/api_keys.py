"""API keys: those of the environment (`FORGE_API_KEYS`) and those of a file that ``forge api-key`` writes.

A key is 256 random bits. It is shown once; what is stored is its SHA-256. A slow password hash would add
nothing: there is no dictionary to try, and 2^256 guesses are out of reach at any speed. Whoever reads the file
learns names, scopes and dates, and can call nothing.

The server looks at the file's time, size and inode before each request, so a key that is made, rotated or revoked
counts from the next request on. Once there is a file, a key is needed, also on loopback and also when every key
in it was revoked; a file that cannot be read lets nobody in.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from forge_pipeline.audit_log.locking import exclusive
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import atomic
from forge_pipeline.server.settings import KEY_FILE, ApiKey, Scope

_PREFIX = "forge_"  # by which a scanner of secrets, and a person, know what this is
_USE_FILE = "api_keys.used.json"
_FORMAT = 1


@dataclass(frozen=True)
class StoredKey:
    """One key of the file. Times are ISO 8601 in UTC, ending in Z.

    Attributes:
        name: Who or what holds it; stands in the audit log. A rotated key and its successor share it.
        sha256: Of the key, in hex; its first eight digits are the key's `id`.
        expires_at: From then on it is refused.
        revoked_at: Since then it has been refused.
    """

    name: str
    scope: Scope
    sha256: str
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None

    @property
    def id(self) -> str:
        return self.sha256[:8]

    def accepted(self, moment: str) -> bool:
        return self.revoked_at is None and (self.expires_at is None or moment < self.expires_at)


class KeyFile:
    """The file of keys under a data directory. Changes are made under a lock, whole or not at all."""

    def __init__(self, data_dir: Path) -> None:
        self.path, self._use = data_dir / KEY_FILE, data_dir / _USE_FILE

    def read(self) -> tuple[StoredKey, ...]:
        """Every key, oldest first; none without a file.

        Raises:
            ConfigError: The file is not one of ours.
        """
        try:
            found = json.loads(self.path.read_bytes())
            if found["format"] != _FORMAT:
                raise ValueError(f"format {found['format']!r}")
            return tuple(_checked(StoredKey(**values)) for values in found["keys"])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.path}: this file of API keys cannot be read ({type(error).__name__}: {error}). "
                "Restore it, or remove it and make new keys with: forge api-key create"
            ) from error

    def create(self, name: str, scope: Scope, *, lasts: timedelta | None = None) -> tuple[str, StoredKey]:
        """Make a key. Returns the key itself, which is stored nowhere, and what is stored.

        Raises:
            ConfigError: The name is taken by a key that still counts, or is none.
        """
        _check_name(name)
        with self._changing() as keys:
            if any(key.name == name and key.accepted(_now()) for key in keys):
                raise ConfigError(f"There is a key named {name!r}; replace it with: forge api-key rotate {name}")
            return self._add(keys, name, scope, lasts)

    def rotate(self, name: str, *, overlap: timedelta) -> tuple[str, StoredKey]:
        """Make a key that succeeds those of a name; they are accepted for `overlap` longer. Returns as `create`.

        Raises:
            ConfigError: No key of that name counts.
        """
        with self._changing() as keys:
            present = [key for key in keys if key.name == name and key.accepted(_now())]
            if not present:
                raise ConfigError(f"There is no key named {name!r} to rotate; forge api-key list shows them")
            until = _now(overlap)
            for key in present:
                ends = min(until, key.expires_at or until)
                keys[keys.index(key)] = replace(key, expires_at=ends)
            return self._add(keys, name, present[-1].scope, None)

    def revoke(self, name: str) -> int:
        """Refuse every key of a name from now on; returns how many were accepted until now.

        Raises:
            ConfigError: No key of that name counts.
        """
        with self._changing() as keys:
            present = [key for key in keys if key.name == name and key.accepted(_now())]
            if not present:
                raise ConfigError(f"There is no key named {name!r} to revoke; forge api-key list shows them")
            for key in present:
                keys[keys.index(key)] = replace(key, revoked_at=_now())
            return len(present)

    def last_used(self) -> dict[str, str]:
        """Key id -> when a server last accepted it, to about ten seconds."""
        try:
            found = json.loads(self._use.read_bytes())
            return {str(name): str(moment) for name, moment in found.items()}
        except (OSError, ValueError, AttributeError):  # a convenience, which an unreadable file must not take keys with
            return {}

    def note_use(self, used: dict[str, str]) -> None:
        """Keep when keys were used; their own file, so that a server never writes the one that decides."""
        atomic.write_file(self._use, json.dumps(self.last_used() | used, indent=1).encode())
        self._use.chmod(0o600)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[StoredKey]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path.with_name(f"{KEY_FILE}.lock")):
            keys = list(self.read())
            yield keys
            content = {"format": _FORMAT, "keys": [asdict(key) for key in keys]}
            atomic.write_file(self.path, json.dumps(content, indent=1).encode())
            self.path.chmod(0o600)

    def _add(self, keys: list[StoredKey], name: str, scope: Scope, lasts: timedelta | None) -> tuple[str, StoredKey]:
        secret = _PREFIX + secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        keys.append(StoredKey(name, scope, digest, _now(), _now(lasts) if lasts else None))
        return secret, keys[-1]


class KeyRing:
    """The keys that a server accepts now.

    Args:
        environment: Keys of `FORGE_API_KEYS`, which count as long as the server runs.
        data_dir: Where the file of keys may lie.
        always: Whether a key is needed even where there is none: the server can be reached from elsewhere.
    """

    def __init__(self, environment: Sequence[ApiKey], data_dir: Path, *, always: bool) -> None:
        self._environment, self._file, self._always = tuple(environment), KeyFile(data_dir), always
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._stored: tuple[StoredKey, ...] = ()
        self._used: dict[str, str] = {}

    def needed(self) -> bool:
        """Whether a request must bring a key."""
        return self._always or bool(self._environment) or self._file.path.exists()

    def granted(self, presented: str) -> list[ApiKey]:
        """What a key grants; empty for one that is not accepted.

        Raises:
            ConfigError: The file of keys cannot be read.
        """
        digest = hashlib.sha256(presented.encode()).hexdigest()
        # Every key is compared, each in constant time, so that timing does not tell them apart.
        found = [key for key in self._accepted() if hmac.compare_digest(key.sha256, digest)]
        if found:
            with self._lock:
                self._used[digest[:8]] = _now()
        return found

    def has_scope(self, scope: Scope) -> bool:
        """Whether a key of that scope is accepted."""
        return any(key.scope == scope for key in self._accepted())

    def flush(self) -> None:
        """Write down when keys of the file were used since the last time."""
        with self._lock:
            used, self._used = self._used, {}
        stored = {key.id for key in self._stored}
        if used := {name: moment for name, moment in used.items() if name in stored}:
            self._file.note_use(used)

    def _accepted(self) -> list[ApiKey]:
        moment = _now()
        stored = (key for key in self._present() if key.accepted(moment))
        return [*self._environment, *(ApiKey(name=key.name, scope=key.scope, sha256=key.sha256) for key in stored)]

    def _present(self) -> tuple[StoredKey, ...]:
        with self._lock:
            try:
                stat = os.stat(self._file.path)
            except FileNotFoundError:
                self._seen, self._stored = None, ()
                return ()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                self._stored = ()  # should it be unreadable, what was accepted before is not accepted any more
                self._seen = None
                self._stored = self._file.read()
                self._seen = seen
            return self._stored


def state_of(key: StoredKey) -> str:
    """``accepted``, until when, or since when it is not."""
    if key.revoked_at:
        return f"revoked {key.revoked_at}"
    if key.expires_at:
        return f"{'until' if key.accepted(_now()) else 'expired'} {key.expires_at}"
    return "accepted"


def _check_name(name: str) -> None:
    if not name or len(name) > 64 or not name.isprintable() or set(name) & set(":,") or name != name.strip():
        raise ConfigError(
            f"{name[:80]!r} is no name for a key; expected 1 to 64 printable characters without ':' or ','"
        )


def _checked(key: StoredKey) -> StoredKey:
    known: dict[str, Any] = asdict(key)
    if (
        key.scope not in get_args(Scope)
        or len(key.sha256) != 64
        or not all(
            isinstance(value, str) for name, value in known.items() if value is not None or not name.endswith("_at")
        )
    ):
        raise ValueError(f"the entry of {key.name!r} is not a key")
    return key


def _now(later: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) + later).isoformat(timespec="seconds").replace("+00:00", "Z")
