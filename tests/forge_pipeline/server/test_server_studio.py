"""The studio in a browser, over a server whose jobs really train a tiny model.

Every test also holds that nothing is asked of another origin, that the page's policy is never violated, and that
nothing is written to the console.
"""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.server.launchers import RunState
from tests.forge_pipeline.server.served import (
    PREFERENCES,
    TRAINABLE,
    Studio,
    in_thread,
    jsonl,
    settings_for,
    wait_for,
)
from tests.forge_pipeline.server.shelved import shelve
from tests.forge_pipeline.server.small_line import small_line
from tests.forge_pipeline.server.test_server_export import Launcher, write_recipe

pytestmark = pytest.mark.browser

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
SECTIONS = (
    "datasets",
    "datasets/rows.jsonl",
    "training",
    "jobs",
    "jobs/{job}",
    "models",
    "models/{model}",
    "chat",
    "approvals",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as tool:
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def studio(browser: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Studio]:
    process = small_line(tmp_path_factory.mktemp("studio"), tiny_model.parent)
    studio = process.start()
    try:
        assert studio.upload("rows.jsonl", jsonl(TRAINABLE)).json()["filename"] == "rows.jsonl"
        wait_for(lambda: studio.get("/api/health").json()["launcher"] == "ready", timeout=120)
        yield studio
    finally:
        process.stop()


@pytest.fixture(scope="module")
def trained(studio: Studio, tiny_model: Path) -> dict[str, Any]:
    """A job that has ended, and its model: an earlier test's, or one that is trained now."""
    ended = studio.get("/api/jobs?status=completed").json()["jobs"]
    if ended:
        return {"job": ended[0]["job_id"], "model": ended[0]["model_id"]}
    settings = {
        "num_train_epochs": 10,
        "max_seq_length": 96,
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 3,
    }
    job = studio.queue(model_name=str(tiny_model), **settings).json()["job_id"]
    done = studio.until_job(job, "completed", "failed", timeout=240)
    assert done["status"] == "completed", done["error"]
    return {"job": job, "model": done["model_id"]}


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.problems = []
    page.on("console", lambda message: message.type in ("error", "warning") and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            origin(asked.url) == origin(page.url) or page.url == "about:blank" or page.problems.append(asked.url)
        ),
    )
    yield page
    context.close()
    assert page.problems == []


def origin(url: str) -> str:
    return "/".join(url.removeprefix("blob:").split("/")[:3])


expect = playwright.expect
expect.set_options(timeout=30_000)


