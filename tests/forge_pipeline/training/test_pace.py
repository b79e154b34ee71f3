"""Tokens a second and the time left, with a clock that the test turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.training.pace import Pace


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


def step(pace: Pace, clock: Hands, number: int, *, seconds: float, tokens: float) -> None:
    clock.now += seconds
    pace.step_done(number)
    pace.counted(tokens)


def test_before_the_first_step_nothing_is_known(clock: Hands) -> None:
    pace = Pace(clock)
    pace.begin(10)
    assert pace.metrics() == {}


def test_the_first_step_gives_a_rate_and_the_second_the_time_left(clock: Hands) -> None:
    pace = Pace(clock)
    pace.begin(10)
    step(pace, clock, 1, seconds=8, tokens=400)
    assert pace.metrics() == {"tokens": 400, "tokens_per_second": 50}
    step(pace, clock, 2, seconds=2, tokens=600)
    assert pace.metrics() == {"tokens": 600, "tokens_per_second": 100, "eta_seconds": 16}


def test_an_evaluation_lowers_no_rate_and_counts_in_the_time_left(clock: Hands) -> None:
    pace = Pace(clock)
    pace.begin(4)
    step(pace, clock, 1, seconds=1, tokens=100)
    step(pace, clock, 2, seconds=1, tokens=200)
    clock.now += 30
    pace.paused()
    step(pace, clock, 3, seconds=1, tokens=300)
    assert pace.metrics() == {"tokens": 300, "tokens_per_second": 100, "eta_seconds": 16}


def test_a_resumed_run_measures_its_own_steps_only(clock: Hands) -> None:
    pace = Pace(clock)
    pace.begin(10)
    step(pace, clock, 7, seconds=5, tokens=50)
    step(pace, clock, 8, seconds=1, tokens=60)
    assert pace.metrics()["eta_seconds"] == 2


def test_tokens_that_nobody_counts_leave_the_rate_out(clock: Hands) -> None:
    pace = Pace(clock)
    pace.begin(3)
    for number in (1, 2, 3):
        clock.now += 1
        pace.step_done(number)
    assert pace.metrics() == {"eta_seconds": 0}


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 10_000), st.booleans()), max_size=30), st.integers(0, 40))
def test_whatever_happens_the_figures_are_finite_and_not_negative(
    happened: list[tuple[float, int, bool]], total: int
) -> None:
    clock = Hands()
    pace, tokens = Pace(clock), 0
    pace.begin(total)
    for number, (seconds, more, pauses) in enumerate(happened, start=1):
        tokens += more
        step(pace, clock, number, seconds=seconds, tokens=tokens)
        if pauses:
            clock.now += seconds
            pace.paused()
        assert all(0 <= value < float("inf") for value in pace.metrics().values())
