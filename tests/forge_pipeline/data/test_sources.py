"""Names of datasets, and what they turn out to be."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import ingest
from forge_pipeline.data.held_out import source_digest
from forge_pipeline.data.hub import hub_parts
from forge_pipeline.data.reading import BrokenRow, ReadRow
from forge_pipeline.data.sources import recorded_url, resolve_source
from forge_pipeline.data.splits import as_split
from forge_pipeline.errors import DataError

ROWS = [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("validation.csv", "validation"),
        ("valid.jsonl", "validation"),
        ("val", "validation"),
        ("Dev.jsonl.gz", "validation"),
        ("test.jsonl", "test"),
        ("eval_small.jsonl", "test"),
        ("holdout.json", "test"),
        ("greetings.yml", None),
        ("trainer.jsonl", None),
    ],
)
def test_a_name_declares_its_split(name: str, split: str | None) -> None:
    assert as_split(name) == split


def test_a_folder_of_split_files_keeps_them_and_a_test_split_never_becomes_validation(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("d/train.jsonl", "d/test.jsonl", "d/data/dev-00000.jsonl", "d/validation/more.jsonl"):
        write_jsonl(ROWS, name)
    (tmp_path / "d" / "README.md").write_text("about")
    (tmp_path / "d" / "dataset_info.json").write_text("{}")
    parts = {part.label: part.split for part in resolve_source(str(tmp_path / "d")).parts}
    assert parts == {
        "train.jsonl": "train",
        "test.jsonl": "test",
        "data/dev-00000.jsonl": "validation",
        "validation/more.jsonl": "validation",
    }


def test_a_folder_without_split_files_is_one_undivided_dataset(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("d/food.jsonl", "d/sport.jsonl"):
        write_jsonl(ROWS, name)
    assert [part.split for part in resolve_source(str(tmp_path / "d")).parts] == [None, None]


def test_folders_that_leave_rows_unclear_are_refused(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    write_jsonl(ROWS, "stray/train.jsonl")
    write_jsonl(ROWS, "stray/other.jsonl")
    write_jsonl(ROWS, "no_train/test.jsonl")
    (tmp_path / "empty").mkdir()
    for folder, reason in {"stray": "other.jsonl", "no_train": "no train split", "empty": "no data files"}.items():
        with pytest.raises(DataError, match=reason):
            resolve_source(str(tmp_path / folder))


def test_moving_a_file_changes_neither_its_digest_nor_its_uri(write_jsonl: Callable[..., Path]) -> None:
    first = resolve_source(str(write_jsonl(ROWS, "a/rows.jsonl")))
    second = resolve_source(str(write_jsonl(ROWS, "b/rows.jsonl")))
    assert (first.uri, first.digest, first.name) == (second.uri, second.digest, second.name)
    assert first.uri == "file:rows.jsonl"


def test_an_installed_package_is_read_with_its_version_licence_and_origin() -> None:
    source = resolve_source("package:chatterbot_corpus/data/english/ai.yml")
    assert source.uri == f"package:chatterbot-corpus=={source.revision}/chatterbot_corpus/data/english/ai.yml"
    assert source.license == "BSD License"
    assert source.origin == "https://github.com/gunthercox/chatterbot-corpus"
    assert source.digest is not None
    assert sum(isinstance(row, ReadRow) for row in source.parts[0].read()) > 100


def test_finding_a_package_does_not_import_it() -> None:
    code = (
        "import sys; from forge_pipeline.data.sources import resolve_source\n"
        "resolve_source('package:chatterbot_corpus/data/english/*.yml')\n"
        "assert not {'chatterbot_corpus', 'torch', 'transformers', 'datasets'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


REFUSED = {
    "package:no_such_module_here/a.jsonl": "no installed package provides",
    "package:chatterbot_corpus": "expected package:<module>/<path",
    "package:chatterbot_corpus/../pip/__init__.py": "expected package:<module>/<path",
    "package:chatterbot_corpus//etc/passwd": "expected package:<module>/<path",
    "package:chatterbot_corpus/data/none/*.yml": "holds no file",
    "package:json/decoder.py": "belongs to no installed distribution",
    "data/missing.jsonl": "there is no such file",
    "data/\0.jsonl": "there is no such file",
    "x" * 5000 + ".jsonl": "cannot be looked up",
    "/nowhere/at/all": "there is no such file",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[name]) as refused:
        resolve_source(name)
    assert name[:200] in str(refused.value)


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "package:chatterbot_corpus/data/english/ai.yml", "https://user:hunter2@host/a.jsonl"]
)
def test_a_revision_that_would_pin_nothing_is_refused(
    name: str, write_jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(ROWS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="only datasets of the Hub have revisions") as refused:
        resolve_source(name, revision="v1")
    assert "hunter2" not in str(refused.value)


def test_offline_a_hub_dataset_is_read_from_the_cache_and_pinned_to_its_commit(
    write_jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = "datasets--some--set"
    write_jsonl(ROWS, f"{cached}/snapshots/{commit}/train.jsonl")
    (tmp_path / cached / "refs").mkdir()
    (tmp_path / cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    source = resolve_source("some/set", offline=True)
    assert (source.name, source.uri, source.revision) == ("some/set", f"hub:some/set@{commit}", commit)
    assert [row.values for row in source.parts[0].read() if isinstance(row, ReadRow)] == ROWS
    with pytest.raises(DataError, match=r"nobody/no-such-set: there is no such file or folder here.*hf download"):
        resolve_source("nobody/no-such-set", offline=True)


@pytest.fixture
def hub_cache(write_jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Puts files of `some/set` into a Hub cache and gives the commit."""
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def put(files: list[str], card: str = "") -> str:
        cached = "datasets--some--set"
        for name in files:
            write_jsonl(ROWS, f"{cached}/snapshots/{commit}/{name}")
        (tmp_path / cached / "refs").mkdir(exist_ok=True)
        (tmp_path / cached / "refs" / "main").write_text(commit)
        (tmp_path / cached / "snapshots" / commit / "README.md").write_text(card)
        return commit

    return put


