"""The report in a real Chromium, opened as a file without network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.settings import Settings

from parti_scraper.browser.chromium import launch_options
from parti_scraper.report import Options, make_report, write_report
from tests.reported import DAY, HOSTILE, START, Row, empty_dataset, made_week
from tests.support import CHROMIUM, ROOT, needs_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [needs_chromium, pytest.mark.xdist_group("chromium")]

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
CHARTS = {
    "coverage", "streams", "hours", "viewer_hours", "categories", "week", "live_viewers", "live_channels", "curves",
    "runs", "pages",
}  # fmt: skip
VIEWS = [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser with an empty profile."""
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**launch_options(Settings({"PARTI_CHROMIUM": CHROMIUM})))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the reports of a week with a killed day, of years, of one livestream, without viewer-hours, and empty."""
    folder = tmp_path_factory.mktemp("reports")
    datasets = {
        "week": made_week(1),
        "years": made_week(1),
        "one": made_week(2, days=1, killed=None, streams=1),
        "unwatched": made_week(3),
        "empty": empty_dataset(),
    }
    datasets["years"].execute(
        "UPDATE streams SET started_at = started_at - INTERVAL 2 YEAR "
        "WHERE event_id = (SELECT min(event_id) FROM streams)"
    )
    datasets["unwatched"].execute("UPDATE streams SET viewer_hours = NULL")
    paths = {}
    for name, connection in datasets.items():
        paths[name] = folder / f"{name}.html"
        write_report(make_report(connection, Options(now=START + 8 * DAY)), paths[name])
    return paths


class Opened:
    """A report that was opened.

    Attributes:
        page: the page.
        said: what it said on the console, and its errors.
        requests: what it requested, itself included.
    """

    def __init__(self, page: Page, path: Path) -> None:
        self.page, self.said, self.requests = page, list[str](), list[str]()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")

    def drawn(self, chart: str, measure: str) -> list[Any]:
        """Return the values of a column of the marks of a chart, as Vega has drawn them."""
        values: list[Any] = self.page.evaluate(
            """([chart, measure]) => {
                const values = [];
                const visit = (item) => {
                    if (item.datum && measure in item.datum) values.push(item.datum[measure]);
                    (item.items || []).forEach(visit);
                };
                visit(window.report.views[chart].scenegraph().root);
                return values;
            }""",
            [chart, measure],
        )
        return values

    def first_cells(self, table: str) -> list[str]:
        """Return what is shown in the first column of a table."""
        return self.page.locator(f"#{table} tbody tr:visible td:first-child").all_inner_texts()


@pytest.fixture
def opened(browser: Browser, reports: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Open the report of the week, or another one; that it said or requested something fails the test."""
    options: Row = {"name": "week", "scheme": "light", "width": 1280} | getattr(request, "param", {})
    viewport: Any = {"width": options["width"], "height": 900}
    context = browser.new_context(viewport=viewport, color_scheme=options["scheme"], offline=True)
    path = reports[options["name"]]
    report = Opened(context.new_page(), path)
    yield report
    hacked = report.page.evaluate("window.hacked")
    context.close()
    assert hacked is None
    assert report.said == []
    assert report.requests == [path.as_uri()]


def test_every_chart_is_drawn_with_the_figures_of_the_database(opened: Opened) -> None:
    assert set(opened.page.evaluate("Object.keys(window.report.views)")) == CHARTS
    for name in CHARTS:
        assert opened.page.locator(f"#chart-{name} svg path").count() > 0, name
    connection = made_week(1)

    def answer(query: str) -> Any:
        return connection.execute(query).fetchall()[0][0]

    assert sum(opened.drawn("streams", "sum_streams")) == answer("SELECT count(*) FROM streams")
    hours = answer("SELECT sum(duration_seconds) / 3600 FROM streams")
    assert sum(opened.drawn("hours", "sum_hours")) == pytest.approx(hours, abs=0.1)
    assert sum(opened.drawn("categories", "sum_hours")) == pytest.approx(hours, abs=0.1)
    viewer_hours = answer("SELECT sum(viewer_hours) FROM streams")
    assert sum(opened.drawn("viewer_hours", "sum_viewer_hours")) == pytest.approx(viewer_hours, abs=0.1)
    assert sum(opened.drawn("week", "sum_streams")) == answer("SELECT count(*) FROM streams")
    assert sum(opened.drawn("runs", "sum_runs")) == answer("SELECT count(*) FROM runs")
    # A line has its first point as its datum; the points on it have one each.
    peak = answer("SELECT max(viewers)::BIGINT FROM (SELECT sum(viewers_count) AS viewers FROM live_channels "
                  "GROUP BY snapshot_id)")  # fmt: skip
    assert max(opened.drawn("live_viewers", "sum_viewers")) == peak
    assert max(opened.drawn("curves", "viewers")) == answer("SELECT max(peak_viewers) FROM streams")


