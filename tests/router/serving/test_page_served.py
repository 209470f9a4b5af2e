"""The page as the server itself serves it, in a browser; what it does is in test_page.py."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from router.serving.assets import assets
from router.serving.away import Away

from ..messages_server import MessagesServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_every_file_of_the_page_is_served(start: Any) -> None:
    client = start().client
    assert {"/", "/page.css", "/page.js"} <= assets().keys()
    for path, (content, kind) in assets().items():
        found = client.get(path)
        assert (found.content, found.headers["content-type"].partition(";")[0]) == (content, kind)
        assert "default-src 'self'" in found.headers["content-security-policy"]


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a browser that has nothing to complain of in the end."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page
        assert said == []
        browser.close()


def ask(page: Any, question: str) -> None:
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")


def test_a_question_is_answered_on_the_page(start: Any, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(start().url)
    expect(page.locator("#goes")).to_contain_text("or to the base model where none does")
    ask(page, "Is red a colour?")
    expect(page.locator("body")).to_contain_text("Answer: yes")
    expect(page.locator("body")).to_contain_text("colours reaches 0.97")


def test_the_page_says_what_leaves_and_what_it_costs(start: Any, page: Any, monkeypatch: Any) -> None:
    from playwright.sync_api import expect

    with MessagesServer() as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        api.say("A mathematician.", input_tokens=499_000)
        page.goto(start(fallback="claude", away=Away("claude-haiku-5-5", 0.05, "8000", 10)).url)
        expect(page.locator("#goes")).to_contain_text("it is sent to claude-haiku-5-5 of Anthropic")
        ask(page, "Who was Ada Lovelace?")
        expect(page.locator("#answer")).to_have_text("A mathematician.")
        expect(page.locator("#numbers")).to_contain_text(
            re.compile(r"spent on answers from elsewhere\$0\.0\d")
        )
        ask(page, "Who was Ada Lovelace, really?")
        expect(page.locator("#answer")).to_contain_text("Refused: The next call could cost")


def test_the_page_of_a_server_that_refuses_says_why(start: Any, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(start(fallback="none").url)
    expect(page.locator("#goes")).to_contain_text("Where none does, it is refused.")
    ask(page, "Who was Ada Lovelace?")
    expect(page.locator("#answer")).to_contain_text("Refused: no specialist reaches")
