"""What the five-minute start and the how-tos say to type is true: commands parse, Python runs, YAML is a recipe's."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.annex_iv import build_example_bundle
from forge_pipeline.cli.main import build_parser, main
from forge_pipeline.cli.templates import templates
from forge_pipeline.config import ForgeConfig
from tests.docs.conftest import CHECKOUT

PAGES = [CHECKOUT / "docs" / "quickstart.md", *sorted((CHECKOUT / "docs" / "howto").glob("*.md"))]
OTHER_TOOLS = ("cd", "chmod", "export", "hf", "openssl", "python", "unzip")
RECIPE = {
    "name": "example",
    "model": {"name_or_path": "./model"},
    "lora": {},
    "training": {"trainer_type": "sft"},
    "data": {"dataset_name_or_path": "data/support.jsonl"},
}


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of the page's shell blocks, as words; `a && b` are two."""
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                yield words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            if words:
                yield words


def test_there_is_something_to_check() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 40
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 6
    assert sum(len(blocks(page, "yaml")) for page in PAGES) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_one_that_there_is(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for tool, *arguments in commands(page):
        name = tool.rsplit("/", 1)[-1]
        if name == "forge":
            try:
                build_parser().parse_args(arguments)
            except SystemExit:
                pytest.fail(f"{shlex.join([tool, *arguments])}: {capsys.readouterr().err}")
        elif name == "make":
            assert set(arguments) <= targets
        elif name == "dagster":
            assert arguments[:2] == ["asset", "materialize"]
            group = arguments[arguments.index("--select") + 1].removeprefix("group:")
            assert (CHECKOUT / "configs" / f"{group}.yaml").is_file()
        else:
            assert name in OTHER_TOOLS, tool


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_example_bundle(tmp_path_factory.mktemp("example") / "bundle").parent


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "support.jsonl").write_bytes(templates()["support-bot"].sample("support.jsonl"))
    (tmp_path / "bundle").symlink_to(bundle)
    for tool, *arguments in commands(page):
        if tool.endswith("forge") and arguments[0] == "quickstart":
            assert main(arguments) == 0
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.stem)
def test_the_yaml_of_a_page_is_part_of_a_recipe(page: Path) -> None:
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        named = _with_digests(values)
        ForgeConfig(**_merged(RECIPE, named))


def _with_digests(value: Any, seen: list[int] | None = None) -> Any:
    """Each ``sha256:...`` that stands for a digest becomes one, every one another."""
    seen = [0] if seen is None else seen
    if isinstance(value, dict):
        return {key: _with_digests(each, seen) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_digests(each, seen) for each in value]
    if value == "sha256:...":
        seen[0] += 1
        return f"sha256:{seen[0]:064x}"
    return value


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _merged(below.get(key), each) for key, each in above.items()}