def test_a_person_uploads_trains_watches_asks_and_downloads(
    studio: Studio, page: Any, tiny_model: Path, tmp_path: Path
) -> None:
    page.goto(studio.url)
    expect(page.locator("#health")).to_contain_text("ready")

    (bad := tmp_path / "with errors.jsonl").write_text('{"question": 1}\nno json\n')
    page.set_input_files("#file", bad)
    expect(page.locator("#data-note")).to_contain_text("2 lines of 2 cannot be used")
    expect(page.locator("#line-errors tbody tr")).to_have_count(2)
    expect(page.locator("#line-errors tbody tr").nth(1)).to_contain_text("2is not valid JSON")

    (rows := tmp_path / "from the browser.jsonl").write_bytes(jsonl(TRAINABLE))
    page.set_input_files("#file", rows)
    expect(page.locator("#data-note")).to_contain_text("from_the_browser.jsonl: 12 rows of (input, output)")
    page.get_by_role("link", name="Train with it").first.click()

    expect(page.locator("#dataset")).to_have_value("from_the_browser.jsonl")
    assert page.locator("h1").evaluate("heading => heading === document.activeElement")
    page.fill("#model_name", str(tiny_model))
    page.get_by_label("All fields").check()
    page.fill("#field-num_train_epochs", "20000")
    expect(page.locator("#field-num_train_epochs")).to_have_attribute("aria-invalid", "true")
    for name, value in {
        "num_train_epochs": 12,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 1,
        "max_seq_length": 96,
    }.items():
        page.fill(f"#field-{name}", str(value))
    expect(page.locator("#fit")).to_contain_text("It fits", timeout=90_000)
    page.reload()
    expect(page.locator("#field-num_train_epochs")).to_have_value("12")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#start-note")).to_contain_text("Training started")
    expect(page.locator("#state")).to_have_text("training", timeout=90_000)
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    expect(page.locator("#state")).to_have_text("completed", timeout=90_000)
    # What was watched live is in the end the curve that somebody who comes later sees, made from the job's log.
    later = page.context.new_page()
    later.goto(page.url)
    expect(later.locator("#now loss-curve")).to_have_attribute("aria-label", re.compile("on held-out rows"))
    assert int(later.locator("#now loss-curve").get_attribute("data-points")) > 5
    whole = later.locator("#now loss-curve").get_attribute("aria-label")
    later.close()
    expect(page.locator("#now loss-curve")).to_have_attribute("aria-label", whole)

    page.get_by_role("link", name="See the model").click()
    page.locator("#models tbody a").first.click()
    expect(page.locator("#metrics")).to_contain_text("Perplexity")
    with page.expect_download() as download:
        page.locator("#downloads tr", has_text="as it was trained").get_by_role("button").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert any(name.endswith(".safetensors") for name in archive.namelist())

    page.get_by_role("link", name="Chat with it").click()
    page.fill("#system", "Be short.")
    page.fill("#set-max_new_tokens", "12")
    page.fill("#set-temperature", "0")
    page.fill("#ask-prompt", "How much is 2 and 2?")
    page.press("#ask-prompt", "Enter")
    expect(page.locator(".answer.done")).to_have_count(2, timeout=90_000)
    expect(page.locator("#ask-prompt")).to_have_value("")
    asked = {
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "How much is 2 and 2?"}],
        "max_tokens": 12,
        "temperature": 0,
        "top_p": 0.9,
    }
    model = page.url.partition("model=")[2]
    for side, name in {"tuned": model, "base": f"{model}:base"}.items():
        said = studio.post("/v1/chat/completions", json=asked | {"model": name}).json()["choices"][0]["message"][
            "content"
        ]
        shown = page.locator(f".answer.{side} .said").evaluate("element => element.textContent")
        assert shown.strip() == (said.strip() or "(no answer)")


def test_a_dataset_is_seen_with_what_the_audit_found(studio: Studio, page: Any) -> None:
    secret = {"prompt": "Write to ann.smith@example.org", "completion": "My number is +49 30 901820."}
    studio.upload(
        "people.jsonl",
        jsonl(
            [{"prompt": f"Question {i}", "completion": f"Answer {i} is long enough."} for i in range(12)]
            + [secret, secret]
        ),
    )
    page.goto(f"{studio.url}/#/datasets/people.jsonl")
    expect(page.get_by_text("Every line can be used.")).to_be_visible()
    expect(page.locator(".preview dl")).to_have_count(5)
    expect(page.locator("#audit")).to_have_attribute("data-state", "ready", timeout=90_000)
    expect(page.locator("#audit .histogram rect")).not_to_have_count(0)
    expect(page.locator("#audit", has_text="Exact repeats")).to_contain_text("email")
    with page.context.expect_page() as report:
        page.get_by_role("link", name="Open the whole report").click()
    expect(report.value.locator("body")).to_contain_text("people")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#datasets")).not_to_contain_text("people.jsonl")


def test_a_job_is_stopped_and_done_again(studio: Studio, page: Any, tiny_model: Path) -> None:
    job = studio.queue(model_name=str(tiny_model), num_train_epochs=10_000).json()["job_id"]
    studio.until_job(job, "training")
    page.goto(f"{studio.url}/#/training")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#now-note")).to_contain_text(f"{job} was stopped", timeout=60_000)
    page.get_by_role("link", name="Log and details").click()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("link", name=job)).to_be_visible()
    again = page.url.rpartition("/")[2]
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#jobs-note")).to_contain_text(f"{again} is stopped", timeout=60_000)
    assert [studio.job(each)["status"] for each in (job, again)] == ["stopped", "stopped"]


