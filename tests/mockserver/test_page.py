"""The categories page in a real Chromium: it calls the API as the site's own page does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from scrapy.settings import Settings

from parti_scraper.browser.chromium import launch_options
from parti_scraper.mockserver import MockServer
from tests.support import (
    CHROMIUM,
    HOST,
    LIVE,
    NOW,
    RECENT,
    STILL,
    Serve,
    needs_chromium,
    specified_url,
    wait_until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    needs_chromium,
    # One browser for all of them, in one process.
    pytest.mark.xdist_group("chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser with an empty profile."""
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**launch_options(Settings({"PARTI_CHROMIUM": CHROMIUM})))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return an empty page; its errors fail the test."""
    context = browser.new_context(viewport={"width": 1_280, "height": 720})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def opened(page: Page, server: MockServer, path: str = "/categories") -> Page:
    """Open the server's page and wait until it has loaded its first records."""
    page.goto(server.base_url + path)
    page.wait_for_selector("body[data-ready]")
    return page


def asked(server: MockServer) -> list[str]:
    """Return the page's requests to the API, in the form of the specification."""
    paths = (f"{seen.path}?{seen.query}".rstrip("?") for seen in server.requests)
    return [HOST + path for path in paths if path.startswith("/parti_v2/")]


@pytest.mark.parametrize("path", ["/", "/categories"])
def test_it_shows_the_records_of_the_api_and_requests_them_as_specified(page: Page, serve: Serve, path: str) -> None:
    server = serve(**STILL)
    opened(page, server, path)
    world = server.world
    shown = {name: page.locator(f"#{name} li").all_inner_texts() for name in ("categories", "live", "recent")}
    assert shown["categories"] == [row["display_name"] for row in world.categories()]
    gaming = [record for record in world.live_at() if record["category_name"] == "Gaming"][:12]
    for records, texts in ((gaming, shown["live"]), (world.recent_at()[:15], shown["recent"])):
        assert len(texts) >= len(records)
        for record, text in zip(records, texts, strict=False):
            viewers = record.get("total_viewers", record.get("viewers_count"))
            assert text.endswith(f"{record['category_name'] or '–'} · {viewers} viewers")
    assert set(asked(server)) >= {specified_url(name) for name in ("categories", "live-7", "recent-NaN-7")}


def test_a_click_on_a_category_requests_it_and_a_second_one_repeats_it(page: Page, serve: Serve) -> None:
    server = serve(**STILL)
    opened(page, server)
    # Gaming is chosen already, so this is the specification's second request.
    page.click("button[data-category='7']")
    wait_until(lambda: specified_url("recent-NaN-7-7") in asked(server))
    wait_until(lambda: asked(server).count(specified_url("live-7")) == 2)
    page.click("button[data-category='10']")
    music = specified_url("recent-NaN-7").replace("categories=7", "categories=10")
    wait_until(lambda: music in asked(server))
    page.wait_for_function("document.querySelector('#live li')?.innerText.includes('Music')")
    assert page.locator("button[aria-pressed=true]").all_inner_texts() == ["Music"]
    live = [url for url in asked(server) if LIVE in url]
    assert live[2:] == [specified_url("live-7").replace("=7", "=10")]


def test_scrolling_loads_more_until_the_end(page: Page, serve: Serve) -> None:
    server = serve(**STILL | {"events": 100})
    opened(page, server)
    assert page.locator("#recent li").count() < 100

    def at_the_end() -> bool:
        page.mouse.wheel(0, 2_000)
        return page.locator("#end").inner_text() == "That is all."

    wait_until(at_the_end)
    assert page.locator("#recent li").count() == 100
    first = specified_url("recent-NaN-7")
    assert [url for url in asked(server) if RECENT in url] == [
        first.replace("offset=0", f"offset={offset}") for offset in (*range(0, 100, 15), 100)
    ]


def test_it_shows_channels_that_go_live(page: Page, serve: Serve) -> None:
    server = serve(**STILL | {"speed": 100})
    opened(page, server)
    page.wait_for_selector("#notifications li:nth-child(3)")
    shown = page.locator("#notifications li small:nth-child(2)").all_inner_texts()
    world = server.world
    announced = [record["user_name"].strip() for record in world.notifications_between(world.started_at, world.now())]
    assert all(any(name in text for name in announced) for text in shown)
    (request,) = [seen for seen in server.requests if "websocket" in dict(seen.headers).get("Upgrade", "")]
    assert request.path == "/"


def test_titles_are_text_and_malformed_records_break_nothing(page: Page, serve: Serve) -> None:
    server = serve(now=NOW, speed=100, events=3_000, malformed=0.3, ws_malformed=0.5)
    opened(page, server)
    page.wait_for_selector("#notifications li:nth-child(5)")

    def shown() -> bool:
        page.mouse.wheel(0, 5_000)
        return bool(page.locator("#recent b").filter(has_text=re.compile("<script>|<img src=x")).count())

    wait_until(shown)
    assert page.locator("li script, li img").count() == 0


def test_it_shows_a_list_that_cannot_be_loaded_and_the_others_work(page: Page, serve: Serve) -> None:
    server = serve(**STILL, nan="error")
    opened(page, server)
    assert page.locator("#recent li").all_inner_texts() == ["Could not be loaded\nError: status 400"]
    assert page.locator("#categories li").count() == 21
