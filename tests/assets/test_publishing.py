"""`published_model`: exactly what was released goes to the Hub. The Hub is a server on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from assets.publishing import publish
from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import GateFailedError
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory
from forge_pipeline.models.base import BaseModelRecord
from forge_pipeline.models.directory import ModelRecord, write_record
from forge_pipeline.registry import Registry

RECIPE = ForgeConfig(
    model={"name_or_path": "base"}, lora={}, training={}, data={"dataset_name_or_path": "rows"},
    release={"push_to": "me/tiny"},
)  # fmt: skip


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    found: list[bytes] = []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            values: dict = {"errors": [], "warnings": []}
            if self.path == "/api/repos/create":
                values = {"url": f"http://{self.headers['Host']}/me/tiny", "name": "me/tiny", "id": "1"}
            elif "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                values = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            elif "/commit/" in self.path:
                found.append(body)
                values = {
                    "commitUrl": f"http://{self.headers['Host']}/me/tiny/commit/c",
                    "commitOid": "c" * 40,
                    "success": True,
                }
            answer = json.dumps(values).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    nothing = Digest.of(b"")
    base = BaseModelRecord("base", None, None, "local", nothing, None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_record(tmp_path / "model", ModelRecord("full", base, "sft", nothing, nothing, nothing, None, 0))
    return ModelDirectory.open(tmp_path / "model")


@pytest.fixture
def bundle(tmp_path: Path) -> AnnexIvBundle:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model_card.md").write_text("# The card that people decided on\n")
    return AnnexIvBundle.open(tmp_path / "bundle")


@pytest.fixture
def registry(tmp_path: Path, model: ModelDirectory) -> Iterator[Registry]:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    registry.register_model(
        uid=model.digest, name="tiny", line="tiny", base_model="base", path=str(model.path), stage="released"
    )
    yield registry
    registry.close()


def test_the_released_model_is_pushed_with_the_card_of_its_bundle(commits, model, bundle, registry):
    released = SimpleNamespace(subject=model.digest, bundle=bundle.digest)
    done = publish(RECIPE, model, bundle, released, registry)
    assert (done.repo_id, done.commit, done.digest) == ("me/tiny", "c" * 40, model.digest)
    assert set(done.files) == {"README.md", "config.json", "forge_model.json"}
    assert len(commits) == 1


@pytest.mark.parametrize("other", ["subject", "bundle"])
def test_what_was_not_released_is_refused_before_anything_is_sent(commits, model, bundle, registry, other):
    released = SimpleNamespace(**({"subject": model.digest, "bundle": bundle.digest} | {other: Digest.of(b"other")}))
    with pytest.raises(GateFailedError, match="publication refused"):
        publish(RECIPE, model, bundle, released, registry)
    assert not commits


def test_a_release_that_was_taken_back_is_not_pushed(commits, model, bundle, registry):
    registry.set_stage(model.digest, "quarantined")
    released = SimpleNamespace(subject=model.digest, bundle=bundle.digest)
    with pytest.raises(GateFailedError, match="quarantined"):
        publish(RECIPE, model, bundle, released, registry)
    assert not commits
