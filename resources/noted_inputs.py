"""What a step really loaded, noted for its materialization record. A file, because steps may be processes."""

import json
from pathlib import Path

from forge_pipeline.integrity import Digest
from resources.home import Home


def note_input(home: Path, run_id: str, step_key: str, asset_key: str, digest: Digest) -> None:
    """Note that the step took `asset_key` with these bytes.

    Args:
        home: FORGE_HOME.
    """
    folder = step_work(home, run_id, step_key)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "inputs.jsonl").open("a") as file:
        file.write(json.dumps([asset_key, digest]) + "\n")


def noted_inputs(home: Path, run_id: str, step_key: str) -> dict[str, Digest]:
    """Asset key -> digest of what the step noted; empty if nothing."""
    notes = step_work(home, run_id, step_key) / "inputs.jsonl"
    if not notes.exists():
        return {}
    return {key: Digest(digest) for key, digest in map(json.loads, notes.read_text().splitlines())}


def step_work(home: Path, run_id: str, step_key: str) -> Path:
    """Scratch of a step's inputs and output."""
    return Home(home).work / run_id / f"{step_key}.io"