@pytest.mark.parametrize("opened", [{"name": "years"}, {"name": "years", "width": 400}], indirect=True)
def test_the_months_of_several_years_have_their_year(opened: Opened) -> None:
    labels = opened.page.locator("#chart-streams .role-axis-label text").all_text_contents()
    months = [label for label in labels if re.fullmatch(r"[A-Z][a-z]{2} 20\d\d", label)]
    assert len({month[-4:] for month in months}) >= 2
    assert not [label for label in labels if re.fullmatch(r"01 [A-Z][a-z]{2}", label)]


def test_a_line_ends_where_the_gap_begins_and_the_gap_is_drawn(opened: Opened) -> None:
    for name in ("live_viewers", "live_channels"):
        # Lines are the paths without a filling.
        assert opened.page.locator(f"#chart-{name} .mark-line path").count() == 2
    widths = [
        box["width"]
        for each in opened.page.locator("#chart-coverage .layer_1_marks path").all()
        if (box := each.bounding_box())
    ]
    # One day of the eight that the axis has.
    assert len(widths) == 2
    assert all(100 < width < 160 for width in widths)


def test_the_choice_of_a_period_leaves_only_what_is_in_it(opened: Opened) -> None:
    opened.page.fill("#since", "2026-11-20")
    opened.page.fill("#until", "2026-11-20")
    opened.page.locator("#until").blur()
    opened.page.wait_for_function("window.report.views.streams.signal('until') < 1795300000000")
    connection = made_week(1)
    query = "SELECT count(*) FROM streams WHERE started_at::DATE = '2026-11-20'"
    (count,) = connection.execute(query).fetchone() or ()
    assert sum(opened.drawn("streams", "sum_streams")) == count > 0
    opened.page.wait_for_function(f"document.getElementById('count-top-streams').textContent == '{count} of 60 shown'")
    opened.page.select_option("#preset", "0")
    opened.page.wait_for_function("document.getElementById('count-top-streams').textContent == '60 of 60 shown'")
    assert sum(opened.drawn("streams", "sum_streams")) == 60


def test_the_choice_of_categories_leaves_only_theirs(opened: Opened) -> None:
    opened.page.click("#every")
    opened.page.wait_for_function("document.getElementById('count-top-streams').textContent == '0 of 60 shown'")
    assert opened.drawn("streams", "sum_streams") == []
    opened.page.get_by_label("Gaming").check()
    connection = made_week(1)
    (count,) = connection.execute("SELECT count(*) FROM streams WHERE category_name = 'Gaming'").fetchone() or ()
    opened.page.wait_for_function(f"document.getElementById('count-top-streams').textContent == '{count} of 60 shown'")
    assert sum(opened.drawn("streams", "sum_streams")) == count > 0
    assert set(opened.drawn("categories", "category")) == {"Gaming"}


def test_the_tables_are_sorted_with_the_keyboard(opened: Opened) -> None:
    def column(place: int) -> list[float]:
        cells = opened.page.locator(f"#top-channels tbody td:nth-child({place})")
        return [float(each) for each in cells.evaluate_all("cells => cells.map((each) => each.dataset.value)")]

    button = opened.page.locator("#top-channels th button", has_text="Hours").first
    button.focus()
    opened.page.keyboard.press("Enter")
    assert column(4) == sorted(column(4), reverse=True)
    head = opened.page.locator("#top-channels th").nth(3)
    assert head.get_attribute("aria-sort") == "descending"
    opened.page.keyboard.press("Space")
    assert column(4) == sorted(column(4))
    assert head.get_attribute("aria-sort") == "ascending"
    opened.page.locator("#top-channels th button", has_text="Channel").click()
    assert head.get_attribute("aria-sort") is None


