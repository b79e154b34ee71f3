"""`forge cache`: sizes and users are shown; what a process holds stays; what goes is said."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.cli.quantities import parse_size, parse_span, size_text
from forge_pipeline.data.tokenization_cache import TokenizationCache
from forge_pipeline.integrity import Digest
from forge_pipeline.integrity.in_use import hold, is_held, unused, use_file

DAY = 86_400.0
HOLDER = (
    "import sys, pathlib; from forge_pipeline.integrity.in_use import hold\n"
    "hold(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
)


def aged(path: Path, days: float) -> Path:
    moment = time.time() - days * DAY
    for each in (path, *path.rglob("*")):
        os.utime(each, (moment, moment))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two expansions, a tokenized dataset, an answer, and what a killed process left."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "tables"))
    cache = tmp_path / "home" / "cache"
    for name, size, days in (("a" * 32, 3000, 40.0), ("b" * 32, 2000, 1.0)):
        entry = cache / "base_models" / name
        entry.mkdir(parents=True)
        (entry / "model.safetensors").write_bytes(b"x" * size)
        (cache / "base_models" / f"{name}.digest").write_text(Digest.of(name.encode()))
        (cache / "base_models" / f".{name}.lock").touch()
        aged(entry, days)
    tokens = cache / "tokenized" / "cc" / ("cc" * 32)
    (tokens / "dataset").mkdir(parents=True)
    (tokens / "dataset" / "train.parquet").write_bytes(b"x" * 1000)
    (tokens / "digest").write_text(Digest.of(b"tokens"))
    aged(tokens, 10.0)
    answer = cache / "benchmarks" / "dd" / f"{'dd' * 32}.json"
    answer.parent.mkdir(parents=True)
    answer.write_bytes(b"x" * 10)
    aged(answer, 5.0)
    left = cache / "base_models" / ".bbbb.x1y2"
    left.mkdir()
    (left / "half").write_bytes(b"x" * 50)
    aged(left, 2.0)
    return tmp_path / "home"


@pytest.fixture
def held() -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """Holds an entry in a process of its own, as a running stage does."""
    started: list[subprocess.Popen[str]] = []

    def start(entry: Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(entry)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def names(done: Any) -> dict[str, list[str]]:
    document = json.loads(done.out)
    return {key: sorted(Path(each["path"]).name[:4] for each in document[key]) for key in ("freed", "kept_in_use")}


def test_an_empty_home_has_an_empty_cache(forge: Callable[..., Any], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "tables"))
    done = forge("cache", "list", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"entries": [], "bytes": 0})
    assert not (tmp_path / "home").exists()


def test_sizes_ages_and_lines_are_listed(forge: Callable[..., Any], home: Path) -> None:
    link = home / "latest" / "support" / "tokenized_dataset"
    link.parent.mkdir(parents=True)
    link.symlink_to(home / "store" / "sha256" / "xx" / Digest.of(b"tokens").hex)
    done = forge("cache", "list", "--json")
    found = [(each["kind"], each["size"], each["in_use"], each["used_by"]) for each in json.loads(done.out)["entries"]]
    assert found == [
        ("base_models", 3000, False, []),
        ("base_models", 2000, False, []),
        ("benchmarks", 10, False, []),
        ("tokenized", 1000 + 71, False, ["support"]),
        ("unfinished", 50, False, []),
    ]
    text = forge("cache", "list").out
    assert "base_models  5.0 kB, 2 entries" in text
    assert "support" in text


def test_prune_by_age_takes_the_old_and_says_what_it_freed(forge: Callable[..., Any], home: Path) -> None:
    done = forge("cache", "prune", "--older-than", "30d")
    assert done.code == 0
    assert "deleted base_models aaaa" in done.out
    assert "3.0 kB freed, 1 entries" in done.out
    assert sorted(path.name[:4] for path in (home / "cache" / "base_models").glob("[!.]*")) == ["bbbb", "bbbb"]


def test_prune_by_size_takes_the_longest_unused_first(forge: Callable[..., Any], home: Path) -> None:
    done = forge("cache", "prune", "--max-size", "2.5 kB", "--json")
    assert names(done) == {"freed": ["aaaa", "cccc"], "kept_in_use": []}
    assert list((home / "cache" / "tokenized" / "cc").iterdir()) == []
    assert json.loads(forge("cache", "list", "--json").out)["bytes"] == 2060


def test_a_dry_run_deletes_nothing(forge: Callable[..., Any], home: Path) -> None:
    before = sorted((home / "cache").rglob("*"))
    done = forge("cache", "clear", "all", "--dry-run", "--json")
    assert len(names(done)["freed"]) == 5
    assert sorted((home / "cache").rglob("*")) == before


def test_what_a_running_process_holds_stays_until_it_ends(
    forge: Callable[..., Any], home: Path, held: Callable[[Path], Any]
) -> None:
    entry = home / "cache" / "base_models" / ("a" * 32)
    process = held(entry)
    listed = json.loads(forge("cache", "list", "--json").out)["entries"]
    assert [each["in_use"] for each in listed] == [True, False, False, False, False]
    assert names(forge("cache", "clear", "base_models", "--json")) == {"freed": ["bbbb"], "kept_in_use": ["aaaa"]}
    assert "kept base_models aaaa" in forge("cache", "prune", "--max-size", "0").out
    assert (entry / "model.safetensors").is_file()
    process.kill()  # however it ends
    process.wait()
    assert names(forge("cache", "clear", "base_models", "--json")) == {"freed": ["aaaa"], "kept_in_use": []}
    assert not entry.exists()
    assert not use_file(entry).exists()
    assert not entry.with_name(f"{entry.name}.digest").exists()


def test_use_counts_as_age(forge: Callable[..., Any], home: Path, held: Callable[[Path], Any]) -> None:
    process = held(home / "cache" / "base_models" / ("a" * 32))
    process.kill()
    process.wait()
    assert names(forge("cache", "prune", "--older-than", "30d", "--json")) == {"freed": [], "kept_in_use": []}


def test_what_is_being_made_stays(forge: Callable[..., Any], home: Path) -> None:
    aged(home / "cache" / "base_models" / ".bbbb.x1y2", 0.0)
    assert names(forge("cache", "clear", "unfinished", "--json")) == {"freed": [], "kept_in_use": [".bbb"]}


def test_kept_tables_go_only_when_they_are_named(forge: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    from forge_pipeline.dataset_audit.kept_files import kept_files, read_kept, write_kept

    write_kept("t.forge", b"body")
    (tmp_path / "tables" / "other.pyc").write_bytes(b"not ours")
    (tmp_path / "tables" / "folder").mkdir()
    assert [path.name for path in kept_files()] == ["t.forge"]
    forge("cache", "clear", "all")
    assert read_kept("t.forge") is not None
    assert "deleted kept_tables t.forge" in forge("cache", "clear", "kept_tables").out
    assert read_kept("t.forge") is None
    assert (tmp_path / "tables" / "other.pyc").exists()


def test_an_entry_of_the_tokenization_cache_is_held_once_it_was_found(home: Path) -> None:
    cache, key = TokenizationCache(home / "cache" / "tokenized"), Digest("sha256:" + "cc" * 32)
    entry = home / "cache" / "tokenized" / "cc" / key.hex
    assert cache.holds(key)
    assert is_held(entry)
    with unused(entry) as free:
        assert not free


def test_of_two_who_wait_for_a_deleted_entry_both_see_it_gone(home: Path) -> None:
    entry = home / "cache" / "base_models" / ("b" * 32)
    with unused(entry) as free:
        assert free
        entry.rename(home / "away")
    assert not use_file(entry).exists()
    hold(entry)
    assert is_held(entry)
    assert not entry.exists()


BAD = {
    "no kind of that name": (("clear", "weights"), "expected all or one of base_models"),
    "prune without a limit": (("prune",), "needs --older-than or --max-size"),
    "a size that is none": (("prune", "--max-size", "lots"), "'lots' is not a size"),
    "a span that is none": (("prune", "--older-than", "30"), "'30' is not a span of time"),
    "a negative span": (("prune", "--older-than=-3d"), "is not a span of time"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_wrong_arguments_are_wrong_input(
    forge: Callable[..., Any], home: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = forge("cache", *arguments)
    assert done.code == 1
    assert words in done.err


def test_sizes_and_spans() -> None:
    assert [parse_size(text) for text in ("1000", "500MB", "1.5 GB", "2GiB", "3k")] == [
        1000, 500_000_000, 1_500_000_000, 2 * 2**30, 3000
    ]  # fmt: skip
    assert parse_span("36h") == timedelta(days=1.5)
    assert [size_text(size) for size in (999, 1000, 2_500_000)] == ["999 B", "1.0 kB", "2.5 MB"]
