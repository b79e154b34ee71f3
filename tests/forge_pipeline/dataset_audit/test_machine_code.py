"""Compiled loops that are kept: the same results from a file, nothing loaded that need not be, no file trusted blindly."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forge_pipeline.dataset_audit import machine_code

pytest.importorskip("numba")

NAME = "join_kernels"  # the module whose loops are compiled fastest


@pytest.fixture(scope="module")
def codes() -> Any:
    return machine_code._compiled(NAME)


@pytest.fixture
def compilations(codes: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that were compiled: really so once, since it takes seconds."""
    begun: list[str] = []

    def compiled(module: str) -> Any:
        begun.append(module)
        return codes

    monkeypatch.setattr(machine_code, "_compiled", compiled)
    return begun


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str]) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def fresh() -> Any:
    return machine_code.loops.__wrapped__(NAME)


def earlier_band(loops: Any) -> list[bool]:
    keys = np.array([[1, 2], [1, 3], [4, 3]], dtype=np.uint64)
    left, right = np.array([0, 0, 1], dtype=np.int64), np.array([1, 2, 2], dtype=np.int64)
    out = np.zeros(3, dtype=np.bool_)
    loops["in_earlier_band"](left, right, keys, 1, out)
    found: list[bool] = out.tolist()
    return found


def test_what_is_read_from_the_file_does_what_was_compiled(directory: Path, compilations: list[str]) -> None:
    assert earlier_band(fresh()) == [True, False, False]
    (kept,) = directory.iterdir()
    assert kept.name.startswith(f"{NAME}-")
    assert earlier_band(fresh()) == [True, False, False]
    assert compilations == [NAME]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "a byte changed": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "empty": lambda content: b"",
    "of another version": lambda content: content.replace(b"kept file 1", b"kept file 0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(directory: Path, damage: str) -> None:
    fresh()
    (kept,) = directory.iterdir()
    kept.write_bytes(DAMAGES[damage](kept.read_bytes()))
    assert machine_code._read(kept.name) is None
    assert earlier_band(fresh()) == [True, False, False]
    assert machine_code._read(kept.name) is not None


def test_where_nothing_can_be_written_loops_are_compiled_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    for _ in range(2):
        assert earlier_band(fresh()) == [True, False, False]
    assert compilations == [NAME] * 2


def test_what_cannot_be_kept_is_run_by_numba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(machine_code, "_ARRAY_FIELDS", ("laid", "out", "otherwise"))
    assert earlier_band(fresh()) == [True, False, False]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".machine-code"]


@pytest.mark.parametrize("part", ["settings", "sources"])
def test_other_sources_and_settings_have_other_files(
    directory: Path, part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = machine_code._key(NAME)
    if part == "settings":
        monkeypatch.setenv("NUMBA_OPT", "1")
    else:
        for name in ("machine_code", NAME):
            source = (machine_code._HERE / f"{name}.py").read_bytes()
            (tmp_path / f"{name}.py").write_bytes(source.replace(b"spare < 0", b"spare < 1"))
        monkeypatch.setattr(machine_code, "_HERE", tmp_path)
    assert machine_code._key(NAME) != before


def test_without_a_description_of_the_processor_llvm_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    name, features = machine_code._processor.__wrapped__()
    assert name
    assert features


WRONG: dict[str, Callable[[], Any]] = {
    "another dtype": lambda: np.zeros((3, 2), dtype=np.int32),
    "fewer dimensions": lambda: np.zeros(3, dtype=np.uint64),
    "not contiguous": lambda: np.zeros((3, 4), dtype=np.uint64)[:, ::2],
    "a list": lambda: [[1, 2]],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_loop_refuses_what_is_not_of_its_types(directory: Path, wrong: str) -> None:
    places = np.zeros(1, dtype=np.int64)
    with pytest.raises(TypeError, match="expected"):
        fresh()["in_earlier_band"](places, places, WRONG[wrong](), 1, np.zeros(1, dtype=np.bool_))


def test_a_loop_does_not_write_where_nothing_may_be_written(directory: Path) -> None:
    places, out = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_)
    out.flags.writeable = False
    with pytest.raises(TypeError, match="expected"):
        fresh()["in_earlier_band"](places, places, np.zeros((1, 1), dtype=np.uint64), 1, out)


SCRIPT = """
    import platform
    import sys
    from forge_pipeline.dataset_audit import reading, scan
    scan._COMPILED_FROM = 0
    from forge_pipeline.dataset_audit import audit_dataset
    report = audit_dataset(sys.argv[1], output_dir=sys.argv[2], dedup_method="minhash")
    assert report.total_samples == 40 and report.pii_summary == {"email": 40}, report
    from forge_pipeline.dataset_audit import machine_code
    assert machine_code.any_loaded(), "no compiled loop was used"
    without = {"numba", "pandas", "pyarrow.compute"} | ({"llvmlite"} if sys.platform == "linux" and platform.machine() == "x86_64" else set())
    print(*sorted(without & set(sys.modules)))
"""


def test_a_second_audit_loads_no_numba_llvm_or_pandas_and_no_python_functions_of_arrow(
    write_rows: Any, tmp_path: Path
) -> None:
    source = write_rows({"text": f"Row {number}: mail a{number}@b.org."} for number in range(40))
    script = textwrap.dedent(SCRIPT)
    for _ in range(2):
        command = [sys.executable, "-c", script, str(source), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
