"""The studio page in a browser: upload, start, watch, see the model. Nothing is loaded from elsewhere."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge_pipeline.server.served import PREFERENCES, Studio, jsonl

pytestmark = pytest.mark.browser

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def page(studio: Studio) -> Iterator["playwright.Page"]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.problems = []
        page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith(studio.url) or page.problems.append(request.url))
        yield page
        browser.close()


def test_a_person_uploads_trains_and_sees_the_model(studio: Studio, page: "playwright.Page", tmp_path: Path) -> None:
    rows = tmp_path / "from the browser.jsonl"
    rows.write_bytes(jsonl(PREFERENCES))
    page.goto(studio.url)
    expect = playwright.expect
    expect(page.locator("#health")).to_contain_text("ready", timeout=60_000)
    page.set_input_files("#file", rows)
    expect(page.locator("#data-note")).to_contain_text("12 rows of (prompt, chosen, rejected)")
    expect(page.locator("[name=dataset]")).to_have_value("from_the_browser.jsonl")
    page.select_option("[name=strategy]", "dpo")
    offers = studio.get("/api/info").json()["availability"]["strategies"]
    off = [f"{name} (not here)" for name, offer in offers.items() if not offer["available"]]
    assert page.locator("[name=strategy] option[disabled]").all_text_contents() == off
    page.fill("[name=model_name]", "tiny/browser")
    page.fill("[name=num_train_epochs]", "10")
    page.click("#go")
    expect(page.locator("#start-note")).to_contain_text("Training started")
    expect(page.locator("#state")).to_contain_text("training", timeout=60_000)
    expect(page.locator("#state")).to_have_text("completed", timeout=60_000)
    expect(page.locator("#facts")).to_contain_text("step 10 of 10")
    expect(page.locator("#curve polyline")).to_have_count(1)
    expect(page.locator("#models")).to_contain_text("browser-dpo-")
    page.fill("[name=model_name]", "../elsewhere")
    page.click("#go")
    expect(page.locator("#start-note")).to_contain_text("model_name")
    page.problems = [problem for problem in page.problems if "400" not in problem]  # the refusal that was asked for
    assert page.problems == []
