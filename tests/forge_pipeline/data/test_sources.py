"""Names of datasets, and what they turn out to be."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.data.reading import ReadRow
from forge_pipeline.data.sources import hub_parts, resolve_source
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


def test_hub_splits_become_parts() -> None:
    from datasets import Dataset, DatasetDict

    rows: Any = Dataset.from_list([{"text": "a", "meta": {"n": None, "m": 1}}])
    parts = hub_parts("some/set", DatasetDict(train=rows, validation=rows, test=rows))
    assert [part.split for part in parts] == ["train", "validation", "test"]
    assert list(parts[0].read()) == [ReadRow(1, {"text": "a", "meta": {"m": 1}})]
    assert [part.split for part in hub_parts("some/set", DatasetDict(everything=rows))] == [None]
    with pytest.raises(DataError, match="the split 'extra' is neither"):
        hub_parts("some/set", DatasetDict(train=rows, extra=rows))
