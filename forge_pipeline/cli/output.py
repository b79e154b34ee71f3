"""What commands print: text for people, or one JSON document with ``--json``."""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def emit(args: argparse.Namespace, document: Any, lines: Iterable[str]) -> None:
    """Print `document` (a mapping or dataclass) as JSON if asked, else `lines`."""
    if args.json:
        print(json.dumps(_plain(document), indent=2, ensure_ascii=False, default=str))
        return
    for line in lines:
        print(line)


def _plain(document: Any) -> Any:
    if is_dataclass(document) and not isinstance(document, type):
        return asdict(document)
    return dict(document) if isinstance(document, Mapping) else document
