"""The attack table that the documentation shows, row by row: what is noticed, and what is honestly missed."""

from pathlib import Path

import pytest

from benchmarks.log_attacks import ATTACKS, COLUMNS, Scene, matrix, table, with_every_anchor
from forge_pipeline.audit_log import verify_audit_log


@pytest.fixture(scope="session")
def scenes(tmp_path_factory, signing_key) -> dict[str, Scene]:
    """The scene of each column before any attack."""
    place: Path = tmp_path_factory.mktemp("scenes")
    keyless, signed = Scene.write(place / "keyless", None), Scene.write(place / "signed", signing_key)
    return {column: signed if column.startswith("signed") else keyless for column in COLUMNS}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("attack", "noticed"), ATTACKS.values(), ids=ATTACKS.keys())
def test_attack(attack, noticed, column, scenes, tmp_path) -> None:
    scene = scenes[column].copy_to(tmp_path / "scene")
    anchored = column.endswith("anchored")
    assert not scene.is_noticed(anchored=anchored)
    attack(scene)
    assert scene.is_noticed(anchored=anchored) is noticed[COLUMNS.index(column)]


@pytest.mark.parametrize("column", COLUMNS)
def test_nothing_kept_in_one_hand_helps_against_that_hand(column, scenes, tmp_path) -> None:
    scene = with_every_anchor(scenes[column].copy_to(tmp_path / "scene"))
    assert not scene.is_noticed(anchored=column.endswith("anchored"))


def test_what_an_anchor_does_not_cover_is_said(scenes, tmp_path) -> None:
    scene = scenes["keyless, anchored"].copy_to(tmp_path / "scene")
    ATTACKS["forge an approval under another run, rebuild"][0](scene)
    result = verify_audit_log(scene.log.path, checkpoint=scene.anchor)
    assert result.valid
    assert any("entries after 7 were cut off or put back" in sentence for sentence in result.not_checked)
    assert any("who wrote the entries after entry 7" in sentence for sentence in result.not_checked)


def test_the_table_that_is_printed_is_the_one_that_is_claimed(tmp_path, signing_key) -> None:
    found = matrix(tmp_path, signing_key)
    print(table(found))
    assert found == {name: noticed for name, (_, noticed) in ATTACKS.items()}
    assert all(any(row[1:]) or row == (False,) * 4 for row in found.values())
