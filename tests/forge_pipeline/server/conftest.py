"""Servers shared by the tests of this folder."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.forge_pipeline.server.served import (
    PREFERENCES,
    TRAINABLE,
    ServerProcess,
    Studio,
    in_thread,
    jsonl,
    settings_for,
    wait_for,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server that can do everything but start runs."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "root").mkdir()
    settings = settings_for(folder / "data", dataset_roots=(folder / "root",), upload_limit_bytes=200_000)
    with in_thread(settings) as studio:
        assert studio.upload("rows.jsonl", jsonl(TRAINABLE)).json()["filename"] == "rows.jsonl"
        yield studio


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("served"))
    yield process
    with contextlib.suppress(Exception):
        process.stop()


@pytest.fixture(scope="session")
def studio(server_process: ServerProcess) -> Studio:
    """A server that runs jobs."""
    studio = server_process.start()
    studio.upload("rows.jsonl", jsonl(TRAINABLE))
    studio.upload("preferences.jsonl", jsonl(PREFERENCES))
    wait_for(lambda: studio.get("/api/health").json()["launcher"] == "ready", timeout=120)
    return studio
