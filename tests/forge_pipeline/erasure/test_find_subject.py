"""Searching for a person: every place, every form, and an answer that does not repeat the name."""

import base64
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.audit_log import LOG_FILE, read_entries
from forge_pipeline.erasure import Places, find_subject
from forge_pipeline.errors import EvidenceError
from forge_pipeline.integrity import Digest, report_to_json
from forge_pipeline.registry import Registry
from tests.forge_pipeline.erasure.deployed import LINE, Deployment

JANE = "jane.doe@example.org"


def _in_text(path: Path) -> None:
    path.write_text(f"a line\n\nabout {JANE.upper()} here")


def _in_base64(path: Path) -> None:
    path.write_bytes(b"\0\xff" + base64.b64encode(b"to: " + JANE.encode() + b"!") + b"\xff")


def _in_utf16(path: Path) -> None:
    path.write_text(f"about {JANE} here", encoding="utf-16")


def _in_hex(path: Path) -> None:
    path.write_text(JANE.encode().hex().upper())


def _in_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", f"about {JANE}")


def _in_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (who TEXT)")
        database.execute("INSERT INTO notes VALUES (?)", (JANE,))
    database.close()


def _in_broken_line(path: Path) -> None:
    path.write_text(f'{{"text": "fine"}}\n{{"text": "{JANE}"\n')


def _in_escapes(path: Path) -> None:
    path.write_text(json.dumps({"text": [{"deep": JANE.replace("@", "\u0040")}]}).replace("@", "\\u0040"))


def _across_blocks(path: Path) -> None:
    path.write_bytes(b" " * ((4 << 20) - 5) + JANE.encode() + b" " * 100)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "text": ("work/run/a.txt", _in_text),
    "base64 among bytes": ("cache/a.blob", _in_base64),
    "UTF-16": ("work/a.txt", _in_utf16),
    "hexadecimal": ("a.log", _in_hex),
    "an archive": ("a.zip", _in_zip),
    "a database": ("dagster/history.db", _in_sqlite),
    "a broken line": ("progress/run.jsonl", _in_broken_line),
    "escapes deep in JSON": ("studio/a.json", _in_escapes),
    "a block's border": ("big.txt", _across_blocks),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_person_is_found_once_in(case: str, deployment: Deployment) -> None:
    name, write = WRITERS[case]
    path = deployment.home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    report = find_subject(JANE, places=deployment.places)
    assert [(hit.path, hit.count) for hit in report.hits] == [(name, 1)]
    assert JANE not in json.dumps(report_to_json(report)).lower()


def test_a_hit_names_artefact_asset_split_row_and_column(deployment: Deployment) -> None:
    rows = [{"messages": [{"role": "user", "content": f"I am {JANE if n == 2 else n}"}], "n": n} for n in range(6)]
    corpus = deployment.corpus(rows)
    dataset = deployment.raw_dataset(corpus)
    in_corpus, in_store = find_subject(JANE, places=deployment.places).hits
    assert (in_corpus.place, in_corpus.digest, in_corpus.row) == ("corpus", Digest.of_file(corpus), 3)
    assert in_corpus.column == "messages[0].content"
    assert (in_store.digest, in_store.asset_key) == (dataset, f"{LINE}/raw_dataset")
    assert in_store.split in ("train", "validation")


def test_vaults_and_the_registry_are_looked_through(deployment: Deployment) -> None:
    deployment.log.log_event("acme.note", personal={"about": f"Letter of {JANE}"}, number=1)
    registry = Registry(f"sqlite:///{deployment.home / 'registry.sqlite'}")
    registry.register_dataset(
        digest=Digest.of(b""), filename=f"{JANE}.jsonl", path="x", num_examples=1, size_bytes=1, validation={}
    )
    registry.close()
    hits = find_subject(JANE, places=deployment.places).hits
    assert {(hit.place, hit.column) for hit in hits} == {("vault", "about"), ("registry", "datasets.filename")}


def test_a_file_named_after_the_person_is_found_and_not_named(deployment: Deployment) -> None:
    (deployment.home / f"{JANE}.txt").write_bytes(b"nothing")
    report = find_subject(JANE, places=deployment.places)
    assert [(hit.column, hit.path) for hit in report.hits] == [("(file name)", "(name).txt")]


def test_what_is_not_looked_through_is_said(deployment: Deployment) -> None:
    (deployment.home / "model.safetensors").write_bytes(b"\0")
    (deployment.home / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    recipe = deployment.recipe(Path("someone/dataset-on-the-hub"))
    report = find_subject(JANE, places=Places.of(deployment.home, recipes=[recipe]))
    assert {name for name, _ in report.not_searched} == {"model.safetensors", "someone/dataset-on-the-hub"}


def test_a_search_that_cannot_be_logged_gives_no_answer(deployment: Deployment) -> None:
    (deployment.home / "erasure").mkdir()
    (deployment.home / "erasure" / f"{LOG_FILE}.checkpoint").write_text("no checkpoint")
    with pytest.raises(EvidenceError):
        find_subject(JANE, places=deployment.places)


def test_every_search_is_logged_without_the_name(deployment: Deployment) -> None:
    for _ in range(2):
        find_subject(JANE, home=deployment.home)
    entries = read_entries(deployment.home / "erasure" / LOG_FILE)
    tags = [entry.data["query_tag"] for entry in entries if entry.event == "data.access_request_query"]
    assert len(set(tags)) == 2
    assert JANE.encode() not in b"".join(path.read_bytes() for path in (deployment.home / "erasure").iterdir())
