"""OpenLineage events: against a real HTTP server, a file, and servers that do not answer."""

import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest
from forge_pipeline.lineage import stage_events, tell
from forge_pipeline.observation import Observers, StageFacts

pytest.importorskip("openlineage.client")

RUN = str(uuid.UUID(int=7))
FACTS = StageFacts(
    line="support", stage="raw_dataset", run_id=RUN, started_at="2026-01-31T10:00:00.000+00:00",
    ended_at="2026-01-31T10:00:05.500+00:00", digest=Digest.of(b"rows"), inputs={"support/recipe": Digest.of(b"recipe")},
    kind="RawDataset", size=1234, files=3, owners=("team:ml",), columns=(("messages", "list"), ("split", "string")),
    rows=60,
)  # fmt: skip


@dataclass
class Server:
    """A lineage server on this machine; `status` is what it answers."""

    address: str = ""
    status: int = 201
    got: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/api/v1/lineage"
            if state.status < 300:
                state.got.append(event)
            state.keys.append(self.headers.get("Authorization"))
            self.send_response(state.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.address = f"http://127.0.0.1:{listening.server_port}"
    yield state
    listening.shutdown()
    thread.join()
    listening.server_close()


def rebuilt(event: dict[str, Any]) -> Any:
    """The event by the client's own classes, which check run ids, times and addresses."""
    from openlineage.client import event_v2 as events

    return events.RunEvent(
        eventTime=event["eventTime"], producer=event["producer"], run=events.Run(event["run"]["runId"]),
        job=events.Job(event["job"]["namespace"], event["job"]["name"]), eventType=events.RunState[event["eventType"]],
    )  # fmt: skip


def test_a_server_gets_start_and_complete_with_what_there_is_to_tell(server: Server, tmp_path: Path) -> None:
    told = tell(Observers(lineage=server.address, api_key="k1"), FACTS, tmp_path)
    assert (told.sent, told.kept, told.refused, told.reason) == (2, 0, 0, None)
    assert server.keys == ["Bearer k1"] * 2
    start, complete = server.got
    assert [rebuilt(event).eventType.value for event in server.got] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"] != RUN
    assert complete["run"]["facets"]["parent"]["run"]["runId"] == RUN
    assert complete["run"]["facets"]["parent"]["job"]["name"] == "support"
    assert (complete["job"]["namespace"], complete["job"]["name"]) == ("forge", "support.raw_dataset")
    assert complete["job"]["facets"]["ownership"]["owners"] == [{"name": "team:ml"}]
    (taken,), (made,) = complete["inputs"], complete["outputs"]
    assert (taken["name"], taken["facets"]["version"]["datasetVersion"]) == ("support/recipe", Digest.of(b"recipe"))
    facets = made["facets"]
    assert made["name"] == "support/raw_dataset"
    assert facets["version"]["datasetVersion"] == FACTS.digest
    assert facets["dataSource"]["uri"] == f"forge:support/raw_dataset@{FACTS.digest}"
    assert [column["name"] for column in facets["schema"]["fields"]] == ["messages", "split"]
    assert facets["dataQualityMetrics"]["rowCount"] == made["outputFacets"]["outputStatistics"]["rowCount"] == 60
    assert start["eventTime"] == FACTS.started_at
    for event in server.got:
        assert event["schemaURL"].startswith("https://openlineage.io/spec/")
        assert all("_schemaURL" in each and "_producer" in each for each in facets.values())


def test_what_was_not_counted_is_left_out(server: Server, tmp_path: Path) -> None:
    bare = replace(FACTS, rows=None, columns=(), owners=(), started_at=None, inputs={})
    tell(Observers(lineage=server.address), bare, tmp_path)
    facets = server.got[1]["outputs"][0]["facets"]
    assert not {"schema", "dataQualityMetrics"} & facets.keys()
    assert server.got[0]["eventTime"] == FACTS.ended_at


def test_a_file_takes_an_event_a_line(tmp_path: Path) -> None:
    file = tmp_path / "events" / "lineage.jsonl"
    told = tell(Observers(lineage=f"file:{file}"), FACTS, tmp_path)
    assert told.sent == 2
    assert [json.loads(line)["eventType"] for line in file.read_text().splitlines()] == ["START", "COMPLETE"]


def test_what_a_silent_server_did_not_take_is_kept_and_goes_first_the_next_time(server: Server, tmp_path: Path) -> None:
    nobody = tell(Observers(lineage="http://127.0.0.1:9"), FACTS, tmp_path)
    assert (nobody.sent, nobody.kept) == (0, 2)
    assert "Connection" in str(nobody.reason)
    server.status = 503
    assert tell(Observers(lineage=server.address), replace(FACTS, stage="recipe"), tmp_path).kept == 4
    with nobody.unsent.open("a") as file:
        file.write('{"eventType": "STA')  # a crash in the middle of a line
    server.status = 200
    told = tell(Observers(lineage=server.address), replace(FACTS, stage="tokenized_dataset"), tmp_path)
    assert (told.sent, told.kept, told.reason) == (6, 0, None)
    assert [event["job"]["name"].split(".")[1] for event in server.got] == [
        "raw_dataset", "raw_dataset", "recipe", "recipe", "tokenized_dataset", "tokenized_dataset"
    ]  # fmt: skip
    assert told.unsent.read_text() == ""


def test_what_a_server_refuses_for_good_stops_nothing_else(server: Server, tmp_path: Path) -> None:
    server.status = 422
    told = tell(Observers(lineage=server.address), FACTS, tmp_path)
    assert (told.sent, told.kept, told.refused) == (0, 0, 2)
    assert "422" in str(told.reason)
    assert len((told.unsent.parent / "refused.jsonl").read_text().splitlines()) == 2
    server.status = 200
    assert tell(Observers(lineage=server.address), FACTS, tmp_path).sent == 2


def test_after_a_long_outage_one_stage_sends_a_part(server: Server, tmp_path: Path) -> None:
    unsent = tmp_path / "lineage" / "unsent.jsonl"
    unsent.parent.mkdir()
    unsent.write_text('{"eventType": "START"}\n' * 150)
    told = tell(Observers(lineage=server.address), FACTS, tmp_path)
    assert (told.sent, told.kept) == (100, 52)


def test_each_stage_of_a_run_has_a_run_of_its_own_and_always_the_same() -> None:
    def run_id(facts: StageFacts) -> str:
        return str(stage_events(facts, "forge")[0].run.runId)

    assert run_id(FACTS) == run_id(FACTS)
    assert len({run_id(FACTS), run_id(replace(FACTS, stage="recipe")), run_id(replace(FACTS, line="other"))}) == 3


def test_observers_are_read_from_the_environment() -> None:
    assert Observers.read({}) == Observers()
    found = Observers.read({"FORGE_LINEAGE": "https://x", "FORGE_METRICS_DIR": "/m", "FORGE_LINEAGE_API_KEY": "k"})
    assert (found.lineage, found.metrics_dir, found.api_key) == ("https://x", Path("/m"), "k")
    assert "api_key" not in repr(found)
    with pytest.raises(ConfigError, match="FORGE_LINEAGE: found 'kafka://x'"):
        Observers.read({"FORGE_LINEAGE": "kafka://x"})