CONFIGS = """---
license: cc-by-4.0
configs:
- config_name: cooking
  data_files:
  - split: train
    path: cooking/train-*.jsonl
  - split: extra
    path: [cooking/more.jsonl]
- config_name: sport
  data_files: sport/*.jsonl
---
About.
"""
FILES = ["cooking/train-0.jsonl", "cooking/train-1.jsonl", "cooking/more.jsonl", "sport/a.jsonl", "other.jsonl"]


def test_offline_the_dataset_card_says_which_files_make_which_split(hub_cache: Callable[..., str]) -> None:
    commit = hub_cache(FILES, CONFIGS)
    source = resolve_source("some/set:cooking", offline=True)
    assert (source.uri, source.license) == (f"hub:some/set:cooking@{commit}", "cc-by-4.0")
    assert source.origin == "https://huggingface.co/datasets/some/set"
    assert [(part.label, part.split, part.declared) for part in source.parts] == [
        ("cooking/train-0.jsonl", "train", "train"),
        ("cooking/train-1.jsonl", "train", "train"),
        ("cooking/more.jsonl", None, "extra"),
    ]
    assert [part.label for part in resolve_source("some/set:sport", offline=True).parts] == ["sport/a.jsonl"]
    with pytest.raises(DataError, match=r"some/set: has several configurations; name one of cooking, sport"):
        resolve_source("some/set", offline=True)
    with pytest.raises(DataError, match="has no configuration 'history'; its card names cooking, sport"):
        resolve_source("some/set:history", offline=True)


