"""What a log writer takes from its surroundings, read once, at the edge."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline._version import __version__
from forge_pipeline.audit_log.identity import operator_name
from forge_pipeline.audit_log.keys import load_private_key
from forge_pipeline.errors import ConfigError

SECRET_VARIABLE = "FORGE_AUDIT_SECRET"
SIGNING_KEY_VARIABLE = "FORGE_AUDIT_SIGNING_KEY"
_SHORT_SECRET = 16  # characters; below it a secret can be searched for

_logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class AuditSettings:
    """Who writes, with which keys.

    Attributes:
        operator: Named in every entry.
        hmac_secret: Turns HMAC tags on.
        signing_key: Turns Ed25519 signatures on.
        code_version: Named in a log's first entry.
        binds: What else a log's first entry commits to: the orchestrator's instance id, a policy digest.
        clock: Gives the time of an entry, aware.
    """

    operator: str
    hmac_secret: str | None = field(default=None, repr=False)
    signing_key: Ed25519PrivateKey | None = field(default=None, repr=False)
    code_version: str = f"forge-pipeline {__version__}"
    binds: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], datetime] = utc_now

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "AuditSettings":
        """Settings from FORGE_OPERATOR, FORGE_AUDIT_SECRET and FORGE_AUDIT_SIGNING_KEY.

        Raises:
            ConfigError: The signing key cannot be used; the variable, path and reason are named.
        """
        environ = os.environ if environ is None else environ
        return cls(operator_name(environ), secret_from(environ), _signing_key(environ))


def secret_from(environ: Mapping[str, str]) -> str | None:
    """FORGE_AUDIT_SECRET; None where it is unset or empty."""
    secret = environ.get(SECRET_VARIABLE, "")
    if secret and len(secret) < _SHORT_SECRET:
        _logger.warning("%s has fewer than %d characters and could be guessed", SECRET_VARIABLE, _SHORT_SECRET)
    return secret or None


def _signing_key(environ: Mapping[str, str]) -> Ed25519PrivateKey | None:
    path = environ.get(SIGNING_KEY_VARIABLE, "")
    if not path:
        return None
    try:
        return load_private_key(Path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{SIGNING_KEY_VARIABLE}: {path}: {error}; expected the path of an unencrypted Ed25519 key in PEM, "
            "as `openssl genpkey -algorithm ed25519` writes it"
        ) from error
