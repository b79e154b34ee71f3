"""Downloads: what belongs to a model, byte for byte what its digest says, or an error and never other bytes."""

import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from forge_pipeline.annex_iv import verify_annex_iv_artifact
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.server.archives import Verifier, file_pieces, zip_pieces
from tests.forge_pipeline.server.served import Studio, check_envelope, in_thread, settings_for, wait_for
from tests.forge_pipeline.server.shelved import Shelved, gguf_folder, shelve


@pytest.fixture(scope="module")
def shelved(tmp_path_factory: pytest.TempPathFactory) -> Shelved:
    return shelve(tmp_path_factory.mktemp("shelved") / "data", tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def studio(shelved: Shelved) -> Iterator[Studio]:
    with in_thread(settings_for(shelved.shelf.data_dir)) as studio:
        yield studio


def listed(studio: Studio, model_id: int) -> dict[str, dict[str, Any]]:
    reply = studio.get(f"/api/models/{model_id}/artifacts").json()["artifacts"]
    return {f"{each['kind']}:{each['name']}" if each["kind"] == "gguf" else each["kind"]: each for each in reply}


def test_everything_that_was_made_of_a_model_is_listed_with_its_digest(studio: Studio, shelved: Shelved) -> None:
    found = listed(studio, shelved.row.id)
    assert list(found) == ["model", "gguf:tiny.q8_0.gguf", "gguf:tiny.q4_k_m.gguf", "card", "bundle", "audit_report"]
    assert all(each["available"] and each["why"] is None for each in found.values())
    assert (found["model"]["digest"], found["bundle"]["digest"]) == (shelved.row.uid, shelved.bundle)
    assert found["gguf:tiny.q8_0.gguf"]["size_mb"] == pytest.approx(3.0)
    assert found["model"]["size_mb"] == pytest.approx(shelved.row.size_bytes / 1e6, abs=0.001)
    for each in found.values():
        reply = studio.get(each["url"])
        assert reply.status_code == 200, each["kind"]
        assert reply.headers["etag"] == f'"{each["digest"]}"'
        assert reply.headers["content-disposition"] == f'attachment; filename="{each["name"]}"'
        assert studio.get(each["url"], headers={"If-None-Match": reply.headers["etag"]}).status_code == 304
        if each["kind"] in ("gguf", "card", "audit_report"):
            assert Digest.of(reply.content) == each["digest"]


@pytest.mark.parametrize(("kind", "folder"), [("model", "tiny-bot"), ("bundle", "annex_iv")])
def test_a_directory_comes_as_the_same_zip_each_time(
    studio: Studio, shelved: Shelved, tmp_path: Path, kind: str, folder: str
) -> None:
    url = listed(studio, shelved.row.id)[kind]["url"]
    first = studio.get(url)
    assert first.headers["content-type"] == "application/zip"
    assert studio.get(url).content == first.content
    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(tmp_path)
    assert Manifest.of_directory(tmp_path / folder).digest == {"model": shelved.row.uid, "bundle": shelved.bundle}[kind]
    if kind == "bundle":
        assert verify_annex_iv_artifact(str(tmp_path / folder / "annex_iv.json")).valid


def test_card_and_audit_page_are_those_of_the_model(studio: Studio, shelved: Shelved) -> None:
    found = listed(studio, shelved.row.id)
    card = studio.get(found["card"]["url"]).text
    assert card == (shelved.shelf.store.path(shelved.bundle) / "model_card.md").read_text()
    page = studio.get(found["audit_report"]["url"])
    assert page.headers["content-type"].startswith("text/html")
    assert shelved.dataset in page.text


RANGES: dict[str, tuple[str, int, slice | None]] = {
    "the beginning": ("bytes=0-3", 206, slice(0, 4)),
    "the middle": ("bytes=5-1999999", 206, slice(5, 2_000_000)),
    "from somewhere on": ("bytes=2999999-", 206, slice(2_999_999, None)),
    "the end": ("bytes=-10", 206, slice(-10, None)),
    "more than there is": ("bytes=10-99999999", 206, slice(10, None)),
    "all of it": ("bytes=0-", 206, slice(None)),
    "behind the end": ("bytes=3000004-", 416, None),
    "nothing": ("bytes=-0", 416, None),
    "two ranges": ("bytes=0-1,4-5", 200, slice(None)),
    "no range": ("bytes=-", 200, slice(None)),
    "another unit": ("lines=1-2", 200, slice(None)),
    "a number of many digits": (f"bytes={'9' * 5000}-", 200, slice(None)),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_range_of_a_file_is_that_range(studio: Studio, shelved: Shelved, name: str) -> None:
    asked, status, wanted = RANGES[name]
    content = (shelved.shelf.store.path(shelved.gguf) / "tiny.q8_0.gguf").read_bytes()
    reply = studio.get(f"/api/models/{shelved.row.id}/download/gguf?name=tiny.q8_0.gguf", headers={"Range": asked})
    if wanted is None:
        check_envelope(reply, 416)
        assert reply.headers["content-range"] == f"bytes */{len(content)}"
        return
    assert (reply.status_code, reply.content == content[wanted]) == (status, True)
    assert reply.headers["content-length"] == str(len(content[wanted]))
    if status == 206:
        first = range(len(content))[wanted].start
        assert reply.headers["content-range"] == f"bytes {first}-{first + len(reply.content) - 1}/{len(content)}"


def test_a_range_of_what_has_become_another_file_is_all_of_it(studio: Studio, shelved: Shelved) -> None:
    url = f"/api/models/{shelved.row.id}/download/gguf?name=tiny.q4_k_m.gguf"
    tag = studio.get(url).headers["etag"]
    assert studio.get(url, headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == 206
    assert studio.get(url, headers={"Range": "bytes=0-1", "If-Range": '"another"'}).status_code == 200


def test_what_is_not_there_is_404(studio: Studio, shelved: Shelved) -> None:
    path = f"/api/models/{shelved.row.id}/download"
    check_envelope(studio.get(f"{path}/gguf?name=../../registry.sqlite"), 404)
    check_envelope(studio.get(f"{path}/weights"), 400)
    check_envelope(studio.get("/api/models/999999/download/model"), 404)
    check_envelope(studio.get("/api/models/999999/artifacts"), 404)


def test_what_was_never_made_says_what_to_do(studio: Studio, shelved: Shelved, tmp_path: Path) -> None:
    """A model that was only trained, and one that lies in no store."""
    trained = shutil.copytree(shelved.row.path, tmp_path / "trained")
    (trained / "training_report.json").write_text("{}")
    digest = shelved.shelf.keep("fine_tuned_model", "ModelDirectory", trained, {})
    stored = shelved.shelf.register(digest, "trained", job_id=None)
    shutil.copytree(trained, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "more.txt").write_text("more")
    outside = shelved.shelf.register(
        Manifest.of_directory(tmp_path / "elsewhere").digest, "outside", path=str(tmp_path / "elsewhere")
    )
    for row in (stored, outside):
        found = listed(studio, row.id)
        assert found["model"]["available"]
        for kind in ("gguf:trained.gguf", "gguf:outside.gguf", "bundle", "audit_report"):
            if kind in found:
                assert (found[kind]["available"], found[kind]["url"]) == (False, None)
                assert "materialize studio/" in found[kind]["why"] or "no audit" in found[kind]["why"]
        detail = check_envelope(studio.get(f"/api/models/{row.id}/download/bundle"), 404)
        assert "annex_iv_bundle" in detail
        card = studio.get(found["card"]["url"]).text
        assert card.startswith("---\n")
        assert row.uid in card
        assert "eval_loss: 0.5" in card
        assert str(tmp_path) not in card


def test_the_export_of_another_model_is_not_this_models(studio: Studio, shelved: Shelved, tmp_path: Path) -> None:
    """A record that ties a GGUF to a model does not make it that model's: the export's own report must say so."""
    other = shutil.copytree(shelved.row.path, tmp_path / "other")
    (other / "training_report.json").write_text('{"other": true}')
    model = shelved.shelf.keep("fine_tuned_model", "ModelDirectory", other, {})
    row = shelved.shelf.register(model, "other")
    folder = gguf_folder(shelved.row.uid, tmp_path / "gguf")
    (folder / "Modelfile").write_text("FROM x")
    shelved.shelf.keep("gguf_model", "GgufModel", folder, {"fine_tuned_model": model})
    shelved.shelf.keep(
        "annex_iv_bundle", "AnnexIvBundle", shelved.shelf.store.path(shelved.bundle), {"fine_tuned_model": model}
    )
    found = listed(studio, row.id)
    assert "about another model" in found["gguf:other.gguf"]["why"]
    assert "about another model" in found["bundle"]["why"]


CHANGES = {
    "a byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    "its length": lambda path: path.write_bytes(path.read_bytes() + b"!"),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["model", "gguf"])
def test_changed_bytes_are_never_sent(studio: Studio, shelved: Shelved, tmp_path: Path, kind: str, change: str) -> None:
    """Also where they were verified, and sent, a moment ago; and with size and modification time put back."""
    folder = shutil.copytree(shelved.row.path, tmp_path / "model")
    (folder / "extra.bin").write_bytes(os.urandom(100))
    model = shelved.shelf.keep("fine_tuned_model", "ModelDirectory", folder, {})
    row = shelved.shelf.register(model, f"changed-{change}-{kind}".replace(" ", "-"))
    gguf = gguf_folder(model, tmp_path / "gguf")
    made = shelved.shelf.keep("gguf_model", "GgufModel", gguf, {"fine_tuned_model": model})
    url = f"/api/models/{row.id}/download/{kind}"
    assert studio.get(url).status_code == 200
    file = Path(row.path, "extra.bin") if kind == "model" else shelved.shelf.store.path(made) / "tiny.q8_0.gguf"
    before = file.stat()
    CHANGES[change](file)
    if file.exists():
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    check_envelope(studio.get(url), 404 if (kind, change) == ("gguf", "gone") else 500)
    if kind == "gguf":
        check_envelope(studio.get(url, headers={"Range": "bytes=0-3"}), 404 if change == "gone" else 500)


def test_what_changes_while_it_is_sent_is_not_sent_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "model" / "weights.bin"
    file.parent.mkdir()
    file.write_bytes(b"a" * 3_000_000)
    digest, manifest = Digest.of_file(file), Manifest.of_directory(file.parent)
    for pieces in (file_pieces(file, digest), zip_pieces(file.parent, manifest, "m")):
        file.write_bytes(b"a" * 3_000_000)
        sent = [next(pieces)]
        with file.open("r+b") as changing:
            changing.seek(2_999_999)
            changing.write(b"b")
        with pytest.raises(ValueError, match="was changed while it was sent"):
            sent.extend(pieces)
        assert len(b"".join(sent)) < 3_000_000


def test_a_file_is_read_once_as_long_as_nobody_touches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"a" * 100)
    verifier, digest = Verifier(), Digest.of_file(file)
    verifier.check(file, digest)
    read: list[Path] = []
    monkeypatch.setattr(Digest, "of_file", lambda path: read.append(path) or digest)
    verifier.check(file, digest)
    assert not read
    os.utime(file)
    verifier.check(file, digest)
    assert read == [file]


def test_the_list_of_models_has_pages_filters_and_an_order(studio: Studio, shelved: Shelved) -> None:
    def ids(**query: Any) -> list[int]:
        return [model["id"] for model in studio.get("/api/models", params=query).json()["models"]]

    everything = studio.get("/api/models").json()
    assert everything.keys() == {"models"}
    known = [model["id"] for model in everything["models"]]
    page: dict[str, Any] = studio.get("/api/models", params={"limit": 1}).json()
    assert ([model["id"] for model in page["models"]], page["has_more"]) == (known[:1], len(known) > 1)
    assert ids(limit=1, after=known[0]) == known[1:2]
    assert ids(sort="-id") == known[::-1]
    assert ids(task="text-generation", base_model="tiny") == known
    assert ids(task="summarization") == []
    assert [model["name"] for model in studio.get("/api/models?sort=name").json()["models"]] == sorted(
        model["name"] for model in everything["models"]
    )
    for query in ({"limit": 0}, {"sort": "weight"}, {"after": 10**6}, {"limit": "x"}):
        assert next(iter(query)) in check_envelope(studio.get("/api/models", params=query), 400)


def test_a_download_that_is_broken_off_leaves_no_file_open(studio: Studio, shelved: Shelved) -> None:
    url = f"{studio.url}/api/models/{shelved.row.id}/download/gguf?name=tiny.q8_0.gguf"

    def opened() -> list[str]:
        links = Path("/proc/self/fd").iterdir()
        return [target for link in links if os.path.lexists(link) and (target := os.readlink(link)).endswith(".gguf")]

    with httpx.stream("GET", url, trust_env=False) as reply:
        next(reply.iter_bytes(10))
        assert opened()
    wait_for(lambda: not opened(), timeout=20)
