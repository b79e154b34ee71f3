"""Retention: what is past its period goes, what the law or the lines need stays, and each says why."""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from forge_pipeline.audit_log import LOG_FILE, Vault, read_entries, verify_audit_log
from forge_pipeline.config import ForgeConfig
from forge_pipeline.erasure import check_retention, purge, read_tombstone, review
from forge_pipeline.errors import GateFailedError
from forge_pipeline.integrity import Digest, DirectoryArtifact
from tests.forge_pipeline.erasure.deployed import LINE, Deployment

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=400)


def recipe(deployment: Deployment, **retention: object) -> ForgeConfig:
    return deployment.recipe(deployment.root / "rows.jsonl", retention=retention)


def aged(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (OLD.timestamp(), OLD.timestamp()))
    return path


def report(
    deployment: Deployment, name: str, text: str, at: datetime, inputs: dict[str, Digest] | None = None
) -> Digest:
    folder = deployment._work() / name
    folder.mkdir()
    (folder / "report.json").write_text(f'{{"text": "{text}"}}')
    return deployment.publish(name, DirectoryArtifact.open(folder), inputs or {}, at=at)


FOLDERS = {
    "scratch of a run": ("work", "home/work/run-x/step/spec.json"),
    "a model that waits": ("staging", "runs/run-0001/final_model.staging/forge_model.json"),
    "a cache": ("cache", "home/cache/tokenized/ab/cdef/dataset/summary.json"),
    "progress": ("cache", "home/progress/run.jsonl"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_what_is_past_its_period_is_listed_and_goes_when_asked(case: str, deployment: Deployment) -> None:
    kind, name = FOLDERS[case]
    old = aged(deployment.root / name)
    (deployment.root / "runs").mkdir(exist_ok=True)
    config = recipe(deployment)
    places = type(deployment.places).of(deployment.home, recipes=[config])
    found = review(config, places)
    assert [item.kind for item in found.due] == [kind]
    assert old.exists()
    assert purge(found, places).purged
    assert not old.exists()
    assert review(config, places).due == ()


def test_what_is_young_stays(deployment: Deployment) -> None:
    (deployment.home / "work" / "run").mkdir(parents=True)
    report(deployment, "safety_report", "new", NOW)
    assert review(recipe(deployment), deployment.places).due == ()


def test_an_old_artefact_goes_and_leaves_a_tombstone_and_an_entry(deployment: Deployment) -> None:
    old = report(deployment, "safety_report", "old", OLD)
    latest = report(deployment, "safety_report", "new", NOW)
    found = review(recipe(deployment), deployment.places)
    assert [item.digest for item in found.due] == [old]
    purge(found, deployment.places)
    tombstone = read_tombstone(deployment.store.path(old))
    assert tombstone is not None
    assert (tombstone.reason, tombstone.artifact) == ("retention", old)
    entry = read_entries(deployment.home / "erasure" / LOG_FILE)[tombstone.seq]
    assert (entry.event, entry.data["digests"]) == ("retention.purged", [old])
    assert read_tombstone(deployment.store.path(latest)) is None


def test_what_the_latest_was_made_from_is_kept_however_old(deployment: Deployment) -> None:
    source = report(deployment, "raw_dataset", "source", OLD)
    report(deployment, "fine_tuned_model", "model", OLD, {"raw_dataset": source})
    report(deployment, "raw_dataset", "newer", NOW)
    found = review(recipe(deployment), deployment.places)
    assert found.due == ()
    assert {item.kept_because for item in found.kept} == {"the latest of a line was made from it"}


RELEASES: dict[str, tuple[date | None, bool]] = {
    "nobody declared the day": (None, True),
    "placed a year ago": (NOW.date() - timedelta(days=365), True),
    "placed eleven years ago": (NOW.date() - timedelta(days=365 * 11), False),
    "placed on a 29 February": (date(2024, 2, 29), True),
}


@pytest.mark.parametrize("case", RELEASES)
def test_the_documentation_of_a_released_model_is_kept_for_ten_years(case: str, deployment: Deployment) -> None:
    placed_on, stays = RELEASES[case]
    source = report(deployment, "raw_dataset", "source", OLD)
    model = report(deployment, "fine_tuned_model", "model", OLD, {"raw_dataset": source})
    measured = report(deployment, "safety_report", "measured", OLD, {"fine_tuned_model": model})
    for stage in ("raw_dataset", "fine_tuned_model", "safety_report"):
        report(deployment, stage, "newer", NOW)
    deployment.log.log_event("model.released", subject=model)
    found = review(recipe(deployment), deployment.places, placed_on=placed_on)
    named = {item.digest for item in (found.kept if stays else found.due)}
    assert named == {source, model, measured}
    assert all("Art. 18(1)" in (item.kept_because or "") for item in found.kept)


def test_artefacts_of_another_line_are_not_this_recipes_to_delete(deployment: Deployment) -> None:
    report(deployment, "safety_report", "old", OLD)
    report(deployment, "safety_report", "new", NOW)
    other = recipe(deployment).model_copy(update={"name": "other"})
    assert review(other, deployment.places).due == ()


def test_old_openings_are_shredded_and_the_log_stays_valid(deployment: Deployment) -> None:
    deployment.log.log_event("acme.note", personal={"about": "somebody"}, number=1)
    config = recipe(deployment, audit_log_retention_days=30)
    assert review(config, deployment.places).due == ()
    later = NOW + timedelta(days=40)
    found = review(config, deployment.places, at=later)
    assert [(item.kind, item.count) for item in found.due] == [("opening", 1)]
    purge(found, deployment.places)
    assert Vault(deployment.log.log_path.parent / "vault.sqlite").openings() == []
    assert verify_audit_log(deployment.log.log_path).valid


ENFORCED = {"log_only": False, "warn_on_excess": False, "block_on_excess": True}


@pytest.mark.parametrize("enforce", ENFORCED)
def test_excess_blocks_where_the_recipe_says_so(enforce: str, deployment: Deployment) -> None:
    aged(deployment.home / "work" / "run" / "x")
    found = review(recipe(deployment, enforce=enforce), deployment.places)
    assert found.blocks is ENFORCED[enforce]
    if ENFORCED[enforce]:
        with pytest.raises(GateFailedError, match="forge retention"):
            check_retention(found)
    check_retention(purge(found, deployment.places))


def test_what_has_been_purged_is_not_counted_again(deployment: Deployment) -> None:
    report(deployment, "safety_report", "old", OLD)
    report(deployment, "safety_report", "new", NOW)
    config = recipe(deployment)
    purge(review(config, deployment.places), deployment.places)
    assert review(config, deployment.places).due == ()
    assert config.name == LINE
