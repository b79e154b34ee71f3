"""Fifty declared lines load, in time that grows with their number; the benchmark measures what it says."""

import sys
import time
from pathlib import Path

import pytest

from assets.definitions import build_definitions
from benchmarks.many_lines import Measured, measure, page, write_lines
from resources.home import Home


def seconds_to_load(folder: Path, count: int) -> tuple[float, int]:
    """CPU seconds, and the number of assets."""
    configs = Path(write_lines(folder, count)["FORGE_CONFIGS"])
    began = time.process_time()
    graph = build_definitions(configs, Home(folder), str(folder / "store")).resolve_asset_graph()
    return time.process_time() - began, len(graph.get_all_asset_keys())


def test_fifty_lines_load_in_time_that_grows_with_their_number(tmp_path: Path) -> None:
    seconds_to_load(tmp_path / "warm", 1)
    few, assets = seconds_to_load(tmp_path / "few", 5)
    many, all_assets = seconds_to_load(tmp_path / "many", 50)
    assert (all_assets - assets) / 45 == 10  # stages a line
    assert many < 3 * 10 * few, "it grows faster than the number of lines"
    assert many < 20


def test_each_line_asks_once_for_its_new_data_and_the_page_says_so(tmp_path: Path) -> None:
    environment = write_lines(tmp_path, 2)
    child = [sys.executable, "-W", "ignore", "-m", "benchmarks.many_lines", "--child"]
    load, ticks = (measure([*child, which], environment) for which in ("load", "tick"))
    assert (load.said["sensors"], load.said["schedules"]) == (4, 2)
    assert ticks.said["asked"] == 2
    assert len(ticks.said["first"]) == len(ticks.said["again"]) == 4
    assert load.cpu > 0.1
    assert load.peak_mb > 50
    text = page([Measured(2, (load,), (load,), ticks)], "this test")
    assert "| 2 | 30 |" in text
    assert "Written by `this test`" in text


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 3:\nwhy"):
        measure([sys.executable, "-c", "print('why'); raise SystemExit(3)"], {})
