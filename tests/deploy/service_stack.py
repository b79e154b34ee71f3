"""The services of compose.yaml as plain processes: each with its own command, environment and health check.

Started in namespaces of its own (`test_services`), with a JSON object on stdin: ``services`` as `docker compose config`
gives them, ``environment`` that goes over theirs, ``home`` (DAGSTER_HOME, mounted read-only here), ``hosts`` (a file to
put over /etc/hosts) and ``addresses`` (service -> a loopback address, so that two may use one port). The last line on
stdout says how each did, and what became of a run that the read-only UI and the operators' UI were asked for.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ORDER = ("migrate", "code-location", "operators", "webserver", "daemon", "rest")
LAUNCH = """mutation($run: ExecutionParams!) { launchPipelineExecution(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def ask(address: str, query: str, variables: dict[str, Any]) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"http://{address}:3000/graphql", body, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["data"]


class Stack:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def words(self, service: str, words: list[str]) -> list[str]:
        address = self.told["addresses"][service]
        return [word.replace("0.0.0.0", address).replace("127.0.0.1", address) for word in words]

    def environment(self, service: str) -> dict[str, str]:
        own = self.told["services"][service]["environment"]
        return {**os.environ, **own, **self.told["environment"]}

    def start(self, service: str) -> str:
        """How the service did: healthy, done, or what it said."""
        described, environment = self.told["services"][service], self.environment(service)
        log = Path(self.told["logs"], service)
        with log.open("wb") as file:
            process = subprocess.Popen(self.words(service, described["command"]), env=environment, stdout=file,
                                       stderr=file, start_new_session=True)  # fmt: skip
        self.processes[service] = process
        if "healthcheck" not in described:
            return "done" if process.wait(120) == 0 else log.read_text()[-1000:]
        check = self.words(service, described["healthcheck"]["test"][1:])
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            if subprocess.run(check, env=environment, capture_output=True, timeout=60).returncode == 0:
                return "healthy"
            time.sleep(1)
        return log.read_text()[-1000:]

    def launch(self) -> dict[str, str]:
        """What the two UIs answer to a launch, and how the run ended."""
        selector = {"repositoryLocationName": "forge", "repositoryName": "__repository__", "pipelineName": "__ASSET_JOB",
                    "assetSelection": [{"path": ["plain", "recipe"]}]}  # fmt: skip
        run = {"run": {"selector": selector, "runConfigData": {}, "mode": "default"}}
        addresses = self.told["addresses"]
        refused = ask(addresses["webserver"], LAUNCH, run)["launchPipelineExecution"]["__typename"]
        launched = ask(addresses["operators"], LAUNCH, run)["launchPipelineExecution"]
        status, deadline = launched["__typename"], time.monotonic() + 90
        while "run" in launched and status not in ("SUCCESS", "FAILURE") and time.monotonic() < deadline:
            status = ask(addresses["webserver"], STATUS, {"id": launched["run"]["runId"]})["runOrError"]["status"]
            time.sleep(1)
        return {"read-only": refused, "operators": status}

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes.values():
                if process.poll() is None:
                    os.killpg(process.pid, sign)
            time.sleep(2)


def main() -> None:
    told = json.load(sys.stdin)
    home = told["home"]
    for words in (["--bind", home, home], ["-o", "remount,ro,bind", home], ["--bind", told["hosts"], "/etc/hosts"]):
        subprocess.run(["mount", *words], check=True)
    stack = Stack(told)
    try:
        found: dict[str, Any] = {service: stack.start(service) for service in ORDER}
        found["launch"] = stack.launch()
    finally:
        stack.stop()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
