"""The artefact store: content under its digest, verified on every read, never overwritten."""

import subprocess
import sys
from pathlib import Path

import pytest

from forge_pipeline.errors import IntegrityError, StoreError
from forge_pipeline.integrity import Digest, Manifest, report_to_json
from resources.store import ArtifactStore, MaterializationRecord

CHECKOUT = Path(__file__).parents[2]


def make(directory, **files):
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"), tmp_path / "cache")


def test_an_artefact_comes_back_under_its_digest(store, tmp_path):
    digest = store.publish(make(tmp_path / "work", a="1", b="2"))
    assert (store.get(digest) / "a").read_text() == "1"
    assert Manifest.of_directory(store.get(digest)).digest == digest


def test_publishing_the_same_content_twice_changes_nothing(store, tmp_path):
    first = store.publish(make(tmp_path / "one", a="1"))
    inode = (store.get(first) / "a").stat().st_ino
    assert store.publish(make(tmp_path / "two", a="1")) == first
    assert (store.get(first) / "a").stat().st_ino == inode
    assert not (tmp_path / "two").exists()


def test_publishing_what_is_already_in_its_place_keeps_it(store, tmp_path):
    digest = store.publish(make(tmp_path / "one", a="1"))
    assert store.publish(store.path(digest)) == digest
    assert store.get(digest).is_dir()


def test_one_changed_byte_refuses_to_load(store, tmp_path):
    digest = store.publish(make(tmp_path / "one", a="1"))
    (store.path(digest) / "a").write_text("2")
    with pytest.raises(IntegrityError, match="changed after it was stored"):
        store.get(digest)


def test_an_absent_artefact_says_what_to_do(store):
    with pytest.raises(StoreError, match="materialize the asset again"):
        store.get(Digest.of(b"nothing"))


def test_a_remote_store_gives_back_what_another_machine_published(tmp_path):
    url = f"file://{tmp_path / 'remote'}"
    digest = ArtifactStore(url, tmp_path / "one").publish(make(tmp_path / "one" / "work", a="1"))
    other = ArtifactStore(url, tmp_path / "two")
    assert (other.get(digest) / "a").read_text() == "1"


def test_a_remote_file_that_was_changed_is_refused(tmp_path):
    url = f"file://{tmp_path / 'remote'}"
    digest = ArtifactStore(url, tmp_path / "one").publish(make(tmp_path / "one" / "work", a="1"))
    (tmp_path / "remote" / "sha256" / digest.hex / "files" / "a").write_text("2")
    with pytest.raises(IntegrityError):
        ArtifactStore(url, tmp_path / "two").get(digest)


def test_records_form_a_chain_and_are_verified(store):
    first = store.append_record("line", lambda previous: {"n": 1, "previous": previous})
    second = store.append_record("line", lambda previous: {"n": 2, "previous": previous})
    assert store.last_record("line") == second
    assert store.record("line", second)["previous"] == first
    file = next((store._records("line")).glob(f"{first.hex}*"))
    file.write_text(file.read_text().replace("1", "3"))
    with pytest.raises(IntegrityError):
        store.record("line", first)


def test_runs_that_end_together_do_not_fork_the_chain(tmp_path):
    code = (
        "import sys; from pathlib import Path; from resources.store import ArtifactStore\n"
        "store = ArtifactStore(sys.argv[1], Path(sys.argv[1]))\n"
        "for n in range(15): store.append_record('line', lambda p: {'by': sys.argv[2], 'n': n, 'previous': p})"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=CHECKOUT) for name in "abc"]
    assert [run.wait() for run in runs] == [0, 0, 0]
    store, length = ArtifactStore(str(tmp_path), tmp_path), 0
    digest = store.last_record("line")
    while digest is not None:
        length, previous = length + 1, store.record("line", digest)["previous"]
        digest = Digest(previous) if previous else None
    assert length == 45


def test_a_record_is_read_by_a_machine_that_did_not_write_it(tmp_path):
    url = f"file://{tmp_path / 'remote'}"
    digest = ArtifactStore(url, tmp_path / "one").append_record("line", lambda previous: {"previous": previous})
    assert ArtifactStore(url, tmp_path / "two").record("line", digest) == {"previous": None}


RECORD = {
    "asset_key": "line/model",
    "partition": None,
    "artifact_type": "ModelDirectory",
    "digest": Digest.of(b"model"),
    "files": 1,
    "size": 2,
    "inputs": {"line/data": Digest.of(b"data")},
    "code_version": None,
    "run_id": "run",
    "step_key": "step",
    "recorded_at": "2026-11-21T12:00:00+00:00",
    "previous": None,
    "environment": {"python": "3.11"},
}


def test_a_record_from_before_seeds_were_kept_is_read(store):
    record = store.materialization("line", store.append_record("line", lambda previous: RECORD))
    assert (record.recipe, record.seeds, record.packages, record.started_at) == (None, {}, None, None)
    assert record.inputs == {"line/data": Digest.of(b"data")}


def test_a_whole_record_comes_back_as_it_was_written(store):
    record = MaterializationRecord(
        **RECORD,
        recipe=Digest.of(b"recipe"),
        seeds={"training.seed": 42, "training.full_determinism": True},
        packages=Digest.of(b"list"),
        started_at="2026-11-21T11:00:00+00:00",
    )
    digest = store.append_record("line", lambda previous: report_to_json(record))
    assert store.materialization("line", digest) == record
    assert store.materialization("line", digest).seeds["training.full_determinism"] is True


def test_what_is_no_record_is_not_taken_for_one(store):
    digest = store.append_record("line", lambda previous: {"n": 1})
    with pytest.raises(IntegrityError, match="is no materialization record"):
        store.materialization("line", digest)


def test_a_list_of_packages_is_kept_once(store, tmp_path):
    first = store.keep_packages({"a": "1", "b": "2"})
    assert store.keep_packages({"b": "2", "a": "1"}) == first
    assert store.packages(first) == {"a": "1", "b": "2"}
    (kept,) = (tmp_path / "store" / "records" / "package-lists").iterdir()
    kept.write_text('{"a":"1"}')
    with pytest.raises(IntegrityError, match="was changed after it was written"):
        store.packages(first)
    with pytest.raises(StoreError, match="there is no list of packages"):
        store.packages(Digest.of(b"other"))


def test_a_list_of_packages_is_read_by_another_machine(tmp_path):
    url = f"file://{tmp_path / 'remote'}"
    digest = ArtifactStore(url, tmp_path / "one").keep_packages({"a": "1"})
    assert ArtifactStore(url, tmp_path / "two").packages(digest) == {"a": "1"}
