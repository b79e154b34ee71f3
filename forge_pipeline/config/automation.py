"""The `automation:` section: what starts a line without a person, and how often it may try."""

import re
from functools import cache
from typing import Literal
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from forge_pipeline.config._base import Section

CatchUp = Literal["latest", "none", "all"]
StageName = Literal[
    "recipe", "synthetic_dataset", "raw_dataset", "clean_dataset", "dataset_audit_report", "tokenized_dataset",
    "fine_tuned_model", "benchmark_report", "scorer_calibration", "safety_report", "judge_report", "gguf_model",
    "annex_iv_bundle", "released_model", "published_model",
]  # fmt: skip

# POSIX crontab(5): names and ranges of the five fields. 7 is Sunday too.
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_SHORT = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days
_PART = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")


class ScheduleSection(Section):
    """One more schedule, of the whole line or of some of its stages."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    cron: str
    timezone: str | None = None
    """IANA name; None: the section's own."""
    stages: list[StageName] = []
    """Stages to materialize; empty: the whole line."""
    catch_up: CatchUp | None = None
    """As `automation.catch_up`; None: what is said there."""

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        return check_cron(value)

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        return value if value is None else check_timezone(value)


class DriftSection(Section):
    """How far recent data may differ from the data that the line was trained on."""

    data: str
    """Recent rows, such as a file of logged prompts: whatever `data.dataset_name_or_path` may name."""
    max_length_psi: float = Field(default=0.2, gt=0.0)
    """Largest population stability index of text lengths, over the deciles of the training data."""
    max_length_ks: float = Field(default=0.2, gt=0.0, le=1.0)
    """Largest Kolmogorov-Smirnov distance between the two distributions of text lengths."""
    max_language_psi: float = Field(default=0.2, gt=0.0)
    """Largest population stability index of the shares of languages."""
    rows: int = Field(default=5000, ge=100, le=100_000)
    """Rows of either side that are looked at: the last ones of the recent data, evenly spread ones of training."""
    min_rows: int = Field(default=200, ge=30)
    """With fewer recent rows nothing is said."""
    retrain: bool = True
    """Retrain where a limit is passed; false: write the report and the log entry only."""


class FallingMetricSection(Section):
    """How much worse the newest model may do in its benchmark than when it was new."""

    task: str | None = None
    """Task of `evaluation.benchmark` that is watched, by the name in its report; None: the average over the tasks."""
    max_drop: float = Field(gt=0.0)
    """Largest fall, in the metric's own unit: 0.05 is five points of a share. For a perplexity it is the rise."""
    min_items: int = Field(default=100, ge=1)
    """With fewer items in either report nothing is said."""
    retrain: bool = True
    """Retrain where the limit is passed; false: write the report and the log entry only."""