def test_every_section_fits_a_phone_and_a_screen_reader(studio: Studio, page: Any, trained: dict[str, Any]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.goto(studio.url)
    for width, scheme in ((360, "light"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": 740})
        page.emulate_media(color_scheme=scheme)
        for section in SECTIONS:
            page.goto(f"{studio.url}/#/{section.format(**trained)}")
            expect(page.locator("main h1")).to_be_visible()
            page.wait_for_load_state("networkidle")
            beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert beyond <= 0, f"{section}: {beyond} pixels beyond {width}"
            found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa"], "resultTypes": ["violations"]}).response[
                "violations"
            ]
            assert not found, (
                f"{section}: {json.dumps([(each['id'], [node['html'] for node in each['nodes']][:3]) for each in found])}"
            )


def test_a_key_is_asked_for_and_stored_nowhere(browser: Any, page: Any, tmp_path: Path) -> None:
    key = {"name": "ann", "scope": "admin", "sha256": hashlib.sha256(b"secret-key").hexdigest()}
    with in_thread(settings_for(tmp_path / "data", api_keys=(key,))) as keyed:
        page.goto(f"{keyed.url}/#/training")
        page.fill("#key", "secret-key")
        page.press("#key", "Tab")
        expect(page.locator("[name=strategy][value=dpo]")).to_be_visible()
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert "secret-key" not in kept
        page.reload()
        expect(page.locator("#key")).to_have_value("")
        page.wait_for_timeout(200)
    page.problems = [
        problem
        for problem in page.problems
        if "401" not in problem and "WebSocket" not in problem and "ERR_CONNECTION" not in problem
    ]


def test_without_a_server_the_page_says_so(browser: Any, page: Any, tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path / "data")) as soon_gone:
        soon_gone.upload("preferences.jsonl", jsonl(PREFERENCES))
        page.goto(soon_gone.url)
        expect(page.locator("#datasets")).to_contain_text("preferences.jsonl")
    expect(page.locator("#health")).to_have_text("the server does not answer")
    page.problems = [problem for problem in page.problems if "ERR_" not in problem and "WebSocket" not in problem]


def test_gguf_files_and_bundle_are_made_and_then_offered(browser: Any, page: Any, tmp_path: Path) -> None:
    shelved, launcher = shelve(tmp_path / "data", tmp_path / "work"), Launcher()
    shelf = shelved.shelf
    shelf.registry.delete_model(shelved.row.id)
    row = shelf.register(shelved.row.uid, "whole", job_id="train_whole")
    write_recipe(shelf.data_dir, "train_whole")
    made = [
        record
        for record in (shelf.data_dir / "store" / "records" / "studio").glob("*.json")
        if json.loads(record.read_text())["artifact_type"] in ("GgufModel", "AnnexIvBundle")
    ]
    kept = [shutil.move(record, tmp_path / record.name) for record in made]
    with in_thread(settings_for(shelf.data_dir), launcher) as studio:
        page.goto(f"{studio.url}/#/models/{row.id}")
        expect(page.locator("#downloads")).to_contain_text(f"POST /api/models/{row.id}/export makes it")
        page.get_by_role("button", name="Make GGUF and bundle").click()
        expect(page.locator("#making")).to_contain_text("running")
        page.reload()
        expect(page.locator("#making")).to_contain_text("running")
        expect(page.get_by_role("button", name="Make GGUF and bundle")).to_have_count(0)
        for record, place in zip(kept, made, strict=True):
            shutil.move(record, place)
        (run,) = launcher.runs
        launcher.end(run.removeprefix("run-"), RunState.SUCCEEDED)
        expect(page.locator("#export-note")).to_contain_text("Made")
        gguf = page.locator("#downloads tr", has_text="tiny.q8_0.gguf")
        with page.expect_download() as download:
            gguf.get_by_role("button").click()
        assert download.value.path().stat().st_size == 3_000_004
        page.goto(f"{studio.url}/#/jobs/{run.removeprefix('run-')}")
        expect(page.locator("main")).to_contain_text("GGUF and bundle of whole")
