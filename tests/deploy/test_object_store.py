"""The artefact store on a real S3 server: complete or absent, created once, verified on the way back."""

import threading
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import IntegrityError, StoreError
from forge_pipeline.integrity import Digest, Manifest
from resources.remote_store import RemoteStore
from resources.store import ArtifactStore
from tests.deploy.s3_server import s3

__all__ = ["s3"]  # fixture

BUCKET = "forge-objects"
URL = f"s3://{BUCKET}/store"
FILES = {"model.bin": b"weights" * 1000, "deep/er/config.json": b"{}", "ünï code.txt": b"x"}


@pytest.fixture
def here(s3: Any, tmp_path: Path) -> ArtifactStore:
    """The store as one host sees it."""
    return ArtifactStore(URL, tmp_path / "here")


@pytest.fixture
def there(s3: Any, tmp_path: Path) -> ArtifactStore:
    """The same store from another host, with a cache of its own."""
    return ArtifactStore(URL, tmp_path / "there")


def make(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def key_of(digest: Digest, name: str) -> str:
    return f"store/sha256/{digest.hex}/{name}"


def replaced(s3: Any, key: str, body: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def test_what_one_host_published_another_reads_and_the_bucket_was_made_by_the_store(
    here: ArtifactStore, there: ArtifactStore, s3: Any, tmp_path: Path
) -> None:
    digest = here.publish(make(tmp_path / "work", FILES))
    assert BUCKET in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    assert (there.get(digest) / "model.bin").read_bytes() == FILES["model.bin"]
    assert Manifest.of_directory(there.get(digest)).digest == digest


class CutOff(RuntimeError):
    """What a client's library may raise: no OSError."""


def cut_off_after(remote: RemoteStore, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    put = remote._fs.put_file
    sent = iter(range(files))

    def put_file(*arguments: Any, **options: Any) -> None:
        if next(sent, None) is None:
            raise CutOff("connection lost")
        put(*arguments, **options)

    monkeypatch.setattr(remote._fs, "put_file", put_file)


def test_an_upload_that_was_cut_off_is_not_there_until_it_is_made_again(
    here: ArtifactStore, there: ArtifactStore, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**FILES, "model.bin": b"cut off"}
    assert here._remote is not None
    with monkeypatch.context() as patch:
        cut_off_after(here._remote, 1, patch)
        with pytest.raises(StoreError, match=r"CutOff: connection lost.*materialize the asset again"):
            here.publish(make(tmp_path / "work", files))
    digest = Manifest.of_directory(make(tmp_path / "same", files)).digest
    left = s3.list_objects_v2(Bucket=BUCKET, Prefix=key_of(digest, ""))
    assert left["KeyCount"] == 1
    with pytest.raises(StoreError, match="is not in the artefact store"):
        there.get(digest)
    assert here.publish(tmp_path / "same") == digest
    assert there.get(digest).is_dir()


def test_a_store_that_keeps_half_a_file_gets_no_manifest(
    here: ArtifactStore, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert here._remote is not None
    put = here._remote._fs.put_file

    def put_half(local: str, remote: str) -> None:
        put(local, remote)
        if remote.endswith("model.bin"):
            replaced(s3, remote.removeprefix(f"{BUCKET}/"), b"half")

    monkeypatch.setattr(here._remote._fs, "put_file", put_half)
    with pytest.raises(StoreError, match=r"model\.bin .* did not arrive whole .*expected 6 bytes, found 4"):
        here.publish(make(tmp_path / "work", {"model.bin": b"halved"}))
    manifests = [each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET)["Contents"] if "manifest" in each["Key"]]
    digest = Manifest.of_directory(make(tmp_path / "same", {"model.bin": b"halved"})).digest
    assert key_of(digest, "manifest.json") not in manifests


TAMPERED = {
    "a file": ("files/model.bin", b"other" * 1000, "was changed in s3://"),
    "a file of the same size": ("files/model.bin", b"WEIGHTS" * 1000, "was changed in s3://"),
    "the manifest": ("manifest.json", b"[]", "the manifest of .* was changed"),
}


@pytest.mark.parametrize(("name", "body", "words"), TAMPERED.values(), ids=TAMPERED)
def test_what_was_changed_in_the_bucket_is_refused_and_leaves_nothing_behind(
    here: ArtifactStore, there: ArtifactStore, s3: Any, tmp_path: Path, name: str, body: bytes, words: str
) -> None:
    digest = here.publish(make(tmp_path / "work", FILES))
    before = s3.get_object(Bucket=BUCKET, Key=key_of(digest, name))["Body"].read()
    replaced(s3, key_of(digest, name), body)
    with pytest.raises(IntegrityError, match=words):
        there.get(digest)
    assert not [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    replaced(s3, key_of(digest, name), before)
    assert there.get(digest).is_dir()


def test_a_file_that_is_gone_from_the_bucket_is_named(
    here: ArtifactStore, there: ArtifactStore, s3: Any, tmp_path: Path
) -> None:
    digest = here.publish(make(tmp_path / "work", {**FILES, "gone": b"gone"}))
    s3.delete_object(Bucket=BUCKET, Key=key_of(digest, "files/gone"))
    with pytest.raises(StoreError, match=f"give back gone of {digest}"):
        there.get(digest)


def test_a_manifest_that_is_there_is_not_overwritten_by_a_publisher(
    here: ArtifactStore, s3: Any, tmp_path: Path
) -> None:
    digest = here.publish(make(tmp_path / "work", {"a": b"1"}))
    replaced(s3, key_of(digest, "manifest.json"), b"[]")
    with pytest.raises(IntegrityError, match="holds other bytes than its name says"):
        here.publish(make(tmp_path / "again", {"a": b"1"}))
    assert s3.get_object(Bucket=BUCKET, Key=key_of(digest, "manifest.json"))["Body"].read() == b"[]"


def test_a_record_is_created_and_never_overwritten(s3: Any) -> None:
    remote = RemoteStore(URL)
    remote.put("records/line/one.json", b"{}")
    remote.put("records/line/one.json", b"{}")  # the same again is no news
    with pytest.raises(IntegrityError, match="holds other bytes"):
        remote.put("records/line/one.json", b'{"forged": true}')
    assert remote.read("records/line/one.json") == b"{}"


def test_two_hosts_that_publish_the_same_at_once_both_succeed(
    here: ArtifactStore, there: ArtifactStore, tmp_path: Path
) -> None:
    found: list[Digest] = []
    hosts = [
        threading.Thread(
            target=lambda store=store, name=name: found.append(store.publish(make(tmp_path / name, FILES)))
        )
        for store, name in ((here, "one"), (there, "two"))
    ]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_store_that_does_not_answer_is_an_error_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # else it is connected already
    remote = RemoteStore("s3://nowhere/store")
    monkeypatch.setattr(remote._fs, "retries", 1)
    words = r"s3://nowhere/store could not give back records/x\.json: EndpointConnectionError: .*Check the address"
    with pytest.raises(StoreError, match=words):
        remote.read("records/x.json")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
