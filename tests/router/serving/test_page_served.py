"""The page as the server itself serves it, in a browser; what it does is in test_page.py."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from router.serving.assets import assets

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_every_file_of_the_page_is_served(start: Any) -> None:
    client = start().client
    assert {"/", "/page.css", "/page.js"} <= assets().keys()
    for path, (content, kind) in assets().items():
        found = client.get(path)
        assert (found.content, found.headers["content-type"].partition(";")[0]) == (content, kind)
        assert "default-src 'self'" in found.headers["content-security-policy"]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_question_is_answered_on_the_page(start: Any) -> None:
    from playwright.sync_api import expect, sync_playwright

    running = start()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(running.url)
        page.get_by_role("textbox").first.fill("Is red a colour?")
        page.keyboard.press("Enter")
        expect(page.locator("body")).to_contain_text("Answer: yes")
        expect(page.locator("body")).to_contain_text("colours reaches 0.97")
        assert said == []
        browser.close()