CARDS = {
    "files by split": ("configs: [{data_files: {train: a.jsonl, test: b.jsonl}}]", [("a.jsonl", "train"), ("b.jsonl", "test")]),
    "one pattern": ("configs: [{data_files: 'a.*'}]", [("a.jsonl", "train")]),
    "a list": ("configs: [{data_files: [a.jsonl, b.jsonl]}]", [("a.jsonl", "train"), ("b.jsonl", "train")]),
    "a default": (
        "configs: [{config_name: x, data_files: b.jsonl}, {config_name: y, default: true, data_files: a.jsonl}]",
        [("a.jsonl", "train")],
    ),
    "no configurations": ("license: mit", [("a.jsonl", None), ("b.jsonl", None)]),
    "no card": (None, [("a.jsonl", None), ("b.jsonl", None)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_a_dataset_card_may_name_files_in_many_ways(name: str, hub_cache: Callable[..., str]) -> None:
    card, wanted = CARDS[name]
    hub_cache(["a.jsonl", "b.jsonl"], f"---\n{card}\n---\n" if card else "")
    parts = resolve_source("some/set", offline=True).parts
    assert [(part.label, part.split) for part in parts] == wanted


def test_a_dataset_card_that_points_elsewhere_or_at_nothing_is_refused(hub_cache: Callable[..., str]) -> None:
    for files, reason in {
        "../../x.jsonl": "points outside",
        "/etc/passwd": "points outside",
        "no.jsonl": "no file",
    }.items():
        hub_cache(["a.jsonl"], f"---\nconfigs: [{{data_files: {files}}}]\n---\n")
        with pytest.raises(DataError, match=reason):
            resolve_source("some/set", offline=True)


class Hub:
    """The Hub's two answers, in place of the network: a commit with a card, and the rows at that commit."""

    def __init__(self, splits: list[str], card: dict[str, Any]) -> None:
        self.splits, self.card = splits, card
        self.asked: list[tuple[Any, ...]] = []

    def dataset_info(self, repository: str, *, revision: str | None, timeout: float) -> Any:
        self.asked.append(("info", repository, revision))
        return SimpleNamespace(sha="c0ffee", card_data=self.card)

    def load_dataset(self, repository: str, configuration: str | None, *, revision: str) -> Any:
        from datasets import Dataset, DatasetDict

        self.asked.append(("load", repository, configuration, revision))
        return DatasetDict({split: Dataset.from_list(ROWS) for split in self.splits})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    import datasets
    import huggingface_hub

    def make(*splits: str, **card: Any) -> Hub:
        made = Hub(list(splits), card)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
        monkeypatch.setattr(datasets, "load_dataset", made.load_dataset)
        return made

    return make


def test_a_hub_revision_becomes_the_commit_that_is_loaded_and_recorded(hub: Callable[..., Hub]) -> None:
    answers = hub("train", "test", license=["mit", "cc0-1.0"])
    source = resolve_source("some/set:cooking", revision="v1")
    assert (source.uri, source.revision, source.license) == ("hub:some/set:cooking@c0ffee", "c0ffee", "mit; cc0-1.0")
    assert answers.asked == [("info", "some/set", "v1")]  # nothing is loaded before rows are read
    assert [part.split for part in source.parts] == ["train", "test"]
    assert [part.split for part in source.parts] == ["train", "test"]
    assert answers.asked[1:] == [("load", "some/set", "cooking", "c0ffee")]


def test_every_split_of_a_hub_dataset_is_read_under_its_own_name(hub: Callable[..., Hub]) -> None:
    hub("train_sft", "unsupervised", "dev", license="other", license_name="own licence")
    source = resolve_source("some/set")
    assert source.license == "own licence"
    assert [(part.declared, part.split) for part in source.parts] == [
        ("train_sft", "train"),
        ("unsupervised", None),
        ("dev", "validation"),
    ]


def test_a_hub_that_does_not_answer_is_named_with_what_to_do(hub: Callable[..., Hub]) -> None:
    answers = hub("train")

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    answers.dataset_info = refused  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"some/set: .*did not give it: no network.*model\.offline"):
        resolve_source("some/set")


def test_hub_splits_become_parts() -> None:
    from datasets import Dataset, DatasetDict

    rows: Any = Dataset.from_list([{"text": "a", "meta": {"n": None, "m": 1}}])
    parts = hub_parts("some/set", DatasetDict(train=rows, validation=rows, test=rows))
    assert [part.split for part in parts] == ["train", "validation", "test"]
    assert list(parts[0].read()) == [ReadRow(1, {"text": "a", "meta": {"m": 1}})]
    assert [part.split for part in hub_parts("some/set", DatasetDict(everything=rows))] == [None]
    with pytest.raises(DataError, match="has the splits validation, test, but none to train on"):
        hub_parts("some/set", DatasetDict(validation=rows, test=rows))


# --- Folders that are not what they seem


def _link_back(folder: Path) -> None:
    (folder / "deeper").mkdir()
    (folder / "deeper" / "back").symlink_to(folder)


ODD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link back to the folder": (_link_back, r"deeper/back: is a link back"),
    "a link to itself": (lambda folder: (folder / "a").symlink_to("a"), r"/a: is a link that leads nowhere"),
    "a data file that is a dead link": (lambda folder: (folder / "a.csv").symlink_to("b"), r"a\.csv: is a link that leads"),
    "a data file that is a pipe": (lambda folder: os.mkfifo(folder / "a.jsonl"), r"a\.jsonl: is a pipe"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_FOLDERS)
@pytest.mark.timeout(20)
def test_what_would_hang_or_be_lost_in_a_folder_is_refused_by_name(
    name: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    make, reason = ODD_FOLDERS[name]
    write_jsonl(ROWS, "d/rows.jsonl")
    make(tmp_path / "d")
    with pytest.raises(DataError, match=reason):
        resolve_source(str(tmp_path / "d"))


def test_links_to_files_and_folders_are_followed(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    write_jsonl(ROWS, "store/a.jsonl")
    write_jsonl(ROWS, "d/b.jsonl")
    (tmp_path / "d" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "d" / "c.jsonl").symlink_to(tmp_path / "store" / "a.jsonl")
    (tmp_path / "d" / "notes.log").symlink_to("nowhere")  # no data file: nobody misses it
    parts = resolve_source(str(tmp_path / "d")).parts
    assert [part.label for part in parts] == ["b.jsonl", "c.jsonl", "linked/a.jsonl"]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_refused_by_name(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    write_jsonl(ROWS, "d/inner/b.jsonl")
    (tmp_path / "d" / "inner").chmod(0)
    with pytest.raises(DataError, match="inner: the folder cannot be read: Permission denied"):
        resolve_source(str(tmp_path / "d"))


def test_documents_are_rows_of_their_own_folder_and_named_skips_beside_data_files(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("a.md", "deep/b.txt", "README.md", "LICENSE.txt"):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# Title\n\nWords.\n")
    assert [part.label for part in resolve_source(str(tmp_path / "d")).parts] == ["a.md", "deep/b.txt"]
    write_jsonl(ROWS, "d/rows.jsonl")
    parts = resolve_source(str(tmp_path / "d")).parts
    assert [part.label for part in parts] == ["rows.jsonl", "a.md", "deep/b.txt"]
    (skipped,) = parts[1].read()
    assert isinstance(skipped, BrokenRow)
    assert "beside data files" in skipped.reason


# --- Object stores


@pytest.fixture
def bucket() -> Iterator[Any]:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("train.jsonl", "deep/test.jsonl", "README.md"):
        store.pipe(f"/bucket/{name}", "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    yield store
    store.rm("/bucket", recursive=True)


def test_a_file_or_a_prefix_of_an_object_store_is_read_like_a_file_or_a_folder(
    bucket: Any, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    one = resolve_source("memory://bucket/train.jsonl", scratch=tmp_path / "one")
    assert (one.name, one.uri, one.origin) == ("memory://bucket/train.jsonl",) * 3
    assert [row.values for row in one.parts[0].read() if isinstance(row, ReadRow)] == ROWS
    assert one.digest == resolve_source(str(write_jsonl(ROWS, "train.jsonl"))).digest
    many = resolve_source("memory://bucket", scratch=tmp_path / "many")
    assert [(part.label, part.split) for part in many.parts] == [("deep/test.jsonl", "test"), ("train.jsonl", "train")]


def test_an_object_store_that_has_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"memory://bucket/none\.jsonl"):
        resolve_source("memory://bucket/none.jsonl", scratch=tmp_path)
    with pytest.raises(DataError, match="nosuch://"):
        resolve_source("nosuch://bucket/a.jsonl", scratch=tmp_path)


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("https://user:hunter2@host/a.jsonl?X-Amz-Signature=hunter2#hunter2", "https://host/a.jsonl"),
        ("https://hunter2@host:8080/a/b.jsonl", "https://host:8080/a/b.jsonl"),
        ("s3://bucket/a.jsonl?versionId=hunter2", "s3://bucket/a.jsonl"),
        ("s3://bucket/train-?.jsonl", "s3://bucket/train-?.jsonl"),
        ("abfs://container@account.dfs.core.windows.net/a.jsonl", "abfs://container@account.dfs.core.windows.net/a.jsonl"),
        ("gs://bucket/a b/é.jsonl", "gs://bucket/a b/é.jsonl"),
    ],
)  # fmt: skip
def test_what_is_recorded_of_a_url_holds_no_secret(url: str, recorded: str) -> None:
    assert recorded_url(url) == recorded


def test_no_secret_of_a_url_enters_provenance_or_errors(recipe: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/rows.jsonl")
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(rows) if found else 0))
            self.send_header("ETag", '"v7"')
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(rows)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        config = recipe(f"http://{place}/rows.jsonl?X-Amz-Signature=hunter2", split={"validation": 0})
        dataset = ingest(config, tmp_path / "raw")
        (source,) = dataset.provenance.sources
        assert (source.name, source.uri) == (f"http://{place}/rows.jsonl",) * 2
        assert source.revision is not None
        assert "v7" in source.revision
        assert "hunter2" not in "".join(path.read_text(errors="replace") for path in dataset.path.glob("*.json"))
        mix = {"mix_ratio": [1, 1], "extra_datasets": [f"http://user:hunter2@{place}/none.jsonl?sig=hunter2"]}
        with pytest.raises(DataError) as refused:
            ingest(recipe(f"http://{place}/rows.jsonl", **mix), tmp_path / "other")
        assert "hunter2" not in str(refused.value)
        server.shutdown()


# --- Has the data changed?


def test_the_digest_of_the_sources_changes_with_the_bytes_and_loads_nothing_from_the_hub(
    recipe: Callable[..., ForgeConfig], write_jsonl: Callable[..., Path], hub: Callable[..., Hub]
) -> None:
    answers = hub("train")
    path = write_jsonl(ROWS)
    config = recipe(path, extra_datasets=["some/set"])
    config = config.model_copy(update={"model": config.model.model_copy(update={"offline": False})})
    before = source_digest(config)
    assert source_digest(config) == before
    path.write_text('{"text": "c"}\n')
    assert source_digest(config) != before
    assert {question[0] for question in answers.asked} == {"info"}
