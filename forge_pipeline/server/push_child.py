"""``python -m forge_pipeline.server.push_child``: push one model, then hand back what was pushed.

In a process of its own, because a push takes as long as the network takes, and can only be called off whole.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from forge_pipeline.integrity import Digest
from forge_pipeline.server.children import run_child


def push(request: dict[str, Any]) -> dict[str, Any]:
    """Push what `PushJobs` asks for.

    Raises:
        ForgeError: As `push_to_hub`.
    """
    from forge_pipeline.deploy.hub_push import push_to_hub
    from forge_pipeline.models.directory import ModelDirectory
    from forge_pipeline.registry import Registry

    registry = Registry(request["registry"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            card = Path(folder, "README.md")
            card.write_text(request["card"], encoding="utf-8")
            done = push_to_hub(
                ModelDirectory(Path(request["path"]), Digest(request["digest"])),
                request["repo_id"],
                card=card,
                registry=registry,
                token=os.environ[request["token_env"]],
                private=request["private"],
                unreleased=request["unreleased"],
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
    finally:
        registry.close()
    return {"commit": done.commit, "url": done.url, "files": len(done.files)}


if __name__ == "__main__":
    sys.exit(run_child(push))
