"""What starts a line without a person: its recipe's `automation:` section, as schedules and sensors."""

from typing import NamedTuple

import dagster as dg

from assets.freshness import build_refresh_sensor
from assets.line import Line
from assets.retraining import build_retraining_sensor
from assets.schedules import build_schedules


class Automation(NamedTuple):
    """What one line's recipe asks for; both are empty for a recipe that asks for nothing, and for the studio line."""

    schedules: list[dg.ScheduleDefinition]
    sensors: list[dg.SensorDefinition]


def build_automation(line: Line, job_name: str) -> Automation:
    """The schedules and sensors of a line, which start `job_name`."""
    sensors = [build_retraining_sensor(line, job_name), build_refresh_sensor(line.name, line.config)]
    return Automation(build_schedules(line, job_name), [sensor for sensor in sensors if sensor is not None])
