"""Who is running: FORGE_OPERATOR, then FORGELM_OPERATOR, then user@host.

The name is what the environment says, not an authenticated identity; a signature is.
"""

import getpass
import os
import socket
from collections.abc import Mapping

from forge_pipeline.errors import ConfigError

_VARIABLES = ("FORGE_OPERATOR", "FORGELM_OPERATOR")
_MAX_CHARACTERS = 256


def operator_name(environ: Mapping[str, str]) -> str:
    """The operator to name in entries.

    Raises:
        ConfigError: A variable names an operator that cannot be one.
    """
    for variable in _VARIABLES:
        name = environ.get(variable, "").strip()
        if name:
            if len(name) > _MAX_CHARACTERS or not name.isprintable():
                raise ConfigError(
                    f"{variable}: {name[:40]!r}... is not a name; expected up to {_MAX_CHARACTERS} printable characters"
                )
            return name
    return f"{_user()}@{socket.gethostname() or 'unknown-host'}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid without a passwd entry
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown-user"
