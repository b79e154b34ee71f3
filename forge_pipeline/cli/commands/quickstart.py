"""Write the quickstart recipe to a new file: real data, a small real model, no network, no GPU."""

import argparse
from importlib.resources import files
from pathlib import Path

from forge_pipeline.cli.exit_codes import SUCCESS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default="quickstart.yaml", help="the new file (default: quickstart.yaml)")


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.integrity.atomic import write_file

    path = Path(args.path)
    if path.exists():
        raise FileExistsError(f"{path} already exists and is not overwritten; give another name")
    write_file(path, (files("forge_pipeline.cli") / "quickstart.yaml").read_bytes())
    print(f"{path} written. Next: forge train {path}")
    return SUCCESS
