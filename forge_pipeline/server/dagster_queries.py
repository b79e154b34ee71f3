"""What `launchers` asks Dagster's GraphQL, and how a run's events become the reason why it failed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

ADD_PARTITION = """
mutation ($selector: RepositorySelector!, $name: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $selector, partitionsDefName: $name, partitionKey: $key) {
    __typename
    ... on UnauthorizedError { message }
    ... on PythonError { message }
  }
}"""
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PipelineNotFoundError { message }
    ... on InvalidSubsetError { message }
    ... on UnauthorizedError { message }
    ... on PythonError { message }
  }
}"""
TERMINATE = """
mutation ($run: String!, $policy: TerminateRunPolicy) {
  terminateRun(runId: $run, terminatePolicy: $policy) {
    __typename
    ... on TerminateRunFailure { message }
    ... on RunNotFoundError { message }
    ... on UnauthorizedError { message }
    ... on PythonError { message }
  }
}"""
STATUS = """
query ($run: ID!) { runOrError(runId: $run) { __typename ... on Run { status } ... on PythonError { message } } }"""
FIND = """
query ($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 1) { __typename ... on Runs { results { runId } } ... on PythonError { message } }
}"""
REASON = """
query ($run: ID!) {
  logsForRun(runId: $run, limit: 1000) {
    __typename
    ... on EventConnection {
      events {
        __typename
        ... on EngineEvent { error { message } }
        ... on RunFailureEvent { message error { message } }
        ... on ExecutionStepFailureEvent { stepKey error { message errorChain { error { message } } } }
        ... on AssetCheckEvaluationEvent { evaluation { success checkName severity description assetKey { path } } }
      }
    }
  }
}"""

LOG = """
query ($run: ID!, $after: String, $limit: Int!) {
  logsForRun(runId: $run, afterCursor: $after, limit: $limit) {
    __typename
    ... on RunNotFoundError { message }
    ... on PythonError { message }
    ... on EventConnection {
      cursor
      hasMore
      events { __typename ... on MessageEvent { timestamp level stepKey message } }
    }
  }
}"""


def reason_of(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a run failed, by its events, as `REASON` asks for them.

    The innermost error of the first failed step; else the failed blocking checks; else what kept Dagster from starting
    it, such as a code location that does not load; else the run's own words.
    """
    for event in events:
        if event["__typename"] == "ExecutionStepFailureEvent" and event.get("error"):
            error = event["error"]
            chain = [link["error"]["message"] for link in error.get("errorChain") or []]
            return f"{event['stepKey'].split('__')[-1]}: {_own_words(chain[-1] if chain else error['message'])}"
    for event in events:
        if event["__typename"] == "AssetCheckEvaluationEvent":
            check = event["evaluation"]
            if not check["success"] and check["severity"] == "ERROR":
                name = ".".join([*check["assetKey"]["path"], check["checkName"]])
                return f"{name} did not pass: {check['description'] or 'no description'}"
    for event in reversed(events):
        if event["__typename"] == "EngineEvent" and event.get("error"):
            words = str(event["error"]["message"]).strip().splitlines() or ["an error without words"]
            return f"Dagster could not do this run: {_own_words(words[0])}"
    for event in events:
        if event["__typename"] == "RunFailureEvent":
            return _own_words(str((event.get("error") or event)["message"]))
    return None


def _own_words(message: str) -> str:
    """An error's message without the Python path of its class; `dagster.Failure` only carries another's words."""
    return re.sub(r"^(?:[a-z_]\w*\.)+(?:Failure: )?", "", message.strip())
