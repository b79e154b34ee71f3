"""The judge against a real HTTP server on this machine."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
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
    return JudgeSection(enabled=True, judge_model="grader", judge_api_base=url, **{"judge_attempts": 1, **settings})


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


# --- an endpoint that is busy, slow or broken -----------------------------------------------


class RawEndpoint:
    """A server of bare sockets: each connection gets the next of the byte strings, slowly if asked."""

    def __init__(self, *answers: bytes, pause: float = 0.0) -> None:
        self.connections = 0
        self._answers, self._pause, self._closed = answers, pause, threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            answer = self._answers[min(self.connections, len(self._answers) - 1)]
            self.connections += 1
            with connection, suppress(OSError):
                connection.recv(65536)
                for start in range(0, len(answer), 64 if self._pause else len(answer) or 1):
                    connection.sendall(answer[start : start + 64] if self._pause else answer)
                    if self._closed.wait(self._pause):
                        return

    def __enter__(self) -> "RawEndpoint":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def completion(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts are written down instead of waited for."""
    waited: list[float] = []
    monkeypatch.setattr("forge_pipeline.evaluation.judge_endpoint.time.sleep", waited.append)
    return waited


def test_a_busy_endpoint_is_asked_again_with_growing_pauses(
    endpoint: Callable[..., Endpoint], no_pauses: list[float]
) -> None:
    server = endpoint(503, 429, '{"score": 4}')
    (grade,) = grade_answers(section(server.url, judge_attempts=3), [("q", "a")], None)
    assert grade.score == 4
    assert len(server.requests) == 3
    assert no_pauses == [0.5, 1.0]


def test_what_will_not_change_is_not_asked_again(endpoint: Callable[..., Endpoint], no_pauses: list[float]) -> None:
    server = endpoint(400)
    (grade,) = grade_answers(section(server.url, judge_attempts=3), [("q", "a")], None)
    assert "HTTP 400" in grade.reason
    assert (len(server.requests), no_pauses) == (1, [])


def test_an_endpoint_that_never_answers_is_given_up(no_pauses: list[float]) -> None:
    grades = grade_answers(section("http://127.0.0.1:9/v1"), [("q", "a")] * 8, None)
    assert [grade.score for grade in grades] == [None] * 8
    assert "not asked after 5 failed requests in a row" in grades[-1].reason


BROKEN = {
    "not JSON": (http(b"<html>"), "is no chat completion"),
    "no choices": (http(b'{"choices": []}'), "is no chat completion"),
    "null content": (http(completion(None)), "holds no text"),
    "a list": (http(b"[1, 2]"), "is no chat completion"),
    "deep nesting": (http(b"[" * 100_000), "is no chat completion"),
    "cut off": (http(completion("x"))[:-5], "could not be had"),
    "nothing at all": (b"", "could not be had"),
    "not HTTP": (b"hello\r\n\r\n", "could not be had"),
    "too much": (http(b"x" * (2 << 20)), "could not be had"),
}


@pytest.mark.parametrize(("answer", "words"), BROKEN.values(), ids=BROKEN)
def test_a_malformed_answer_is_an_invalid_grade(answer: bytes, words: str) -> None:
    with RawEndpoint(answer) as server:
        (grade,) = grade_answers(section(server.url), [("q", "a")], None)
    assert grade.score is None
    assert words in grade.reason


def test_an_answer_that_trickles_ends_at_the_timeout() -> None:
    import time

    started = time.monotonic()
    with RawEndpoint(http(b" " * 100_000), pause=0.05) as server:
        (grade,) = grade_answers(section(server.url, judge_timeout=0.5), [("q", "a")], None)
    assert grade.score is None
    assert "judge_timeout" in grade.reason
    assert time.monotonic() - started < 5


# --- pairwise, people, local ------------------------------------------------------------------


@pytest.fixture
def eval_set(tmp_path: Path) -> str:
    path = tmp_path / "eval.jsonl"
    path.write_text('{"prompt": "What is the capital of Peru?"}\n')
    return str(path)


