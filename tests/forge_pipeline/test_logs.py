"""Log lines: one JSON object a line, or text; about which run, line, stage and request; without secrets."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from forge_pipeline.cli.main import main
from forge_pipeline.errors import ConfigError
from forge_pipeline.logs import setup_logging

SECRET = "ghp_" + "a1B2" * 9
LOGGER = logging.getLogger("forge_pipeline.tests")


@pytest.fixture
def lines() -> Iterator[Callable[..., list[str]]]:
    """Sets logging up with a format, runs something, returns the lines written; puts the root logger back after."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)

    def run(say: Callable[[], object], *, form: str = "json", level: str = "info", **fields: str) -> list[str]:
        stream = io.StringIO()
        root.handlers[:] = []  # pytest's own refuse what is awkward
        environ = {"FORGE_LOG_FORMAT": form, "FORGE_LOG_LEVEL": level}
        setup_logging(environ, fields=fields, stream=stream)
        say()
        return stream.getvalue().splitlines()

    yield run
    root.handlers[:], root.level = before[0], before[1]
    logging.captureWarnings(False)


def test_a_json_line_has_time_level_logger_message_and_what_it_is_about(lines: Callable[..., list[str]]) -> None:
    (line,) = lines(
        lambda: LOGGER.warning("half of %d rows", 8, extra={"request_id": "r-1"}),
        run_id="run-7", line="support", stage="fine_tune",
    )  # fmt: skip
    found = json.loads(line)
    moment = datetime.fromisoformat(found.pop("ts"))
    assert moment.utcoffset() is not None
    assert found == {
        "level": "warning", "logger": "forge_pipeline.tests", "message": "half of 8 rows",
        "run_id": "run-7", "line": "support", "stage": "fine_tune", "request_id": "r-1",
    }  # fmt: skip


def test_what_is_not_known_is_left_out(lines: Callable[..., list[str]]) -> None:
    (line,) = lines(lambda: LOGGER.info("outside of a request", extra={"request_id": "-"}))
    assert set(json.loads(line)) == {"ts", "level", "logger", "message"}


def _fail() -> None:
    try:
        raise ValueError(f"token {SECRET} refused")
    except ValueError:
        LOGGER.exception("the Hub said no to %s", SECRET)


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_masked_wherever_they_stand(lines: Callable[..., list[str]], form: str) -> None:
    found = lines(_fail, form=form)
    assert "Traceback" in "".join(found)
    assert SECRET not in "\n".join(found)
    assert "[REDACTED-SECRET]" in "\n".join(found)


def test_an_exception_is_one_json_line_too(lines: Callable[..., list[str]]) -> None:
    (line,) = lines(_fail)
    error = json.loads(line)["error"]
    assert error["type"] == "ValueError"
    assert "line" in error["trace"]


AWKWARD: dict[str, tuple[Any, ...]] = {
    "line breaks": ("first\nsecond\r\nthird",),
    "an escape sequence": ("\x1b[31mred\x1b[0m",),
    "a line separator of Unicode": ("one\u2028two\u0085three",),
    "arguments that do not fit": ("%d rows", "many"),
    "half a surrogate pair": ("\ud800",),
    "no string": (ValueError("x"),),
}


@pytest.mark.parametrize("message", AWKWARD.values(), ids=AWKWARD)
def test_an_awkward_message_is_one_json_line_and_forges_none_in_text(
    lines: Callable[..., list[str]], message: tuple[Any, ...]
) -> None:
    found = lines(lambda: LOGGER.error(*message))
    assert len(found) == 1
    assert json.loads(found[0])["level"] == "error"
    for number, line in enumerate(lines(lambda: LOGGER.error(*message), form="text")):
        assert ("ERROR forge_pipeline.tests: " in line) if number == 0 else line.startswith("  ")
        assert "\x1b" not in line


def test_the_level_is_what_the_variable_says(lines: Callable[..., list[str]]) -> None:
    assert lines(lambda: LOGGER.info("x"), level="warning") == []
    assert len(lines(lambda: LOGGER.debug("x"), level="DEBUG")) == 1


def test_pythons_warnings_are_json_lines_too(lines: Callable[..., list[str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        (line,) = lines(lambda: warnings.warn("old", stacklevel=1))
    assert "old" in json.loads(line)["message"]


@pytest.mark.parametrize(("name", "value"), [("FORGE_LOG_FORMAT", "yaml"), ("FORGE_LOG_LEVEL", "loud")])
def test_another_value_is_refused_with_those_that_there_are(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: found '{value}'; expected one of"):
        setup_logging({name: value})


def test_a_command_that_fails_says_so_as_a_json_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forge_pipeline.cli.main", "merge", "nowhere.yaml"],
        env={"FORGE_LOG_FORMAT": "json", "PATH": "/usr/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "nowhere.yaml: there is no such recipe" in json.loads(line)["message"]


def test_a_wrong_variable_is_wrong_input_of_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORGE_LOG_LEVEL", "loud")
    assert main(["models", "list"]) == 1
    assert "FORGE_LOG_LEVEL: found 'loud'" in capsys.readouterr().err
