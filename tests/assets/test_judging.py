"""A line whose recipe asks for a judge and names labeled answers: two more assets, in the gates and in the bundle."""

from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_line
from assets.line import Line
from assets.safety import policy_on_record
from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.integrity import Digest
from forge_pipeline.release import required_gates


def recipe(**evaluation) -> ForgeConfig:
    return ForgeConfig(
        name="judged", model={"name_or_path": "owner/base"}, lora={}, training={},
        data={"dataset_name_or_path": "rows.jsonl"}, evaluation=evaluation,
    )  # fmt: skip


def depends_on(config: ForgeConfig, stage: str) -> set[str]:
    for asset in build_line(Line("judged", None, config)).assets or ():
        if asset.key == dg.AssetKey(["judged", stage]):
            return {key.path[-1] for key in asset.dependency_keys}
    raise AssertionError(stage)


@pytest.mark.parametrize("stage", ["gguf_model", "annex_iv_bundle", "released_model"])
def test_what_follows_the_judge_reads_its_report(stage):
    assert "judge_report" in depends_on(recipe(llm_judge={"enabled": True}), stage)
    assert "judge_report" not in depends_on(recipe(), stage)


def test_nothing_is_released_without_the_verdict_of_the_judge_that_the_recipe_asks_for():
    assert "judge" in required_gates(recipe(llm_judge={"enabled": True}))
    assert "judge" not in required_gates(recipe(llm_judge={"enabled": False}))


def test_the_safety_report_reads_the_calibration():
    safety = {"enabled": True, "calibration": "pyrit"}
    assert "scorer_calibration" in depends_on(recipe(safety=safety), "safety_report")
    assert "scorer_calibration" not in depends_on(recipe(safety={"enabled": True}), "safety_report")


def test_only_a_policy_from_before_the_model_counts(tmp_path):
    class Model:
        digest = Digest.of(b"model")

    config, log = recipe(safety={"enabled": True}), AuditLogger(str(tmp_path), run_id="r")

    def fix(terms):
        digest = Digest.of(terms.encode())
        log.log_event(
            "safety.policy_fixed", config_digest=config_digest(config), safety_policy_digest=digest, policy={"t": terms}
        )

    assert policy_on_record(log.log_path, config, Model) == {}
    fix("first")
    fix("second")
    log.log_event(
        "artifact.materialized", asset_key="judged/fine_tuned_model", digest=Model.digest, files=1, inputs={},
        code_version="1", kind="model",
    )  # fmt: skip
    fix("afterwards")
    assert policy_on_record(Path(log.log_path), config, Model) == {"t": "second"}
    assert policy_on_record(Path(log.log_path), recipe(), Model) == {}
