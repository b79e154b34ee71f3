"""Remote files: fetched whole, checked, recorded, retried; credentials never shown."""

import contextlib
import http.server
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from forge_pipeline.data.reading import ReadRow, read_rows
from forge_pipeline.data.remote import RemoteFiles, fetch_remote, is_remote, redacted
from forge_pipeline.errors import DataError, OptionalDependencyError
from forge_pipeline.integrity import Digest

ROWS = b'{"text": "a"}\n{"text": "b"}\n'


@pytest.fixture
def memory() -> Iterator[Any]:
    """A store in memory: ``store("name", content)`` puts a file at ``memory://data/name``."""
    file_system = fsspec.filesystem("memory")

    def put(name: str, content: bytes = ROWS) -> None:
        file_system.pipe_file(f"/data/{name}", content)

    yield put
    with contextlib.suppress(FileNotFoundError):
        file_system.rm("/data", recursive=True)


def _names(found: RemoteFiles) -> list[str]:
    return [file.path.relative_to(found.folder).as_posix() for file in found.files]


def test_a_file_is_fetched_with_its_size_and_digest(memory: Any, tmp_path: Path) -> None:
    memory("rows.jsonl")
    found = fetch_remote("memory://data/rows.jsonl", tmp_path / "into")
    (file,) = found.files
    assert (file.path, file.size, file.digest) == (tmp_path / "into" / "rows.jsonl", len(ROWS), Digest.of(ROWS))
    assert found.size == len(ROWS)
    assert file.url == "memory:///data/rows.jsonl"
    assert [row.values["text"] for row in read_rows(file.path) if isinstance(row, ReadRow)] == ["a", "b"]
    assert os.listdir(tmp_path / "into") == ["rows.jsonl"]  # nothing is left beside it


def test_of_a_prefix_the_data_files_and_documents_are_fetched_with_their_folders(memory: Any, tmp_path: Path) -> None:
    for name in (
        "train/b.jsonl",
        "train/a.jsonl.gz",
        "test.parquet",
        "book.pdf",
        "_SUCCESS",
        ".hidden/x.jsonl",
        "x.bin",
    ):
        memory(name)
    found = fetch_remote("memory://data", tmp_path)
    assert _names(found) == ["book.pdf", "test.parquet", "train/a.jsonl.gz", "train/b.jsonl"]
    only = fetch_remote("memory://data/", tmp_path / "two", wanted=lambda path: path.suffix == ".pdf")
    assert _names(only) == ["book.pdf"]


def test_of_a_glob_what_matches_is_fetched(memory: Any, tmp_path: Path) -> None:
    for name in ("train-1.jsonl", "train-2.jsonl", "test-1.jsonl", "deep/train-3.jsonl"):
        memory(name)
    assert _names(fetch_remote("memory://data/train-*.jsonl", tmp_path / "1")) == ["train-1.jsonl", "train-2.jsonl"]
    assert _names(fetch_remote("memory://data/**/*.jsonl", tmp_path / "2")) == [
        "deep/train-3.jsonl",
        "test-1.jsonl",
        "train-1.jsonl",
        "train-2.jsonl",
    ]


