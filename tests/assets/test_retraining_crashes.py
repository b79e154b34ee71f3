"""Exactly one run for each dataset digest, with the daemon killed at every point of a tick, and the run's worker too."""

import pytest

from tests.assets.daemon_ticks import POINTS, World, empty_home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return empty_home(tmp_path_factory.mktemp("dagster") / "home")


@pytest.fixture
def world(tmp_path, home) -> World:
    made = World(tmp_path, home)
    made.write("first rows")
    return made


def digests(world: World) -> list[str]:
    """What each run was asked for, oldest first, by the first characters of the data's digest."""
    return [run.tags["forge/causes"] for run in world.runs()]


@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_killed_anywhere_in_a_tick_starts_the_run_once(world, point):
    world.tick(crash_at=point)
    assert len(world.runs()) <= 1
    world.tick()
    assert world.statuses() == ["QUEUED"]


def test_a_daemon_killed_at_one_point_after_another_starts_the_run_once(world):
    for point in ("TICK_CREATED", "RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED"):
        world.tick(crash_at=point)
    world.tick()
    world.tick()
    assert world.statuses() == ["QUEUED"]


def test_each_new_digest_is_trained_on_once_and_an_old_one_that_comes_back_is_new_again(world):
    for number, text in enumerate(("first rows", "second rows", "first rows"), start=1):
        world.write(text)
        world.tick()
        world.tick()  # while it waits in the queue
        assert len(world.runs()) == number
        world.work()
        if number == 2:
            world.forget_cursor()
        world.tick()
    assert world.statuses() == ["SUCCESS"] * 3
    assert len(set(digests(world))) == 2


def test_a_run_whose_worker_is_killed_is_found_dead_and_asked_for_again_until_it_succeeds(world):
    world.tick()
    world.work(kill=True)
    assert world.statuses() == ["STARTED"]  # nobody is left to say otherwise
    world.tick()
    assert world.statuses() == ["FAILURE"]
    world.tick(crash_at="RUN_CREATED")
    world.tick()
    assert world.statuses() == ["FAILURE", "QUEUED"]
    world.work()
    world.tick()
    assert world.statuses() == ["FAILURE", "SUCCESS"]
    assert len(set(digests(world))) == 1
    assert [run.tags["forge/attempt"] for run in world.runs()] == ["1", "2"]


def test_a_run_that_a_person_canceled_is_not_asked_for_again_and_new_data_is(world):
    world.tick()
    world.cancel(world.runs()[0].run_id)
    world.tick()
    assert world.statuses() == ["CANCELED"]
    world.write("other rows")
    world.tick()
    assert world.statuses() == ["CANCELED", "QUEUED"]
