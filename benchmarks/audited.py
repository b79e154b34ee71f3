"""What was audited, what our audit wrote about it, and what the peer answers about it."""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.corpus import Planted, Truth
from benchmarks.exact_join import SimilarRows, similar_rows
from benchmarks.mutations import token_set

Place = tuple[str, int]  # split, row

THRESHOLD = 0.85  # Jaccard similarity from which rows are near-duplicates
_PROBE = Path(__file__).with_name("peer_probe.py")


@dataclass(frozen=True)
class FoundThing:
    """One finding of an audit, as its files tell it."""

    split: str
    row: int
    column: str
    category: str
    start: int
    end: int
    source: str
    placeholder: bool


@dataclass(frozen=True)
class Found:
    """What our audit wrote: its report, its findings, and the cluster of each row that is in one."""

    report: dict[str, Any]
    findings: list[FoundThing]
    clusters: dict[Place, int] | None  # None: this version writes no clusters


def read_found(folder: Path) -> Found:
    """Read the report and the row-level files beside it."""
    report = json.loads((folder / "data_audit_report.json").read_bytes())
    table = folder / "findings.parquet"
    rows = pq.read_table(table).to_pylist() if table.is_file() else report["findings"]
    names = FoundThing.__dataclass_fields__
    findings = [FoundThing(**{name: row[name] for name in names}) for row in rows]
    clusters_path = folder / "clusters.parquet"
    clusters = None
    if clusters_path.is_file():
        columns = pq.read_table(clusters_path, columns=["split", "row", "cluster"]).to_pydict()
        clusters = {
            (split, row): cluster
            for split, row, cluster in zip(columns["split"], columns["row"], columns["cluster"], strict=True)
        }
    return Found(report, findings, clusters)


class Corpus:
    """The texts of a corpus, and which of them are similar in truth."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    @cached_property
    def messages(self) -> dict[Place, list[str]]:
        read = {}
        for split in self.truth.rows:
            with (self.truth.data / f"{split}.jsonl").open(encoding="utf-8") as file:
                for row, line in enumerate(file):
                    read[split, row] = [message["content"] for message in json.loads(line)["messages"]]
        return read

    @cached_property
    def texts(self) -> list[str]:
        """Text of each row, all splits after each other."""
        return ["\n".join(messages) for messages in self.messages.values()]

    @cached_property
    def places(self) -> list[Place]:
        return list(self.messages)

    @cached_property
    def similar(self) -> SimilarRows:
        """All rows and pairs of Jaccard 0.85 or more, found exactly."""
        return similar_rows([token_set(text) for text in self.texts], THRESHOLD)

    def text_of(self, planted: Planted) -> str:
        """The message in which something was planted."""
        return self.messages[planted.split, planted.row][int(planted.column.split("[")[1].split("]")[0])]


class Peer:
    """The peer's detectors, asked row by row in its own environment."""

    def __init__(self, python: Path, scratch: Path) -> None:
        self._python, self._scratch = python, scratch

    def ask(self, question: str, items: Iterable[dict[str, Any]]) -> list[Any]:
        """Answers of `peer_probe` to each item (or its list of pairs)."""
        asked, answered = self._scratch / "asked.jsonl", self._scratch / "answered.jsonl"
        with asked.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in items)
        subprocess.run([str(self._python), str(_PROBE), question, str(asked), str(answered)], check=True)
        return [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]
