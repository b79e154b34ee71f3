"""Entry: one line of the log, to and from its canonical bytes.

A line is the RFC 8785 JSON of one object, then a line feed. Its members:

    v          1, the version of this format
    log_id     UUID of the log, drawn when it began
    seq        0, 1, 2, ... without a gap
    ts         the writer's clock, UTC, ``2026-11-21T19:27:00.123456Z``
    event      a dotted name (see `events`)
    actor      {"operator": who} and what else names the actor; strings
    run        {"run_id": which run} and what else names the run; strings
    data       the event's fields; nothing in it can stand for an envelope member
    prev_hash  hash of the line before (see `chain`); null in the first
    commit     optional: field -> HMAC of a value that is kept outside the log and can be shredded
    hmac       optional: HMAC-SHA256 tag over the entry without `hmac` and `sig`, hex
    sig        optional: Ed25519 signature over the entry without `sig`, base64

Law: ``Entry.parse(entry.to_bytes()) == entry``, and any other bytes for the same
entry are refused: other key order, white space, duplicate keys, unknown members.
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from forge_pipeline.audit_log.chain import entry_hash
from forge_pipeline.audit_log.encoding import decode, encode
from forge_pipeline.integrity import Digest

FORMAT_VERSION = 1
MAX_LINE_BYTES = 1 << 20  # without the line feed; keeps a verifier's memory bounded

_REQUIRED = frozenset({"v", "log_id", "seq", "ts", "event", "actor", "run", "data", "prev_hash"})
_OPTIONAL = frozenset({"commit", "hmac", "sig"})
_KNOWN = _REQUIRED | _OPTIONAL
RESERVED_NAMES = _KNOWN | {"operator", "run_id", "timestamp"}
"""Names that an event's fields may not take, because a reader would take them for the envelope's."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_EVENT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_HEX32 = re.compile(r"[0-9a-f]{64}")
_TIMESTAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_TIME = re.compile(r"[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z")


@dataclass(frozen=True)
class Entry:
    """One entry; see the module's docstring for its members."""

    log_id: str
    seq: int
    ts: str
    event: str
    actor: Mapping[str, str]
    run: Mapping[str, str]
    data: Mapping[str, Any]
    prev_hash: Digest | None
    commit: Mapping[str, str] = field(default_factory=dict)
    hmac: str | None = None
    sig: str | None = None

    @property
    def operator(self) -> str:
        return self.actor["operator"]

    @property
    def run_id(self) -> str:
        return self.run["run_id"]

    @property
    def time(self) -> datetime:
        return datetime.strptime(self.ts, _TIMESTAMP).replace(tzinfo=UTC)

    @property
    def hash(self) -> Digest:
        """What the next entry names as its `prev_hash`."""
        return entry_hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The canonical line, without its line feed.

        Raises:
            ValueError: A value in `data` is not JSON, not finite or nested too deeply, or the line is too long.
        """
        return self._encode(with_hmac=True, with_sig=True)

    def bytes_to_tag(self) -> bytes:
        """What the HMAC tag covers."""
        return self._encode(with_hmac=False, with_sig=False)

    def bytes_to_sign(self) -> bytes:
        """What the signature covers: the tag too."""
        return self._encode(with_hmac=True, with_sig=False)

    def _encode(self, *, with_hmac: bool, with_sig: bool) -> bytes:
        members: dict[str, Any] = {
            "v": FORMAT_VERSION,
            "log_id": self.log_id,
            "seq": self.seq,
            "ts": self.ts,
            "event": self.event,
            "actor": dict(self.actor),
            "run": dict(self.run),
            "data": dict(self.data),
            "prev_hash": self.prev_hash,
        }
        if self.commit:
            members["commit"] = dict(self.commit)
        if with_hmac and self.hmac is not None:
            members["hmac"] = self.hmac
        if with_sig and self.sig is not None:
            members["sig"] = self.sig
        line = encode(members)
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(
                f"event {self.event}: the entry has {len(line)} bytes, more than {MAX_LINE_BYTES}; "
                "store the value as an artefact and log its digest"
            )
        return line

    @classmethod
    def parse(cls, line: bytes) -> "Entry":
        """Read one line (no line feed).

        Raises:
            ValueError: It is not the canonical form of an entry. The message says in what.
        """
        if not line:
            raise ValueError("the line is blank")
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"the line has {len(line)} bytes, more than {MAX_LINE_BYTES}")
        members = decode(line)
        if not isinstance(members, dict):
            raise ValueError("the line is not a JSON object")
        problems = sorted(_problems(members))
        if problems:
            raise ValueError("; ".join(problems))
        return cls(
            log_id=members["log_id"],
            seq=members["seq"],
            ts=members["ts"],
            event=members["event"],
            actor=members["actor"],
            run=members["run"],
            data=members["data"],
            prev_hash=members["prev_hash"] and Digest(members["prev_hash"]),
            commit=members.get("commit", {}),
            hmac=members.get("hmac"),
            sig=members.get("sig"),
        )


def timestamp(moment: datetime) -> str:
    """`moment` (aware) as an entry's `ts`."""
    return moment.astimezone(UTC).strftime(_TIMESTAMP)