def test_a_search_shows_the_rows_with_all_words(opened: Opened) -> None:
    opened.page.get_by_label("Search livestreams").fill("STREAM 4 channel")
    shown = opened.first_cells("top-streams")
    assert "stream 4" in shown
    assert 0 < len(shown) < 60
    assert opened.page.locator("#count-top-streams").inner_text() == f"{len(shown)} of 60 shown"
    opened.page.get_by_label("Search livestreams").fill("nothing has this")
    assert opened.first_cells("top-streams") == []


def test_the_figures_of_a_chart_can_be_read_as_a_table(opened: Opened) -> None:
    details = opened.page.locator("details[data-chart=streams]")
    details.locator("summary").focus()
    opened.page.keyboard.press("Enter")
    details.locator("table").wait_for()
    assert details.locator("th").all_inner_texts() == ["Day", "Category", "Livestreams"]
    counts = details.locator("tbody td:nth-child(3)").all_inner_texts()
    assert sum(map(int, counts)) == 60


def test_a_tooltip_shows_a_hostile_title_as_text(opened: Opened) -> None:
    bars = opened.page.locator("#chart-categories .mark-rect path")
    for place in range(bars.count()):
        bars.nth(place).hover()
        opened.page.wait_for_selector("#vg-tooltip-element.visible")
        if "window.hacked" in opened.page.locator("#vg-tooltip-element").inner_text():
            break
    else:
        pytest.fail("no bar is of the hostile category")
    assert opened.page.locator("#vg-tooltip-element img, #vg-tooltip-element script").count() == 0
    assert opened.page.locator("main img, main script").count() == 0
    assert HOSTILE[:30] in opened.page.locator("#top-streams").inner_text()


@pytest.mark.parametrize(
    ("opened", "hints"), [({"name": "one"}, 0), ({"name": "unwatched"}, 1), ({"name": "empty"}, 7)], indirect=["opened"]
)
def test_little_data_look_right(opened: Opened, hints: int) -> None:
    assert opened.page.locator("svg").count() == opened.page.locator("figure").count()
    assert opened.page.locator(".empty").filter(visible=True).count() == hints


@pytest.mark.parametrize(
    "opened",
    [{"name": name, "scheme": scheme, "width": width} for name in ("week", "empty") for scheme, width in VIEWS],
    indirect=True,
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_axe_finds_no_violation_and_nothing_is_wider_than_the_page(opened: Opened) -> None:
    assert AXE.exists(), "axe-core is not installed: run `make setup-dev`, which says why where it cannot"
    for summary in opened.page.locator("details summary").all():
        summary.click()
    # By the debugger: the page's policy lets no other script run.
    session = opened.page.context.new_cdp_session(opened.page)
    run = "axe.run().then((found) => found.violations.map((each) => [each.id, each.nodes.map((node) => node.html)]))"
    expression = f"{AXE.read_text(encoding='utf-8')};{run}"
    answer = session.send("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
    assert answer["result"]["value"] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_on_paper_there_are_no_controls_and_all_rows(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    assert not opened.page.locator(".choice, nav, .search").filter(visible=True).count()
    assert opened.page.locator("#top-streams tr").last.is_visible()
    assert opened.page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"


def test_the_policy_lets_no_other_script_run_and_no_request_be_made(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.new_context().new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(reports["week"].as_uri())
    page.wait_for_selector("body[data-ready]")
    page.evaluate("""() => {
        document.body.insertAdjacentHTML("beforeend", "<img src='http://127.0.0.1:9/x' onerror='window.hacked = 1'>");
        const script = document.createElement("script");
        script.textContent = "window.hacked = 2";
        document.body.append(script);
        return fetch("http://127.0.0.1:9/y").catch(() => null);
    }""")
    assert page.evaluate("window.hacked") is None
    assert len([text for text in refused if "Content Security Policy" in text]) >= 3
    page.context.close()
