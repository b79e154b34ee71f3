"""What is installed: the same answer as importlib.metadata, without reading every file."""

import re
from importlib.metadata import distributions
from pathlib import Path

from forge_pipeline.attestation import installed_packages, licensed, packages_digest


def test_the_list_is_what_importlib_finds() -> None:
    theirs: dict[str, str] = {}
    for each in distributions():
        theirs.setdefault(re.sub(r"[-_.]+", "-", each.name).lower(), each.version)
    assert installed_packages() == dict(sorted(theirs.items()))


def test_the_first_on_the_path_counts(tmp_path: Path) -> None:
    for folder, name in (
        ("one", "My_Pack.age-1.0.dist-info"),
        ("two", "my_pack_age-2.0.dist-info"),
        ("two", "other-3.egg-info"),
    ):
        (tmp_path / folder / name).mkdir(parents=True)
    (tmp_path / "two" / "not-a-package.txt").write_text("")
    found = installed_packages([str(tmp_path / "one"), str(tmp_path / "gone.zip"), str(tmp_path / "two")])
    assert found == {"my-pack-age": "1.0", "other": "3"}


def test_the_digest_does_not_depend_on_the_order() -> None:
    assert packages_digest({"a": "1", "b": "2"}) == packages_digest({"b": "2", "a": "1"})


def test_a_licence_is_taken_only_from_the_same_version() -> None:
    version = installed_packages()["pytest"]
    (same,) = licensed({"pytest": version})
    (other,) = licensed({"pytest": "0.0.1"})
    (absent,) = licensed({"no-such-package-anywhere": "1"})
    assert (same.license, other.license, absent.license) == ("MIT", None, None)