def is_event_name(name: str) -> bool:
    """Whether `name` is dotted words of letters, digits, ``_`` and ``-``, at most 100 characters."""
    return len(name) <= 100 and _EVENT.fullmatch(name) is not None


def _problems(members: dict[str, Any]) -> list[str]:
    """What keeps `members` from being an entry, except its form."""
    names = members.keys()
    if not _REQUIRED <= names <= _KNOWN:
        problems = [f"member {name!r} is missing" for name in _REQUIRED - names]
        return problems + [f"member {name!r} is not known" for name in names - _KNOWN]
    if members["v"] != FORMAT_VERSION or type(members["v"]) is not int:
        return [f"format version {members['v']!r} is not {FORMAT_VERSION}"]
    return [
        f"member {name!r} is not {wanted}"
        for name, (wanted, is_valid) in _MEMBERS.items()
        if name in names and not is_valid(members[name])
    ]


def _is_names(value: object, required: str) -> bool:
    return isinstance(value, dict) and required in value and all(isinstance(v, str) and v for v in value.values())


def _is_timestamp(value: object) -> bool:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value[:-1])  # that there is such a day
    except ValueError:
        return False
    return True


def _is_digest(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(Digest(value))
    except ValueError:
        return False


def _is_base64(value: object, size: int) -> bool:
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        return False
    return len(raw) == size and base64.b64encode(raw).decode() == value


def _is_commitment(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(v, str) and _HEX32.fullmatch(v) for v in value.values())
    )


_MEMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "log_id": ("a lower-case UUIDv4", lambda v: isinstance(v, str) and _UUID.fullmatch(v) is not None),
    "seq": ("a count from 0", lambda v: type(v) is int and v >= 0),
    "ts": ("a time like 2026-11-21T19:27:00.123456Z", _is_timestamp),
    "event": ("a dotted event name", lambda v: isinstance(v, str) and is_event_name(v)),
    "actor": ("an object of strings with 'operator'", lambda v: _is_names(v, "operator")),
    "run": ("an object of strings with 'run_id'", lambda v: _is_names(v, "run_id")),
    "data": ("an object", lambda v: isinstance(v, dict)),
    "prev_hash": ("null or sha256:<64 hex digits>", lambda v: v is None or _is_digest(v)),
    "commit": ("an object of field names to 64 hex digits", _is_commitment),
    "hmac": ("64 lower-case hex digits", lambda v: isinstance(v, str) and _HEX32.fullmatch(v) is not None),
    "sig": ("64 bytes in base64", lambda v: _is_base64(v, 64)),
}
