"""Who signs and with what, and whether anything outside is asked: operator, keys, API keys, offline mode."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from forge_pipeline.cli.probes.finding import Finding, State

_ON = ("1", "true", "yes", "on")
_GENERATE = "openssl genpkey -algorithm ed25519 -out KEY.pem && chmod 600 KEY.pem"


def keys(environ: Mapping[str, str]) -> list[Finding]:
    """The operator's name, and the keys of the log, of model signatures and of the approver."""
    from forge_pipeline.audit_log.identity import operator_name
    from forge_pipeline.errors import ConfigError

    try:
        operator = Finding("operator", "ok", operator_name(environ))
    except ConfigError as error:
        operator = Finding("operator", "fail", str(error), "set FORGE_OPERATOR to a name")
    if operator.state == "ok" and not environ.get("FORGE_OPERATOR"):
        fix = "set FORGE_OPERATOR to the name that the record shall hold"
        operator = Finding("operator", "warn", f"{operator.words}, taken from the account", fix)
    signing = _key("signing key", "FORGE_AUDIT_SIGNING_KEY", environ, "log entries are not signed")
    approver = _key("approver key", "FORGE_APPROVER_KEY", environ, "decisions of this person are not signed")
    model = _key("model key", "FORGE_MODEL_SIGNING_KEY", environ, "models are not signed")
    return [operator, _hmac(environ), signing, model, approver, *_same_key(environ)]


def _hmac(environ: Mapping[str, str]) -> Finding:
    from forge_pipeline.audit_log.settings import SECRET_VARIABLE

    secret = environ.get(SECRET_VARIABLE, "")
    fix = f"export {SECRET_VARIABLE}=$(openssl rand -hex 32), kept where the logs are not"
    if not secret:
        return Finding("HMAC key", "ok", f"none: log entries carry no tags ({SECRET_VARIABLE})")
    if len(secret) < 16:
        return Finding("HMAC key", "warn", f"{len(secret)} characters, which can be guessed", fix)
    return Finding("HMAC key", "ok", f"{len(secret)} characters")


def _key(what: str, variable: str, environ: Mapping[str, str], without: str) -> Finding:
    """A PEM file that a variable names: whether it can be used, and who may read it."""
    name = environ.get(variable)
    if not name:
        return Finding(what, "ok", f"none: {without} ({variable})")
    from cryptography.hazmat.primitives import serialization

    try:
        serialization.load_pem_private_key(Path(name).read_bytes(), password=None)
        mode = stat.S_IMODE(os.stat(name).st_mode)
    except (OSError, ValueError, TypeError) as error:
        return Finding(what, "fail", f"{variable}: {name}: {error}", _GENERATE.replace("KEY.pem", name))
    if os.name == "posix" and mode & 0o077:
        return Finding(what, "warn", f"{name} can be read by others (mode {mode:o})", f"chmod 600 {name}")
    return Finding(what, "ok", name)


def _same_key(environ: Mapping[str, str]) -> list[Finding]:
    """Who trains must not approve: a decision by the key that the training process signs with does not count."""
    names = [environ.get(name, "") for name in ("FORGE_AUDIT_SIGNING_KEY", "FORGE_APPROVER_KEY")]
    try:
        same = all(names) and Path(names[0]).read_bytes() == Path(names[1]).read_bytes()
    except OSError:
        return []  # said above
    if not same:
        return []
    fix = "give approvers keys of their own, outside the machine that trains"
    return [Finding("two keys", "warn", "approver and log sign with one key: its approvals do not count", fix)]


def api(environ: Mapping[str, str]) -> list[Finding]:
    """Whether the REST API would start as the environment has it."""
    from forge_pipeline._optional import require

    try:  # by name: cli and server are siblings that do not import each other
        found = require("forge_pipeline.server.settings", extra="server", purpose="Servers")
        settings = found.ServerSettings.read(environ)
    except ImportError:
        return []  # said with the extras
    except ValueError as error:  # a ConfigError is one
        return [Finding("REST API", "fail", str(error), "correct the variable, or unset it")]
    reach = "this machine only, without keys" if settings.is_loopback else f"{settings.host}, with keys"
    return [Finding("REST API", "ok", reach)]


def offline(environ: Mapping[str, str]) -> list[Finding]:
    """Whether libraries may ask the Hugging Face Hub, and whether they report their use."""
    is_off = any(environ.get(name, "").casefold() in _ON for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    if is_off:
        return [Finding("offline", "ok", "yes: the Hub is never asked (HF_HUB_OFFLINE)")]
    quiet = environ.get("HF_HUB_DISABLE_TELEMETRY", "").casefold() in _ON
    state: State = "ok" if quiet else "warn"
    words = "no: Hub ids are fetched" + ("" if quiet else ", and the Hub's library reports its use")
    fix = "export HF_HUB_DISABLE_TELEMETRY=1; without a network HF_HUB_OFFLINE=1, or model.offline in the recipe"
    return [Finding("offline", state, words, "" if quiet else fix)]