REFUSED: dict[str, tuple[str, str]] = {
    "nothing there": ("memory://data/none.jsonl", "there is no such file"),
    "no data files": ("memory://data/other", "holds no data files"),
    "another kind of file": ("memory://data/other/x.bin", "cannot read files of this kind"),
    "an unknown protocol": ("gopher://data/x.jsonl", "no address that can be fetched; expected s3, s3a"),
    "a chain of protocols": ("simplecache::memory://data/x.jsonl", "no address that can be fetched"),
    "credentials in the address of a bucket": ("s3://AKIAKEY:sEcReT@bucket/x.jsonl", "credentials in an address"),
    "a name that leads out": ("memory://data/bad", "which is no safe path"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_fetched_is_refused_at_once(name: str, memory: Any, tmp_path: Path) -> None:
    url, reason = REFUSED[name]
    memory("other/x.bin")
    fsspec.filesystem("memory").store["/data/bad/../../x.jsonl"] = fsspec.filesystem("memory").store[
        "/data/other/x.bin"
    ]
    waits: list[float] = []
    with pytest.raises(DataError) as refused:
        fetch_remote(url, tmp_path / "into", sleep=waits.append)
    fsspec.filesystem("memory").store.pop("/data/bad/../../x.jsonl")
    assert reason in str(refused.value)
    assert "sEcReT" not in str(refused.value)
    assert not waits
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_more_bytes_than_allowed_are_refused_before_any_is_fetched(memory: Any, tmp_path: Path) -> None:
    memory("a.jsonl")
    memory("b.jsonl")
    with pytest.raises(DataError, match=f"{2 * len(ROWS)} bytes in 2 files; at most 30 bytes are allowed"):
        fetch_remote("memory://data", tmp_path / "into", limit_bytes=30)
    assert not (tmp_path / "into").exists()
    assert len(fetch_remote("memory://data", tmp_path, limit_bytes=2 * len(ROWS)).files) == 2


@pytest.mark.parametrize(
    ("url", "package"), [("s3://bucket/x.jsonl", "s3fs"), ("gs://b/x.jsonl", "gcsfs"), ("az://c/x.jsonl", "adlfs")]
)
def test_a_package_that_is_missing_is_named(
    url: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
    with pytest.raises(OptionalDependencyError, match=f"pip install fsspec {package}"):
        fetch_remote(url, tmp_path)


def test_addresses_are_told_from_paths() -> None:
    assert all(is_remote(url) for url in ("s3://b/k", "HTTPS://host/x.jsonl", "gs://b", "abfs://c/x"))
    assert not any(is_remote(name) for name in ("data/x.jsonl", "C:\\x", "owner/name", "package:a/b", "file://x"))


def test_an_address_is_shown_without_its_secrets() -> None:
    assert redacted("https://user:pass@host:8443/a/b.jsonl?X-Signature=abc#f") == "https://host:8443/a/b.jsonl"
    assert redacted("https://token@host/a.jsonl") == "https://host/a.jsonl"
    assert redacted("abfss://container@account.dfs.core.windows.net/a?.jsonl") == (
        "abfss://container@account.dfs.core.windows.net/a?.jsonl"
    )


# A real server


class _Site:
    """What the server answers: content by path, and failures that come first."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.failures: list[int | str] = []
        self.asked: list[str] = []
        self.lengths = True


@pytest.fixture
def site() -> Iterator[tuple[_Site, str]]:
    state = _Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            if body:
                state.asked.append(self.path)
            failure = state.failures.pop(0) if body and state.failures else None
            if isinstance(failure, int) or path not in state.content:
                self.send_error(failure if isinstance(failure, int) else 404)
                return
            content = state.content[path]
            self.send_response(200)
            if state.lengths:
                self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{Digest.of(content).short}"')
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if failure == "cut" else content)
            if failure == "cut":
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_behind_http_is_streamed_and_its_etag_recorded(site: tuple[_Site, str], tmp_path: Path) -> None:
    state, url = site
    content = ROWS * 400_000  # more than one chunk
    state.content["/data/rows%20a.jsonl"] = content
    found = fetch_remote(f"{url}/data/rows%20a.jsonl", tmp_path, limit_bytes=len(content))
    (file,) = found.files
    assert file.path.name == "rows a.jsonl"
    assert (file.size, file.digest, file.etag) == (len(content), Digest.of(content), Digest.of(content).short)
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("failure", [500, 503, 429, "cut"])
def test_what_may_pass_is_tried_again_with_growing_pauses(
    failure: int | str, site: tuple[_Site, str], tmp_path: Path
) -> None:
    state, url = site
    state.content["/rows.jsonl"] = ROWS * 100
    state.failures = [failure, failure]
    waits: list[float] = []
    (file,) = fetch_remote(f"{url}/rows.jsonl", tmp_path, sleep=waits.append).files
    assert file.path.read_bytes() == ROWS * 100
    assert waits == [0.5, 1.0]


def test_after_four_attempts_it_is_given_up(site: tuple[_Site, str], tmp_path: Path) -> None:
    state, url = site
    state.content["/rows.jsonl"] = ROWS
    state.failures = [500] * 10
    waits: list[float] = []
    with pytest.raises(DataError, match="could not be fetched in 4 attempts"):
        fetch_remote(f"{url}/rows.jsonl", tmp_path, sleep=waits.append)
    assert waits == [0.5, 1.0, 2.0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_lasts_is_not_tried_again(status: int, site: tuple[_Site, str], tmp_path: Path) -> None:
    state, url = site
    state.content["/rows.jsonl"] = ROWS
    state.failures = [status]
    with pytest.raises(DataError):
        fetch_remote(f"{url}/rows.jsonl", tmp_path, sleep=lambda _: pytest.fail("waited"))
    assert len(state.asked) == 1


def test_credentials_are_used_but_never_shown(site: tuple[_Site, str], tmp_path: Path) -> None:
    state, url = site
    state.content["/rows.jsonl"] = ROWS
    secret = (
        url.replace("http://", "http://someone:hunter2@") + "/rows.jsonl?X-Amz-Signature=abc%2Fdef&X-Token=topsecret"
    )
    found = fetch_remote(secret, tmp_path / "into")
    assert state.asked == ["/rows.jsonl?X-Amz-Signature=abc%2Fdef&X-Token=topsecret"]
    state.failures = [500] * 10
    with pytest.raises(DataError) as refused:
        fetch_remote(secret, tmp_path / "two", sleep=lambda _: None)
    shown = repr(found) + str(refused.value) + repr(refused.value.__cause__)
    assert not [
        word
        for word in ("someone", "hunter2", "abc%2F", "abc/def", "topsecret")
        if word in shown.replace("Undefined", "")
    ]
    assert refused.value.__suppress_context__
    assert found.url == f"{url}/rows.jsonl"


def test_a_file_of_unlisted_size_stops_at_the_limit(site: tuple[_Site, str], tmp_path: Path) -> None:
    state, url = site
    state.content["/rows.jsonl"] = ROWS * 1000
    state.lengths = False
    with pytest.raises(DataError, match="more bytes than the 1000 that are allowed"):
        fetch_remote(f"{url}/rows.jsonl", tmp_path, limit_bytes=1000)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_the_disks_fault(memory: Any, tmp_path: Path) -> None:
    memory("rows.jsonl")
    (tmp_path / "into").write_text("a file")
    with pytest.raises(OSError, match="exists"):
        fetch_remote("memory://data/rows.jsonl", tmp_path / "into", sleep=lambda _: pytest.fail("waited"))


# A real S3 server


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A versioned bucket `rows` on an S3-compatible server; the environment points to it."""
    moto = pytest.importorskip("moto.server", reason="the S3 server of the tests is moto[server]")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "AKIATESTKEY",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="rows")
        client.put_bucket_versioning(Bucket="rows", VersioningConfiguration={"Status": "Enabled"})
        yield client
    server.stop()


def test_objects_of_a_bucket_are_fetched_with_etag_and_version(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Bucket="rows", Key="v1/train.jsonl", Body=b"old")
    put = bucket.put_object(Bucket="rows", Key="v1/train.jsonl", Body=ROWS)
    bucket.put_object(Bucket="rows", Key="v1/deep/test.jsonl", Body=ROWS * 1_000_000)  # several ranges
    bucket.put_object(Bucket="rows", Key="v1/", Body=b"")  # as some tools mark a folder
    found = fetch_remote("s3://rows/v1", tmp_path)
    assert _names(found) == ["deep/test.jsonl", "train.jsonl"]
    train = found.files[1]
    assert (train.etag, train.version) == (put["ETag"].strip('"'), put["VersionId"])
    assert (train.url, train.digest) == ("s3://rows/v1/train.jsonl", Digest.of(ROWS))
    assert found.files[0].digest == Digest.of(ROWS * 1_000_000)
    assert _names(fetch_remote("s3://rows/v1/t*.jsonl", tmp_path / "glob")) == ["train.jsonl"]


def test_a_bucket_that_is_not_there_is_told_of(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"s3://nowhere/x\.jsonl: there is no such file"):
        fetch_remote("s3://nowhere/x.jsonl", tmp_path, sleep=lambda _: pytest.fail("waited"))


def test_what_is_fetched_twice_is_the_same_facts(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Bucket="rows", Key="same/a.jsonl", Body=ROWS)
    first, second = (fetch_remote("s3://rows/same/a.jsonl", tmp_path) for _ in range(2))
    assert first == second
    assert json.dumps([str(file.digest) for file in first.files]) == json.dumps([str(Digest.of(ROWS))])
