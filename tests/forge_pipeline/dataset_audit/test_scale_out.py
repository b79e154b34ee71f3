"""The same bytes wherever the work is done: here, in threads, over files, on a Ray cluster of two processes."""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forge_pipeline import errors
from forge_pipeline.dataset_audit import audit_dataset, executors, reading, scanned
from forge_pipeline.dataset_audit.executors import Here, open_executor
from forge_pipeline.dataset_audit.near_duplicates import Pairs, SignedRows, Tables, find_pairs, unit_of
from forge_pipeline.dataset_audit.shuffle import SignatureFiles, find_pairs_in_files
from forge_pipeline.dataset_audit.signatures import RowSignatures, sign
from forge_pipeline.integrity import canonical_json, report_to_json

WriteRows = Callable[..., Path]
WRITTEN = ("clusters.parquet", "findings.parquet")


@pytest.fixture
def dataset(sentences: Callable[[int], list[str]], write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two splits in some twenty shards, with duplicates, near-duplicates, overlap and findings."""
    monkeypatch.setattr(reading, "SHARD_BYTES", 4000)
    texts = sentences(250)
    near = [text.replace(text.split()[7], "changed", 1) for text in texts[:60]]
    rows = [{"text": text} for text in [*texts, *texts[:30], *near, "Mail a@b.org or call +49 30 901820.", ""]]
    path = write_rows(rows, "data/train.jsonl")
    write_rows([{"text": text, "note": "x@y.org"} for text in [*near[10:20], *texts[100:110]]], "data/validation.jsonl")
    return path.parent


def audited(dataset: Path, out: Path, **arguments: Any) -> list[bytes]:
    """The report without time and place, and the files beside it."""
    report = audit_dataset(
        str(dataset), output_dir=str(out), enable_quality_filter=True, near_dup_threshold=9, **arguments
    )
    values = {
        key: value for key, value in report_to_json(report).items() if not key.startswith(("generated", "source"))
    }
    assert values["near_duplicate_summary"]["pairs_per_split"]["train"] > 60
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    return [canonical_json(values), *((out / name).read_bytes() for name in WRITTEN)]


PATIENT = {  # on a machine that is busy: Ray's own bounds are for one that is not
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # which kills workers where others take the machine's memory
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_timeout_ms": "300000",
}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Two worker processes on this machine, without a dashboard and without a word to the network."""
    ray = pytest.importorskip("ray")
    # A short path: Ray's sockets lie some sixty characters below it, and a socket's path has 107 at most.
    with (
        pytest.MonkeyPatch.context() as patched,
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory,
    ):
        for name, value in PATIENT.items():
            patched.setenv(name, value)
        started = functools.partial(
            ray.init, num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
            _temp_dir=directory, object_store_memory=80_000_000,
        )  # fmt: skip
        try:
            started()
        except Exception:  # Ray raises plain ones where its processes were too slow; a second failure is one
            ray.shutdown()
            started()
        try:
            yield ray
        finally:
            ray.shutdown()


@pytest.mark.parametrize("method", ["minhash", "simhash"])
def test_threads_and_files_give_the_same_bytes_as_one_thread(method: str, dataset: Path, tmp_path: Path) -> None:
    alone = audited(dataset, tmp_path / "alone", dedup_method=method)
    assert audited(dataset, tmp_path / "threads", dedup_method=method, workers=2) == alone
    work_dir = str(tmp_path / "work")
    assert audited(dataset, tmp_path / "files", dedup_method=method, workers=3, work_dir=work_dir) == alone
    assert list(Path(work_dir).iterdir()) == []


@pytest.fixture
def forkable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork beside the thread in which pytest-rerunfailures waits for its workers."""
    if sys.platform != "linux":
        pytest.skip("only Linux forks")
    monkeypatch.setattr(executors, "may_fork", lambda: True)


@pytest.mark.usefixtures("forkable")
@pytest.mark.parametrize("method", ["minhash", "simhash"])
def test_processes_give_the_same_bytes_as_one_thread(
    method: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = audited(dataset, tmp_path / "alone", dedup_method=method)
    monkeypatch.setattr(scanned, "_FORKED_FROM", 0)
    forked: list[int] = []
    monkeypatch.setattr(scanned, "load", lambda options: forked.append(os.getpid()))
    assert audited(dataset, tmp_path / "processes", dedup_method=method, workers=2) == alone
    work_dir = str(tmp_path / "work")
    assert audited(dataset, tmp_path / "files", dedup_method=method, workers=2, work_dir=work_dir) == alone
    assert forked == [os.getpid()] * 2
    assert list(Path(work_dir).iterdir()) == []


@pytest.mark.usefixtures("forkable")
def test_an_error_in_a_process_is_the_error_of_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanned, "_FORKED_FROM", 0)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(errors.DataError, match=r"rows\.jsonl\.gz") as alone:
        audit_dataset(str(path))
    with pytest.raises(errors.DataError, match=r"rows\.jsonl\.gz") as there:
        audit_dataset(str(path), workers=2)
    assert str(there.value) == str(alone.value)


@pytest.mark.usefixtures("forkable")
def test_processes_that_get_no_more_work_end_while_threads_go_on() -> None:
    with open_executor("local", 2, fork=True) as executor:
        forked = set(executor.map(_own_process, range(8)))
        assert os.getpid() not in forked
        executor.done()
        assert executor.beside is not None
        assert set(executor.beside.map(_own_process, range(8))) == {os.getpid()}
        with pytest.raises(RuntimeError, match="shutdown"):
            list(executor.map(_own_process, range(1)))
    assert not forked & {child.pid for child in multiprocessing.active_children()}


@pytest.mark.usefixtures("forkable")
@pytest.mark.parametrize(("workers", "children"), [(2, 1), (3, 2), (9, 5)])
def test_work_that_nothing_waits_for_is_done_in_children_of_its_own(workers: int, children: int) -> None:
    with open_executor("local", workers, fork=True) as executor:
        squares = executor.ahead(lambda item: (item * item, os.getpid()), range(5))
        forked = set(executor.map(_own_process, range(8)))
        values, processes = zip(*squares(), strict=True)
    assert values == (0, 1, 4, 9, 16)
    assert len(set(processes)) == children  # beside this process, which is at work too
    assert not {os.getpid(), *forked} & set(processes)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fork", [False, True])
def test_an_error_ahead_is_raised_where_the_results_are_asked_for(workers: int, fork: bool) -> None:
    with open_executor("local", workers, fork=fork) as executor:
        results = executor.ahead(int, ["1", "two"])
        with pytest.raises(ValueError, match="'two'"):
            results()


@pytest.mark.usefixtures("forkable")
def test_a_child_that_was_killed_is_named_and_one_that_is_not_needed_is_ended() -> None:
    with open_executor("local", 2, fork=True) as executor:
        results = executor.ahead(lambda _: os._exit(7), [0])
        executor.ahead(time.sleep, [600])
        with pytest.raises(RuntimeError, match="exit code 7"):
            results()
    assert not multiprocessing.active_children()


def _own_process(item: int) -> int:
    return os.getpid()


def test_a_process_with_other_threads_is_not_forked() -> None:
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    try:
        assert not executors.may_fork()
        with open_executor("local", 2, fork=True) as executor:
            assert executor.in_memory
    finally:
        ended.set()
        other.join()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minhash", "simhash"])
def test_a_ray_cluster_gives_the_same_bytes_as_one_thread(
    method: str, dataset: Path, tmp_path: Path, ray_cluster: Any
) -> None:
    alone = audited(dataset, tmp_path / "alone", dedup_method=method)
    assert audited(dataset, tmp_path / "ray", dedup_method=method, engine="ray") == alone
    assert ray_cluster.is_initialized()  # it was not ours to stop


@pytest.mark.slow
def test_an_error_on_a_ray_worker_is_the_error_of_the_audit(
    write_rows: WriteRows, tmp_path: Path, ray_cluster: Any
) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(errors.DataError, match="not readable as Parquet"):
        audit_dataset(str(tmp_path / "rows.parquet"), engine="ray")
    path = write_rows([{"text": "fine"}], "rows.jsonl")
    with pytest.raises(ZeroDivisionError), open_executor("ray") as executor:
        list(executor.map(lambda item: 1 // item, [1, 0]))
    assert audit_dataset(str(path), engine="ray").total_samples == 1


def test_ray_is_an_extra_and_the_message_says_how_to_get_it(
    write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.OptionalDependencyError, match=r"pip install 'forge-pipeline\[ray\]'"):
        audit_dataset(str(write_rows([{"text": "x"}])), engine="ray")


def signed_files(texts: list[str], directory: Path, num_perm: int | None) -> SignatureFiles:
    import pyarrow as pa

    paths = []
    for first in range(0, len(texts), 40):
        block = pa.array(texts[first : first + 40], pa.large_string())
        paths.append(directory / f"{first}.arrow")
        sign(block, num_perm=num_perm, jaccard=0.85, compiled=False).write(paths[-1])
    return SignatureFiles(tuple(paths))


def as_list(pairs: Pairs) -> list[tuple[int, int, float]]:
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist(), strict=True))


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("num_perm", [128, None])
def test_pairs_do_not_depend_on_how_buckets_are_partitioned(
    parts: int, num_perm: int | None, sentences: Callable[[int], list[str]], tmp_path: Path
) -> None:
    texts = sentences(150)
    texts += [text.replace(text.split()[3], "changed", 1) for text in texts] + texts[:9]
    files = signed_files(texts, tmp_path, num_perm)
    in_memory = SignedRows.of([RowSignatures.read(path) for path in files.paths])
    unit = unit_of(in_memory.tokens)
    units = np.flatnonzero(unit == np.arange(len(unit)))
    tables = Tables.of(in_memory, units, hamming=None if num_perm else 6, jaccard=0.85)
    expected = find_pairs(in_memory, units, tables)
    assert len(expected.left) > 50
    found = find_pairs_in_files(SignedRows.of(files), files, units, tables, Here(), tmp_path, parts=parts)
    assert as_list(found) == as_list(expected)
    assert found.complete


def test_results_come_in_order_and_the_first_error_ends_the_work() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return 10 // (5 - item)

    for workers in (1, 4):
        begun.clear()
        with open_executor("local", workers) as executor:
            assert list(executor.map(work, range(5))) == [2, 2, 3, 5, 10]
            begun.clear()
            with pytest.raises(ZeroDivisionError):
                list(executor.map(work, range(1000)))
        assert len(begun) < 100  # what had not begun was dropped


SCRIPT = """
import json, os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from forge_pipeline.dataset_audit import audit_dataset
report = audit_dataset(sys.argv[1], engine="ray", workers=1)
import ray
print(json.dumps([report.total_samples, ray.is_initialized()]))
"""


@pytest.mark.slow
def test_a_cluster_that_was_started_for_the_audit_ends_with_it(write_rows: WriteRows) -> None:
    pytest.importorskip("ray")
    path = write_rows([{"text": "one"}, {"text": "two"}])
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | PATIENT
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], check=True, capture_output=True, text=True, env=environment
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [2, False]
