"""The page in a browser. ROUTER_PAGE_URL names a server to open instead of the scripted one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from .page_server import PageServer, decision, specialists

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Page, Route, expect = sync_api.Page, sync_api.Route, sync_api.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

QUESTION = "Which weekday is 14 March 2031?"
ASKED = "**/v1/chat/completions"
HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>' + "w" * 200


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with PageServer() as running:
        yield running


@pytest.fixture(scope="module")
def base_url(server: PageServer) -> str:
    return os.environ.get("ROUTER_PAGE_URL", server.url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, base_url: str) -> Iterator[Any]:
    """A page that is not opened yet. What it breaks, and what its policy forbids, fails the test."""
    context = browser.new_context(base_url=base_url)
    page = context.new_page()
    page.set_default_timeout(10_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    yield page
    context.close()
    # The browser itself writes a line for every refused request; the tests of errors refuse some.
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []


def opened(page: Page) -> Page:
    page.goto("/")
    expect(page.locator("#cards article").first).to_be_visible()
    return page


def ask(page: Page, question: str = QUESTION) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def stream(*events: dict[str, Any]) -> dict[str, Any]:
    """A streamed answer for `route.fulfill`."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return {"content_type": "text/event-stream", "body": body}


def refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


def test_enter_shows_the_route_the_text_and_the_answer(page: Page) -> None:
    opened(page)
    with page.expect_request(ASKED) as request:
        ask(page)
    assert request.value.post_data_json == {
        "model": "auto",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    expect(page.locator("#answer")).to_have_text("Friday")
    expect(page.locator("#answer")).to_have_attribute("data-kind", "answer")
    expect(page.locator("#work")).to_contain_text("2031-03-14\n")
    expect(page.locator("#facts")).to_contain_text("tokens/s")
    chosen = page.locator("#bars li.chosen")
    expect(chosen).to_contain_text("dates")
    assert float(chosen.locator(".value").inner_text()) > 0.5
    expect(chosen.locator(".level")).to_have_count(1)  # the threshold
    expect(page.locator("#near li")).to_have_count(3)
    expect(page.locator("#send")).to_have_text("Ask")
    page.fill("#question", "")
    page.click("#earlier button")
    expect(page.locator("#question")).to_have_value(QUESTION)


def test_the_specialists_and_the_figures_are_shown(page: Page) -> None:
    response = page.goto("/")
    assert "default-src 'self'" in response.headers["content-security-policy"]
    dates = page.locator("#cards article", has_text="dates").first
    expect(dates.locator("svg.accuracy .whisker")).to_have_count(3)
    expect(dates.locator(".keys li")).to_have_count(3)
    expect(page.locator("#model option")).to_contain_text(["auto", "base", "cron"])
    expect(page.locator("#numbers")).to_contain_text("prices")
    expect(page.locator("#spark polyline")).to_have_count(1)
    if "ROUTER_PAGE_URL" not in os.environ:
        expect(page.locator("#trouble")).to_contain_text("old@1.0.0 is left out")
    assert page.evaluate("document.querySelectorAll('[style], style, script:not([src])').length") == 0


@pytest.mark.parametrize(
    ("status", "headers", "body", "sentence"),
    [
        (429, {"Retry-After": "7"}, refusal("Too many wait"), "Too many wait. Try again in 7 s."),
        (
            404,
            {},
            refusal("There is no model x; ask one of auto, base."),
            "There is no model x; ask one of auto, base.",
        ),
        (503, {}, "<html>a proxy's page</html>", "The server cannot answer now."),
        (200, {}, stream(refusal("The engine failed"))["body"], "The engine failed."),
        (200, {}, 'data: {"choices": []}\n\n', "The connection ended before the answer did."),
    ],
)
def test_an_error_is_a_sentence(
    page: Page, status: int, headers: dict[str, str], body: Any, sentence: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    page.route(ASKED, lambda route: route.fulfill(status=status, headers=headers, body=text))
    ask(opened(page))
    expect(page.locator("#answer")).to_have_text(sentence)
    expect(page.locator("#answer")).to_have_attribute("data-kind", "error")
    expect(page.locator("#send")).to_have_text("Ask")


def test_a_server_that_is_gone_is_a_sentence(page: Page) -> None:
    page.route(ASKED, lambda route: route.abort())
    ask(opened(page))
    expect(page.locator("#answer")).to_have_text("The server cannot be reached.")


@pytest.mark.parametrize("status", ["unparsed", "truncated", "refused"])
def test_no_answer_is_said_to_be_none(page: Page, status: str) -> None:
    told = decision(QUESTION, "auto") | {
        "answer": None,
        "text": "?",
        "status": status,
        "tokens": 1,
        "seconds": 0.1,
    }
    events = stream({"choices": [], "router": told}, {"choices": [{"delta": {}}], "router": told})
    page.route(ASKED, lambda route: route.fulfill(**events))
    ask(opened(page))
    expect(page.locator("#answer")).to_have_attribute("data-kind", "note")


def test_escape_stops_the_answer_and_closes_its_connection(page: Page, server: PageServer) -> None:
    opened(page)
    server.cut.clear()
    ask(page, f"{QUESTION} Tell it at long length.")
    expect(page.locator("#work")).not_to_be_empty()
    expect(page.locator("#send")).to_have_text("Stop")
    with page.expect_event("requestfailed"):
        page.keyboard.press("Escape")
    expect(page.locator("#answer")).to_have_text("Stopped.")
    expect(page.locator("#send")).to_have_text("Ask")
    if "ROUTER_PAGE_URL" not in os.environ:
        assert server.cut.wait(5)


def test_a_new_question_takes_the_place_of_the_one_under_way(page: Page) -> None:
    opened(page)
    ask(page, f"{QUESTION} Tell it at long length.")
    expect(page.locator("#work")).not_to_be_empty()
    ask(page)
    expect(page.locator("#answer")).to_have_text("Friday")
    assert page.locator("#work").inner_text().count("Answer:") == 1
    expect(page.locator("#earlier li")).to_have_count(2)


def test_hostile_text_stays_text(page: Page) -> None:
    told = decision(QUESTION, "auto") | {"question": HOSTILE, "reason": HOSTILE, "version": HOSTILE}
    told["exemplars"] = [{"text": HOSTILE, "specialist": HOSTILE, "similarity": 0.5}]
    told["scores"] = {HOSTILE: 0.4, "dates": 0.6}
    done = told | {"answer": HOSTILE, "text": HOSTILE, "status": "answered", "tokens": 5, "seconds": 0.1}
    events = stream(
        {"choices": [{"delta": {"content": HOSTILE}}], "router": told},
        {"choices": [{"delta": {}}], "router": done},
    )
    bad = specialists()[0] | dict.fromkeys(("name", "version", "channel", "description", "note"), HOSTILE)
    bad |= {"exemplars": [HOSTILE[:60]], "baselines": [{"name": HOSTILE, "accuracy": 0.3}]}
    page.route(ASKED, lambda route: route.fulfill(**events))
    page.route("**/specialists", lambda route: route.fulfill(json=[bad]))
    page.set_viewport_size({"width": 390, "height": 844})
    ask(opened(page), HOSTILE)
    expect(page.locator("#answer")).to_have_text(HOSTILE)
    assert page.locator("img, main script").count() == 0
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    opened(page)
    before = page.locator("#specialists").bounding_box()
    ask(page)
    expect(page.locator("#answer")).to_have_text("Friday")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.evaluate("document.getElementById('earlier').hidden = true")  # the only thing that an answer adds
    after = page.locator("#specialists").bounding_box()
    assert width < 390 or abs(before["y"] - after["y"]) < 2


def test_the_dark_scheme_is_dark(page: Page) -> None:
    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(","))

    page.emulate_media(color_scheme="light")
    opened(page)
    assert brightness() > 700
    page.emulate_media(color_scheme="dark")
    assert brightness() < 150


def test_the_keyboard_is_enough(page: Page) -> None:
    opened(page)
    focused = "document.activeElement.id"
    assert page.evaluate(focused) == "question"
    page.keyboard.type("Which weekday")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("is 14 March 2031?")
    expect(page.locator("#question")).to_have_value("Which weekday\nis 14 March 2031?")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "model"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("dates")
    expect(page.locator("#model")).to_have_value("dates")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "send"
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("Friday")
    expect(page.locator("#reason")).to_contain_text("asked for by name")
    page.keyboard.press("/")
    assert page.evaluate(focused) == "question"


def test_a_server_with_keys_is_given_one(page: Page) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(status=401, json=refusal("This server wants an API key."))

    for path in (ASKED, "**/specialists", "**/stats"):
        page.route(path, guarded)
    page.goto("/")
    dialog = page.locator("#dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")  # then it stays away until something is asked
    expect(page.locator("#trouble")).to_have_text("This server wants an API key.")
    expect(dialog).to_be_hidden()
    ask(page)
    for key in ("wrong", "right"):
        expect(dialog).to_be_visible()
        assert page.evaluate("document.activeElement.id") == "secret"
        page.keyboard.type(key)
        page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("Friday")
    expect(dialog).to_be_hidden()
    opened(page.reload() and page)
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]


def test_a_hidden_page_asks_for_no_figures(page: Page) -> None:
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url) if request.url.endswith("/stats") else None)
    page.clock.install()
    opened(page)
    expect(page.locator("#spark polyline")).to_have_count(1)
    show = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    show += "document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(show, True)
    page.clock.run_for(10_000)
    page.wait_for_timeout(50)
    assert len(seen) == 1
    with page.expect_request("**/stats"):
        page.evaluate(show, False)
