"""The release sensor, by real ticks against a real log, registry and Dagster instance."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import line as assets_line
from assets.approval import build_release_sensor
from assets.definitions import build_line, build_resources
from forge_pipeline.annex_iv import BundleInputs
from forge_pipeline.annex_iv.example import example_inputs
from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.config.evaluation import EvaluationSection
from forge_pipeline.config.operation import ReleaseSection
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import Registry
from forge_pipeline.release import approve, reject, revoke
from resources.evidence import RegistryResource
from resources.home import Home
from tests.forge_pipeline.release.lines import WHY, Line, make_bundled, open_line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[BundleInputs, Path]:
    """A line that asks for two approvals, made once."""
    folder = tmp_path_factory.mktemp("line")
    template = example_inputs(folder / "example")
    sections = {"release": ReleaseSection(approvals=2), "evaluation": EvaluationSection(auto_revert=True)}
    template = replace(template, config=template.config.model_copy(update=sections))
    make_bundled(template, template.config, folder)
    return template, folder


@pytest.fixture
def line(made: tuple[BundleInputs, Path], tmp_path: Path) -> Line:
    template, folder = made
    for name in ("log", "model", "bundle"):
        shutil.copytree(folder / name, tmp_path / name)
    (tmp_path / "audit_log").mkdir()
    (tmp_path / "audit_log" / "example").symlink_to(tmp_path / "log")
    return open_line(template, template.config, tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def materialized(instance: dg.DagsterInstance, line: Line, **digests: Digest) -> None:
    found = {"fine_tuned_model": line.subject, "annex_iv_bundle": line.bundle.digest, **digests}
    for stage, digest in found.items():
        event = dg.AssetMaterialization(["example", stage], tags={"dagster/data_version": digest})
        instance.report_runless_asset_event(event)


def tick(line: Line, instance: dg.DagsterInstance) -> tuple[list[dg.RunRequest], str]:
    """Evaluate the sensor as the daemon does: the runs that it asks for, and its words."""
    built = build_line(assets_line.Line("example", Path("example.yaml"), line.config))
    home = Home(line.directory.parent)
    resources = build_resources(home, str(home.store), allow_temporary_instance=True)
    repository = dg.Definitions.merge(built, dg.Definitions(resources=resources)).get_repository_def()
    sensor = repository.get_sensor_def("example_release")
    given = {"audit_log": resources["audit_log"], "registry": RegistryResource(url=line.registry.url)}
    context = dg.build_sensor_context(instance=instance, repository_def=repository, resources=given)
    data = sensor.evaluate_tick(context)
    return list(data.run_requests or ()), data.skip_message or ""


def asked(line: Line) -> str:
    return line.ask(at=datetime.now(UTC) - timedelta(minutes=1))


def test_a_release_is_asked_for_once_the_last_approval_is_there(line: Line, instance: dg.DagsterInstance) -> None:
    materialized(instance, line)
    assert tick(line, instance) == ([], "nothing waits for a release")
    request = asked(line)
    assert "needs 2 more approvals" in tick(line, instance)[1]
    approve(line.registry, request, approver="Ann", reason=WHY)
    assert "needs 1 more approvals" in tick(line, instance)[1]
    approve(line.registry, request, approver="Ben", reason=WHY)
    (wanted,), _ = tick(line, instance)
    assert wanted.run_key == f"example:release:{line.subject}:{request}"
    assert wanted.asset_selection == [dg.AssetKey(["example", "released_model"])]
    (again,), _ = tick(line, instance)
    assert again.run_key == wanted.run_key  # which Dagster starts once
    line.promote(at=datetime.now(UTC))
    assert tick(line, instance)[0] == []


NOT_YET: dict[str, Any] = {
    "rejected": lambda li, r: reject(li.registry, r, approver="Cleo", reason="It rambles without end."),
    "revoked": lambda li, r: revoke(li.registry, r, approver="Ben", reason="It was the old report."),
}


@pytest.mark.parametrize("name", NOT_YET)
def test_a_decision_against_it_asks_for_nothing(line: Line, instance: dg.DagsterInstance, name: str) -> None:
    materialized(instance, line)
    request = asked(line)
    for person in ("Ann", "Ben"):
        approve(line.registry, request, approver=person, reason=WHY)
    NOT_YET[name](line, request)
    assert tick(line, instance)[0] == []


@pytest.mark.parametrize("stage", ["fine_tuned_model", "annex_iv_bundle"])
def test_a_newer_candidate_is_not_released_on_the_approvals_of_an_older(
    line: Line, instance: dg.DagsterInstance, stage: str
) -> None:
    request = asked(line)
    for person in ("Ann", "Ben"):
        approve(line.registry, request, approver=person, reason=WHY)
    materialized(instance, line, **{stage: Digest.of(b"newer")})
    requests, words = tick(line, instance)
    assert requests == []
    assert f"{stage} is another by now" in words


def test_a_recipe_that_changed_since_asks_for_nothing(line: Line, instance: dg.DagsterInstance) -> None:
    materialized(instance, line)
    request = asked(line)
    for person in ("Ann", "Ben"):
        approve(line.registry, request, approver=person, reason=WHY)
    laxer = replace(line, config=line.config.model_copy(update={"release": ReleaseSection(approvals=1)}))
    requests, words = tick(laxer, instance)
    assert requests == []
    assert "the recipe changed since" in words


def test_a_request_that_ran_out_is_announced_once(line: Line, instance: dg.DagsterInstance) -> None:
    request = line.ask(at=datetime.now(UTC) - timedelta(days=8))
    assert f"request {request} expired undecided" in tick(line, instance)[1]
    assert tick(line, instance)[1] == "nothing waits for a release"
    assert line.events().count("human_approval.expired") == 1


def test_a_candidate_whose_gate_failed_is_quarantined(line: Line, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    uid = line.another_model(tmp_path, "second")
    line.log.log_event(
        "gate.decided", asset_key="example/safety_report", gate="safety", verdict="failed", outcome="fail", subject=uid,
        policy_digest=Digest.of(b"policy"), reason="9 of 300 unsafe, at most 8",
    )  # fmt: skip
    assert "quarantined: safety: 9 of 300 unsafe" in tick(line, instance)[1]
    row = line.registry.find_model(uid)
    assert row is not None
    assert row.stage == "quarantined"


def test_what_a_crash_left_is_put_right(line: Line, instance: dg.DagsterInstance) -> None:
    request = asked(line)

    class Full(Registry):
        def add_approval(self, **values: Any) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        approve(Full(line.registry.url), request, approver="Ann", reason=WHY, log=AuditLogger(str(line.directory)))
    assert "needs 1 more approvals" in tick(line, instance)[1]


def test_only_a_line_with_a_recipe_has_the_sensor() -> None:
    assert build_release_sensor(assets_line.Line("studio")) is None
