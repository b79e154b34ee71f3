"""The judge against a real HTTP server on this machine."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import JudgeSection
from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation import JudgeReport, judge
from forge_pipeline.evaluation.judge import Grade, decide, grade_answers, parse_grade
from forge_pipeline.integrity import Digest, read_report, write_report
from forge_pipeline.models import ModelDirectory

SUBJECT = Digest.of(b"model")


class Endpoint:
    """An OpenAI-compatible endpoint that gives the replies it is told to, in turn.

    with Endpoint(["{\\"score\\": 7}"]) as endpoint: grade(endpoint.url); endpoint.requests
    """

    def __init__(self, replies: list[str | int]) -> None:
        self.requests: list[dict[str, Any]] = []
        outer, queue = self, list(replies)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append({"path": self.path, "headers": dict(self.headers), **json.loads(body)})
                reply = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(reply if isinstance(reply, int) else 200)
                if reply == 302:
                    self.send_header("Location", f"{outer.url}/elsewhere")
                text = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "Endpoint":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Callable[..., Endpoint]]:
    opened: list[Endpoint] = []

    def build(*replies: str | int) -> Endpoint:
        opened.append(Endpoint(list(replies)).__enter__())
        return opened[-1]

    yield build
    for one in opened:
        one.__exit__()


def section(url: str, **settings: Any) -> JudgeSection:
    return JudgeSection(enabled=True, judge_model="grader", judge_api_base=url, **settings)


def test_the_stage_answers_asks_and_decides(
    recipe: Callable[..., ForgeConfig],
    tuned: ModelDirectory,
    endpoint: Callable[..., Endpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "eval.jsonl").write_text('{"prompt": "What is the capital of Peru?"}\n' * 2)
    server = endpoint('{"score": 9, "reason": "right"}', 'Well: {"score": 7}')
    monkeypatch.setenv("JUDGE_KEY", "secret")
    settings = {"judge_api_key_env": "JUDGE_KEY", "eval_dataset": str(tmp_path / "eval.jsonl")}
    config = recipe(llm_judge={**section(server.url, include_eval_samples=True).model_dump(), **settings})
    found = judge(config, tuned)
    assert (found.verdict, found.mean_score, found.invalid_share) == ("pass", 8.0, 0.0)
    assert found.samples[0].response == "It is Lima."
    (first, _) = server.requests
    assert first["path"] == "/v1/chat/completions"
    assert first["headers"]["Authorization"] == "Bearer secret"
    assert (first["model"], first["temperature"]) == ("grader", 0)
    assert "It is Lima." in first["messages"][-1]["content"]
    write_report(tmp_path / "report.json", found)
    assert read_report(tmp_path / "report.json", JudgeReport) == found
    assert "secret" not in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize(
    ("replies", "invalid"),
    [
        pytest.param(["I like it."], "holds no JSON object", id="prose"),
        pytest.param(['{"score": 11}'], "score is 11", id="out of range"),
        pytest.param(['{"score": true}'], "score is True", id="a truth value"),
        pytest.param(['{"score": "8"}'], "score is '8'", id="text"),
        pytest.param([500], "HTTP 500", id="server error"),
        pytest.param([302], "HTTP 302", id="redirect"),
    ],
)
def test_a_grade_that_cannot_be_read_is_invalid(endpoint: Callable[..., Endpoint], replies: Any, invalid: str) -> None:
    server = endpoint(*replies)
    (grade,) = grade_answers(section(server.url), [("q", "a")], "key")
    assert grade.score is None
    assert invalid in grade.reason
    assert [request["path"] for request in server.requests] == ["/v1/chat/completions"], "the key goes nowhere else"


def test_a_refused_key_ends_the_evaluation_and_names_the_variable(endpoint: Callable[..., Endpoint]) -> None:
    with pytest.raises(EvaluationError, match=r"HTTP 401.*OPENAI_API_KEY"):
        grade_answers(section(endpoint(401).url), [("q", "a")] * 3, "wrong")


def test_an_endpoint_that_is_not_there_gives_invalid_grades() -> None:
    (grade,) = grade_answers(section("http://127.0.0.1:9/v1"), [("q", "a")], None)
    assert grade.score is None
    assert "could not be had" in grade.reason


@pytest.mark.parametrize(
    ("scores", "outcome"),
    [
        pytest.param([], "not_run", id="empty set"),
        pytest.param([8.0, 6.0], "pass", id="good"),
        pytest.param([4.0, 3.0], "fail", id="bad"),
        pytest.param([None, None], "insufficient_evidence", id="nothing readable"),
        pytest.param([9.0, None, None], "insufficient_evidence", id="one grade of three"),
        pytest.param([9.0] * 9 + [None], "pass", id="holds with the invalid one as 1"),
    ],
)
def test_the_gate(scores: list[float | None], outcome: str) -> None:
    answered = [("answer", Grade(score, "")) for score in scores]
    conversations = [[{"role": "user", "content": "q"}] for _ in scores]
    found = decide(JudgeSection(enabled=True, min_score=5.0), SUBJECT, conversations, answered)
    assert (found.verdict, found.gates[0].outcome) == (outcome, outcome)
    assert found.valid + found.invalid == found.n == len(scores)


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        pytest.param(None, {"judge_api_base": "http://127.0.0.1:9"}, "cannot be read", id="no file"),
        pytest.param("", {"judge_api_base": "http://127.0.0.1:9"}, "is empty", id="empty"),
        pytest.param("{}\n", {"judge_api_base": "http://127.0.0.1:9"}, "eval.jsonl:1", id="not a prompt"),
        pytest.param('{"prompt": "q"}\n', {"judge_api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY", id="no key"),
    ],
)
def test_what_is_missing_is_not_run(
    recipe: Callable[..., ForgeConfig],
    tuned: ModelDirectory,
    tmp_path: Path,
    text: str | None,
    settings: dict[str, str],
    reason: str,
) -> None:
    path = tmp_path / "eval.jsonl"
    if text is not None:
        path.write_text(text)
    found = judge(recipe(llm_judge={"enabled": True, "eval_dataset": str(path), **settings}), tuned)
    assert found.verdict == "not_run"
    assert reason in found.reason


def test_a_disabled_judge_is_not_run(recipe: Callable[..., ForgeConfig], tuned: ModelDirectory) -> None:
    assert judge(recipe(), tuned).verdict == "not_run"


def test_the_first_object_with_a_score_counts() -> None:
    assert parse_grade('{"note": 1} then {"score": 3.5, "reason": "meh"}') == Grade(3.5, "meh")
    assert parse_grade("[[[[" * 10000).score is None