class AutomationSection(Section):
    """What starts this line without a person."""

    cron: str | list[str] | None = None
    """One cron line or several of which any starts the whole line, for example ``0 3 * * 1``."""
    timezone: str = "UTC"
    """IANA name of the zone that cron lines are read in; an hour that daylight saving skips or repeats runs once."""
    catch_up: CatchUp = "latest"
    """What is done about times that passed while the scheduler was down: start the ``latest`` of them once, ``none``,
    or ``all`` (of which Dagster itself keeps the last five)."""
    schedules: list[ScheduleSection] = []
    """Further schedules, each under a name of its own."""
    on_new_data: bool = False
    """Retrain when the dataset's files change."""
    on_erasure: bool = False
    """Retrain when data that the newest model was trained on was erased."""
    on_code_change: bool = False
    """Retrain when the code or the sections of the recipe that training reads have changed."""
    max_age_days: float | None = Field(default=None, gt=0.0)
    """Age at which the newest model is stale."""
    warn_age_days: float | None = Field(default=None, gt=0.0)
    """Age at which Dagster warns that it will be; None: at nine tenths."""
    on_stale: bool = False
    """Retrain when the newest model is stale; needs `max_age_days`."""
    drift: DriftSection | None = None
    """Compare recent data with the training data, and retrain where it has moved too far."""
    falling_metric: FallingMetricSection | None = None
    """Compare the newest benchmark of the newest model with its first, and retrain where it has fallen too far. Let one
    of `schedules` measure again; with ``raw_dataset`` among its stages ``held_out`` asks rows of the newest data."""
    refresh_documents: bool = False
    """Make the bundle again, without training, when what it says of the recipe or the code has changed."""
    check_interval_seconds: int = Field(default=60, ge=10)
    """Seconds between two looks."""
    settle_seconds: int = Field(default=10, ge=0)
    """Seconds for which files must have stayed as they are, so that a half-written file starts nothing."""
    max_attempts: int = Field(default=3, ge=1, le=20)
    """Runs that one cause may start, where the ones before were killed. A stage that fails is not tried again."""
    retry_wait_seconds: int = Field(default=60, ge=0)
    """Seconds before the second attempt; twice as many before each further one."""
    max_runtime_hours: float | None = Field(default=None, gt=0.0)
    """Hours after which Dagster's run monitoring ends a run that automation has started; None: never."""

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str | list[str] | None) -> str | list[str] | None:
        for line in [value] if isinstance(value, str) else value or ():
            check_cron(line)
        if isinstance(value, list) and not value:
            raise ValueError("expected at least one cron line; remove the key for none")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return check_timezone(value)

    @model_validator(mode="after")
    def _fields_agree(self) -> "AutomationSection":
        names = [each.name for each in self.schedules]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"schedules: {', '.join(sorted(repeated))} is there twice; give each a name of its own")
        if self.on_stale and self.max_age_days is None:
            raise ValueError("on_stale is true but nothing says when a model is stale; set max_age_days")
        if self.warn_age_days and self.warn_age_days >= (self.max_age_days or 0):
            raise ValueError("warn_age_days must be below max_age_days")
        return self

    @property
    def retrains(self) -> bool:
        """Whether anything but a schedule starts a run."""
        asked = (self.on_new_data, self.on_erasure, self.on_code_change, self.on_stale)
        return any(asked) or self.drift is not None or self.falling_metric is not None


def check_cron(line: str) -> str:
    """The line itself.

    Raises:
        ValueError: It is no crontab(5) line of five fields, nor one of the short names; says which field is wrong.
    """
    if line in _SHORT:
        return line
    fields = line.split()
    if len(fields) != len(_FIELDS):
        names = ", ".join(_SHORT)
        raise ValueError(f"expected five cron fields, for example '0 3 * * 1', or one of {names}")
    meant: list[set[int]] = []
    for text, (name, first, last, words) in zip(fields, _FIELDS, strict=True):
        values = [_values(part, first, last, words) for part in text.lower().split(",")]
        if not all(values):
            raise ValueError(f"{text!r} is not a {name}: expected numbers from {first} to {last}, *, - or /")
        meant.append({value for part in values for value in part})
    if min(meant[2]) > max(_LONGEST[month - 1] for month in meant[3]):
        raise ValueError(f"the day {fields[2]!r} never comes in the month {fields[3]!r}")
    return line


def _values(part: str, first: int, last: int, words: tuple[str, ...]) -> set[int]:
    """The numbers that one part of a field means; empty for one that is none."""
    found = _PART.fullmatch(part)
    if found is None:
        return set()
    begin, end, step = found.groups()
    low, high = _number(begin, first, words), _number(end or begin, first, words)
    if begin == "*" and not end:
        low, high = first, last
    if low is None or high is None or not first <= low <= high <= last or (step and not int(step)):
        return set()
    return set(range(low, high + 1, int(step or 1)))


def _number(text: str, first: int, words: tuple[str, ...]) -> int | None:
    if text in words:
        return first + words.index(text)
    return int(text) if text.isdecimal() else None


@cache  # it reads a directory of six hundred files
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def check_timezone(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: The time zone database does not know it.
    """
    if name not in _time_zones():
        raise ValueError("is no time zone of the IANA database, for example Europe/Berlin or UTC")
    return name