def test_the_base_models_answer_is_compared_in_both_orders(
    recipe: Callable[..., ForgeConfig],
    tuned: ModelDirectory,
    endpoint: Callable[..., Endpoint],
    eval_set: str,
    tmp_path: Path,
) -> None:
    server = endpoint('{"winner": "A"}', '{"winner": "B", "reason": "it names the city"}')
    judged = section(server.url, mode="pairwise", eval_dataset=eval_set, include_eval_samples=True)
    found = judge(recipe(llm_judge=judged.model_dump()), tuned)
    assert found.tally is not None
    assert (found.tally.wins, found.tally.losses, found.tally.order_agreement) == (1, 0, 1.0)
    assert found.verdict == "insufficient_evidence", "one pair shows little"
    first, second = (request["messages"][-1]["content"] for request in server.requests)
    assert first.index("It is Lima.") < first.index("<answer_b>") < second.index("It is Lima.")
    assert found.samples[0].base_response not in (None, "It is Lima.")
    write_report(tmp_path / "report.json", found)
    assert read_report(tmp_path / "report.json", JudgeReport) == found


def test_a_model_judges_here(
    recipe: Callable[..., ForgeConfig], tuned: ModelDirectory, base_path: Path, eval_set: str
) -> None:
    local = {"enabled": True, "judge_backend": "local", "judge_model": str(base_path), "eval_dataset": eval_set}
    with pytest.raises(EvaluationError, match="context of 512"):
        judge(recipe(llm_judge=local), tuned)  # the rubric is longer than this tiny model can read


@pytest.fixture
def roomy_judge(tokenizer: Any, tmp_path: Path) -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, **sizes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    return str(tmp_path / "judge")


def test_a_local_judge_that_writes_no_verdict_passes_nothing(
    recipe: Callable[..., ForgeConfig], tuned: ModelDirectory, roomy_judge: str, eval_set: str
) -> None:
    local = {"enabled": True, "judge_backend": "local", "judge_model": roomy_judge, "eval_dataset": eval_set}
    found = judge(recipe(llm_judge=local), tuned)
    assert (found.n, found.invalid, found.verdict) == (1, 1, "insufficient_evidence")


PEOPLE = {
    "agreement": ([("a", 9, True), ("b", 2, False), ("c", 8, True), ("d", 1, False)], 1.0, "pass"),
    "disagreement": ([("a", 9, False), ("b", 2, True), ("c", 8, True), ("d", 1, False)], 0.0, "insufficient_evidence"),
    "one rating alone": ([("a", 9, True)], None, "insufficient_evidence"),
}


@pytest.mark.parametrize(("labels", "kappa", "outcome"), PEOPLE.values(), ids=PEOPLE)
def test_the_judge_is_held_against_people(
    recipe: Callable[..., ForgeConfig],
    tuned: ModelDirectory,
    endpoint: Callable[..., Endpoint],
    eval_set: str,
    tmp_path: Path,
    labels: list[tuple[str, int, bool]],
    kappa: float | None,
    outcome: str,
) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps({"prompt": "q", "response": a, "good": g}) + "\n" for a, _, g in labels))
    server = endpoint('{"score": 9}', *(f'{{"score": {score}}}' for _, score, _ in labels))
    judged = section(server.url, eval_dataset=eval_set, human_labels=str(path), min_kappa=0.5)
    found = judge(recipe(llm_judge=judged.model_dump()), tuned)
    assert found.agreement is not None
    assert found.agreement.kappa == kappa
    assert (found.verdict, found.gates[0].outcome) == (outcome, outcome)


@pytest.mark.parametrize("text", [None, "", "{}\n", '{"prompt": "q", "response": "a", "good": 1}\n'])
def test_labels_of_people_that_are_not_there_keep_the_gate_from_passing(
    recipe: Callable[..., ForgeConfig],
    tuned: ModelDirectory,
    endpoint: Callable[..., Endpoint],
    eval_set: str,
    tmp_path: Path,
    text: str | None,
) -> None:
    path = tmp_path / "people.jsonl"
    if text is not None:
        path.write_text(text)
    judged = section(endpoint('{"score": 9}').url, eval_dataset=eval_set, human_labels=str(path))
    found = judge(recipe(llm_judge=judged.model_dump()), tuned)
    assert found.verdict == "insufficient_evidence"
    assert "people.jsonl" in found.reason


def test_a_model_that_writes_no_text_is_not_judged(
    recipe: Callable[..., ForgeConfig], tuned: ModelDirectory, eval_set: str
) -> None:
    record = replace(tuned.record, head="question-answering")
    reader = SimpleNamespace(digest=tuned.digest, record=record, path="/nowhere")
    judged = section("http://127.0.0.1:9", eval_dataset=eval_set)
    found = judge(recipe(llm_judge=judged.model_dump()), reader)  # type: ignore[arg-type]
    assert found.verdict == "not_run"
    assert "question-answering head" in found.reason
