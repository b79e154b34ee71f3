"""Where this machine keeps what can be made again: expanded base models, downloads, lock files."""

import os
from pathlib import Path


def forge_home() -> Path:
    """The directory named by FORGE_HOME, or ``.forge`` in the current directory. It need not exist yet."""
    return Path(os.environ.get("FORGE_HOME") or ".forge").expanduser().resolve()
