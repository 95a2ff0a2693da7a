"""The page in a real browser: Debian's chromium, driven by playwright. Skipped where there is none.

SUZOO_SCREENSHOTS=FOLDER keeps a picture of every tab.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from suzoo.demo import answers
from suzoo.demo.models import TASKS

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright, as in .[dev]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def view(browser, served, request):
    """An open page, whose requests all go to this machine and which has no error in its console."""
    width = request.node.callspec.params.get("width", 1100) if hasattr(request.node, "callspec") else 1100
    context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
    page, hosts, errors = context.new_page(), set(), []
    page.set_default_timeout(20_000)
    page.on("request", lambda asked: hosts.add(urlsplit(asked.url).hostname))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(served.local_url)
    page.get_by_role("tab", name="Compare").wait_for()
    yield page
    context.close()
    assert hosts - {None} == {"127.0.0.1"} and errors == []


def open_tab(page, task: str) -> None:
    """Click a tab; on a narrow page it may be behind the menu of those without room."""
    tab = page.get_by_role("tab", name=task, exact=True)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown").get_by_text(task, exact=True).click()
    else:
        tab.click()


def panel(page):
    return page.get_by_role("tabpanel").locator("visible=true")


def fill(page, label: str, text: str) -> None:
    panel(page).get_by_label(label, exact=True).fill(text)


def press(page, name: str) -> None:
    panel(page).get_by_role("button", name=name, exact=True).click()


def keep(page, name: str) -> None:
    if folder := os.environ.get("SUZOO_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}-{page.viewport_size['width']}.png")


def explain(page) -> None:
    fill(page, "Second text", "他买了三本书")
    press(page, "Explain")


def correct(page) -> None:
    fill(page, "Text", "今天天气我")
    press(page, "Correct")


DOCUMENTS = "a dog\na man plays the flute\n今天天气很好"
# task -> what a user does, what then stands on the page, the input that is wrong, and what is said of it
STEPS = {
    "Compare": (lambda page: press(page, "Compare"), "Most alike", "Sentences, one on each line", "Write 2 to 30"),
    "Search": (lambda page: press(page, "Search"), "cosine", "Query", "The query is empty"),
    "Titles": (lambda page: press(page, "Write a title"), None, "Article", "The article is empty"),
    "Spelling": (correct, "changed:", "Text", "The text is empty"),
    "Scores": (lambda page: press(page, "Score"), "pseudo-perplexity", "Text", "The text is empty"),
    "Explain": (explain, "cosine similarity", "Text", "The text is empty"),
}


@pytest.mark.parametrize("width", [1100, 390])
def test_every_tab_answers_and_fits(view, opened, width):
    assert {*STEPS, "Chat"} == {*TASKS}
    for task, (act, expected, field, said) in STEPS.items():
        open_tab(view, task)
        act(view)
        if expected is None:
            panel(view).locator(".sz-large").wait_for()
        else:
            panel(view).get_by_text(expected).first.wait_for()
        keep(view, task)
        fits(view)
        fill(view, field, " ")
        press(view, {"Titles": "Write a title", "Spelling": "Correct", "Scores": "Score"}.get(task, task))
        alert = panel(view).get_by_role("alert")
        alert.wait_for()
        assert said in alert.inner_text()


def fits(page) -> None:
    inner, outer = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert inner <= outer


def test_what_is_shown_is_what_the_models_say(view, opened):
    fill(view, "Sentences, one on each line", DOCUMENTS)
    press(view, "Compare")
    view.get_by_text("Most alike").wait_for()
    shown = view.locator(".sz-scroll td").all_inner_texts()
    vectors = opened["encoder"].model.encode(DOCUMENTS.splitlines(), normalize=True)
    assert shown[1:] == [f"{cosine:.2f}" for cosine in (vectors @ vectors.T).flatten()]

    open_tab(view, "Search")
    fill(view, "Query", "a man")
    fill(view, "Documents, one on each line", DOCUMENTS)
    press(view, "Search")
    panel(view).locator(".sz-scroll").wait_for()
    hits = opened["cross-encoder"].model.rank("a man", DOCUMENTS.splitlines())
    assert panel(view).locator(".sz-scroll td:last-child").all_inner_texts() == [hit["text"] for hit in hits]

    open_tab(view, "Spelling")
    fill(view, "Text", "今天天气我")
    press(view, "Correct")
    panel(view).locator(".sz-corrected").wait_for()
    changes = opened["tta"].model.suggest("今天天气我", tokenizer=opened["tta"].tokenizer)
    assert panel(view).locator("del").all_inner_texts() == [change.original for change in changes]
    assert panel(view).locator("ins").all_inner_texts() == [change.replacement for change in changes]


def test_the_explanation_follows_the_chosen_model(view, opened):
    open_tab(view, "Explain")
    panel(view).get_by_label("Model", exact=True).click()
    view.get_by_role("option", name="tta", exact=True).click()
    fill(view, "Token to explain, from 0", "2")
    press(view, "Explain")
    panel(view).get_by_text("logit of").wait_for()
    assert panel(view).get_by_label("Second text").count() == 0
    text = panel(view).get_by_label("Text", exact=True).input_value()
    assert f"logit of {text[2]}" in panel(view).locator(".sz-tokens + p").inner_text()


@pytest.mark.parametrize("width", [1100, 390])
def test_a_chat_streams_remembers_saves_and_forgets(view, opened, tmp_path, width):
    open_tab(view, "Chat")
    panel(view).get_by_role("button", name="Sampling").click()
    panel(view).get_by_label("number input for top_k").fill("1")
    panel(view).get_by_label("number input for top_k").press("Tab")
    reference = answers.open_chat(opened["chat"])
    reference.set_sampling(do_sample=False, top_k=1, top_p=1, temperature=1)
    for text in ("今天天气很好", "a man"):
        fill(view, "Message", text)
        panel(view).get_by_label("Message", exact=True).press("Enter")
        bubble = panel(view).locator(".message.bot").last
        playwright.expect(bubble).to_have_text(reference.reply(text), timeout=30_000)
    assert panel(view).locator(".message.user").all_inner_texts() == ["今天天气很好", "a man"]
    keep(view, "Chat")
    fits(view)
    with view.expect_download() as saved:
        press(view, "Save it")
    path = tmp_path / "conversation.json"
    saved.value.save_as(path)
    press(view, "Forget the conversation")
    playwright.expect(panel(view).locator(".message")).to_have_count(0)
    panel(view).locator("input[type=file]").set_input_files(path)
    playwright.expect(panel(view).locator(".message.user")).to_have_count(2)
    press(view, "Send")
    panel(view).get_by_role("alert").wait_for()
    assert "The message is empty" in panel(view).get_by_role("alert").inner_text()
