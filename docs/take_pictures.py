"""Takes the tour's pictures of Dagster's UI: ``python -m docs.take_pictures DIRECTORY``.

DIRECTORY becomes a deployment whose line `support_bot` is trained on a tiny model with random weights: what the
pictures show is how it looks, not how good a model is. The line is run through `dagster asset materialize`, Dagster's
daemon evaluates its retraining sensor, and chromium looks at `dagster-webserver` on loopback. A second run with the
same DIRECTORY takes the pictures again without training.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.assets.conftest import rows, tiny_recipe
from tests.conftest import make_llama

CHECKOUT = Path(__file__).parents[1]
IMAGES = CHECKOUT / "docs" / "images"
LINE = "support_bot"
_WIDTH, _HEIGHT = 1280, 800
_MOST_BYTES = 250_000
_LOOK_EVERY = 15  # seconds between two ticks of the retraining sensor


def make_deployment(root: Path) -> None:
    """A model, rows, one recipe with automation, and Dagster's own folder."""
    for folder in ("configs", "dagster", "forge"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    texts = [message["content"] for row in rows() for message in row["messages"]]
    model = make_llama(root / "tiny-llama", texts, vocab_size=384, hidden_size=64)
    data = root / "tickets.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    recipe = tiny_recipe(model, data)
    recipe["owners"] = ["team:support"]
    recipe["training"] |= {"max_steps": 60, "eval_steps": 6, "learning_rate": 0.01}
    recipe["automation"] = {"cron": "0 3 * * 1", "on_new_data": True, "check_interval_seconds": _LOOK_EVERY}
    (root / "configs" / f"{LINE}.yaml").write_text(yaml.safe_dump(recipe))
    (root / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")


def environment(root: Path) -> dict[str, str]:
    """Only this deployment's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FORGE_", "DAGSTER_"))}
    return inherited | {
        "FORGE_HOME": str(root / "forge"),
        "FORGE_CONFIGS": str(root / "configs"),
        "DAGSTER_HOME": str(root / "dagster"),
        "FORGE_OPERATOR": "support-team",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run_line(root: Path) -> None:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "assets.definitions"]
    subprocess.run([*command, "--select", f"group:{LINE}"], env=environment(root), cwd=CHECKOUT, check=True)


@contextmanager
def running(command: list[str], environ: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of this deployment; it is ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environ), cwd=CHECKOUT, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def wait_for(is_so: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} after {seconds:.0f} s")
        time.sleep(1)


def take_pictures(root: Path, into: Path, only: list[str] | None = None) -> None:
    """Start the daemon and the webserver of the deployment, and look at its pages."""
    from playwright.sync_api import sync_playwright

    environ, port = environment(root), _free_port()
    address = f"http://127.0.0.1:{port}"
    module = ["-m", "assets.definitions"]
    tools = Path(sys.executable).parent
    webserver = [str(tools / "dagster-webserver"), *module, "-h", "127.0.0.1", "-p", str(port)]
    with (
        running([str(tools / "dagster-daemon"), "run", *module], environ, root / "daemon.log"),
        running(webserver, environ, root / "webserver.log"),
        sync_playwright() as tool,
    ):
        wait_for(lambda: _answers(address), 180, "dagster-webserver did not answer")
        wait_for(lambda: len(_ticks(address)) >= 2, 240, "the retraining sensor was not evaluated twice")
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light").new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_text("Hide navigation").click()  # kept by the browser
        wanted = {name: page for name, page in pages(_last_run(address)).items() if not only or name in only}
        for name, (path, is_there, prepare) in wanted.items():
            page.goto(address + path)
            page.get_by_text(is_there).first.wait_for()
            page.wait_for_load_state("networkidle")
            prepare(page)
            page.wait_for_timeout(1500)  # what slides in has come to rest
            page.screenshot(path=into / f"{name}.png")
            _shrink(into / f"{name}.png")
        browser.close()


def pages(run_id: str) -> dict[str, tuple[str, str, Callable[[Any], None]]]:
    """Name of a picture -> path, words that are there once it is drawn, and what is done before it is taken."""
    location = "/locations/__repository__@assets.definitions"
    model = f"/assets/{LINE}/fine_tuned_model"
    return {
        "lineage": (f"{location}/asset-groups/{LINE}", "released_model", _show_all),
        "fine_tuned_model": (f"{model}?view=overview", "usage/duration_seconds", _nothing),
        "loss-curve": (f"{model}?view=overview", "loss_curve", _show_curve),
        "checks": (f"{model}?view=checks", "loss_is_finite", _nothing),
        "run": (f"/runs/{run_id}", "annex_iv_bundle", _show_timeline),
        "sensor": (f"{location}/sensors/{LINE}_retraining", f"{LINE}_retraining", _nothing),
    }


def _nothing(page: Any) -> None:
    pass


def _show_all(page: Any) -> None:
    """The graph is fitted to the window's width alone: one step smaller, and a little down."""
    page.mouse.click(1253, 652)
    page.wait_for_timeout(1000)
    page.mouse.move(640, 560)
    page.mouse.down()
    page.mouse.move(630, 585, steps=5)
    page.mouse.up()


def _show_timeline(page: Any) -> None:
    """The steps over time alone, without the log below."""
    page.mouse.click(1059, 80)


def _show_curve(page: Any) -> None:
    row = page.get_by_role("row").filter(has_text="loss_curve")
    row.get_by_text("[Show Markdown]").click()
    page.get_by_alt_text("loss by step").wait_for()


def _shrink(file: Path) -> None:
    """To a palette of 256 colors, which a page of plain surfaces does not miss."""
    from PIL import Image

    with Image.open(file) as picture:
        reduced = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    reduced.save(file, optimize=True)
    if (size := file.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{file} has {size} bytes; at most {_MOST_BYTES} are wanted")


def _ask(address: str, query: str) -> dict[str, Any]:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer)["data"])


def _answers(address: str) -> bool:
    try:
        return bool(_ask(address, "{ version }")["version"])
    except OSError:
        return False


def _last_run(address: str) -> str:
    found = _ask(address, "{ runsOrError(limit: 1) { ... on Runs { results { runId } } } }")
    return str(found["runsOrError"]["results"][0]["runId"])


def _ticks(address: str) -> list[Any]:
    place = 'repositoryName: "__repository__", repositoryLocationName: "assets.definitions"'
    of = f'{place}, sensorName: "{LINE}_retraining"'
    found = _ask(
        address,
        f"{{ sensorOrError(sensorSelector: {{{of}}}) {{ ... on Sensor {{ sensorState {{ ticks {{ id }} }} }} }} }}",
    )
    return list(found["sensorOrError"].get("sensorState", {}).get("ticks", ()))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--into", type=Path, default=IMAGES)
    parser.add_argument("--only", nargs="*", help="names of pictures")
    arguments = parser.parse_args()
    root = arguments.directory.absolute()
    if not (root / "dagster").is_dir():
        make_deployment(root)
        run_line(root)
    arguments.into.mkdir(parents=True, exist_ok=True)
    take_pictures(root, arguments.into, arguments.only)


if __name__ == "__main__":
    main()
