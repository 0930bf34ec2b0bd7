"""The report: its figures are those of the dataset, hostile texts are text, and it stays small."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from duckdb import DuckDBPyConnection
from scrapy.settings import Settings

from parti_scraper import settings
from parti_scraper.commands import report as report_command
from parti_scraper.report import Options, Problem, make_report, write_report
from parti_scraper.report.period import OTHERS, Period, prepare
from parti_scraper.report.text import link, shown
from parti_scraper.run.outcome import ExitCode
from tests.made_runs import livestream, make_run, rejected
from tests.reported import DAY, HOSTILE, HOUR, START, Row, empty_dataset, insert, made_week
from tests.support import Scrapy

OPTIONS = Options(now=START + 8 * DAY)
MEASURES = ("streams", "hours", "viewer_hours")


class Page(HTMLParser):
    """A page, as a browser reads it.

    Attributes:
        tags: each tag with its attributes.
        scripts: the text of each script.
        styles: the text of each style.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self._inside: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = {"script": self.scripts, "style": self.styles}.get(tag)
        if self._inside is not None:
            self._inside.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self._inside[-1] += data
        else:
            self.text += data

    @property
    def data(self) -> Any:
        """What the page's script is given."""
        return json.loads(self.scripts[0])

    def rows(self, name: str) -> list[Row]:
        """Return the rows that charts are drawn of."""
        packed = self.data["rows"][name]
        texts, columns = packed["texts"], packed["columns"]
        return [
            {
                column: texts[value] if is_text and value is not None else value
                for (column, is_text), value in zip(columns, row, strict=True)
            }
            for row in packed["values"]
        ]


def opened(connection: DuckDBPyConnection, options: Options = OPTIONS) -> Page:
    """Make the report of a dataset."""
    return Page(make_report(connection, options))


def answer(connection: DuckDBPyConnection, query: str) -> list[Any]:
    """Return the rows of an answer."""
    return connection.execute(query).fetchall()


def total(rows: Iterable[Row], key: tuple[str, ...], measure: str) -> dict[Any, float]:
    """Return the sums of a measure by the values of some columns, without those that are 0."""
    sums: Counter[Any] = Counter()
    for row in rows:
        sums[tuple(row[each] for each in key)] += row[measure]
    return {each: value for each, value in sums.items() if value}


# --- Figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_of_activity_are_those_of_the_dataset(seed: int) -> None:
    connection = made_week(seed)
    page = opened(connection)
    of_streams = "SELECT epoch(date_trunc('day', started_at))::BIGINT * 1000, "
    expected = answer(
        connection,
        of_streams + "count(*), sum(duration_seconds) / 3600, coalesce(sum(viewer_hours), 0) FROM streams GROUP BY 1",
    )
    for place, measure in enumerate(MEASURES, 1):
        found = total(page.rows("activity"), ("moment",), measure)
        assert found == pytest.approx({(row[0],): row[place] for row in expected if row[place]}, abs=0.05), measure
    by_hour = answer(
        connection,
        "SELECT (isodow(started_at) - 1) * 24 + hour(started_at), count(*) FROM streams GROUP BY 1",
    )
    assert total(page.rows("week"), ("hour",), "streams") == {(hour,): count for hour, count in by_hour}
    largest = answer(
        connection,
        "SELECT coalesce(category_name, ''), count(*) FROM streams GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8",
    )
    found = total(page.rows("activity"), ("category",), "streams")
    labels = {(shown(name) or "No category",): count for name, count in largest}
    others = sum(count for (label,), count in found.items() if label == OTHERS)
    assert found == labels | ({(OTHERS,): others} if others else {})
    assert sum(found.values()) == answer(connection, "SELECT count(*) FROM streams")[0][0]


@pytest.mark.parametrize("seed", range(5))
def test_what_was_live_is_that_of_the_snapshots(seed: int) -> None:
    connection = made_week(seed)
    page = opened(connection)
    expected = answer(
        connection,
        "SELECT epoch(started_at)::BIGINT * 1000, count(event_id), coalesce(sum(viewers_count), 0)::BIGINT "
        "FROM snapshots LEFT JOIN live_channels USING (run_uuid, snapshot_id) GROUP BY 1",
    )
    rows = page.rows("live")
    assert {row["moment"] for row in rows} == {moment for moment, _, _ in expected}
    assert total(rows, ("moment",), "channels") == {(moment,): count for moment, count, _ in expected if count}
    assert total(rows, ("moment",), "viewers") == {(moment,): count for moment, _, count in expected if count}


@pytest.mark.parametrize("seed", range(5))
def test_the_curves_are_those_of_the_largest_livestreams_with_their_peaks(seed: int) -> None:
    connection = made_week(seed)
    rows = opened(connection).rows("curves")
    largest = answer(
        connection,
        "SELECT event_id, peak_viewers, epoch(peak_at)::BIGINT FROM streams WHERE peak_viewers IS NOT NULL "
        "ORDER BY peak_viewers DESC, event_id LIMIT 6",
    )
    peaks = [(row["viewers"], row["moment"]) for row in rows if row["is_peak"]]
    assert peaks == [(viewers, moment * 1000) for _, viewers, moment in largest]
    points = answer(
        connection,
        "SELECT epoch(observed_at)::BIGINT * 1000, viewers_count FROM live_channels "
        f"WHERE event_id IN ({', '.join(str(event) for event, _, _ in largest)})",
    )
    assert sorted((row["moment"], row["viewers"]) for row in rows) == sorted(points)


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_of_the_collection_are_those_of_the_runs(seed: int) -> None:
    connection = made_week(seed)
    page = opened(connection)
    sums = answer(connection, "SELECT spider, count(*), coalesce(sum(pages), 0)::BIGINT FROM runs GROUP BY 1")
    rows = page.rows("runs")
    assert total(rows, ("spider",), "runs") == {(spider,): count for spider, count, _ in sums}
    assert total(rows, ("spider",), "pages") == {(spider,): count for spider, _, count in sums if count}
    assert total(rows, ("outcome",), "runs") == {("complete",): 12, ("killed, closed later",): 1}
    assert "3 livestreams; the last of them" in page.text
    assert page.text.count("2026-11-23 00:00: complete") == 2


def test_the_tables_have_the_first_by_any_figure() -> None:
    connection = made_week(1, streams=300)
    page = opened(connection)
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-moment" in attributes]
    assert 60 <= len(rows) < 300
    for order in ("peak_viewers", "total_viewers", "viewer_hours", "duration_seconds"):
        first = answer(connection, f"SELECT event_id FROM streams ORDER BY {order} DESC NULLS LAST, event_id LIMIT 60")
        links = {attributes.get("href") for tag, attributes in page.tags if tag == "a"}
        assert {f"https://parti.com/video/{event}" for (event,) in first} <= links, order


# --- Time --------------------------------------------------------------------------------------------------------


def test_the_day_that_was_killed_is_a_gap_and_no_line_joins_its_ends() -> None:
    page = opened(made_week(1))
    gaps = [row for row in page.rows("coverage") if row["state"] == "missing"]
    day = (START + 3 * DAY) * 1000
    assert [(row["series"], row["since"] // 60_000 * 60_000) for row in gaps] == [
        ("livestreams", day),
        ("live_channels", day),
    ]
    assert all(row["until"] == day + DAY * 1000 - 1000 for row in gaps)
    stretches = {row["moment"] < day: row["stretch"] for row in page.rows("live")}
    assert stretches == {True: 1, False: 2}
    assert "crawl recent -a since=2026-11-19T00:00:00Z -a until=2026-11-19T23:59:59Z" in page.text


def test_a_curve_has_a_gap_where_its_livestream_was_not_seen_for_longer_than_usual() -> None:
    connection = empty_dataset()
    moments = [START + minutes * 60 for minutes in range(0, 61, 5)]
    shared: Row = {"run_uuid": "r", "filters": "{}", "complete": True}
    insert(connection, "snapshots", [shared | {"snapshot_id": str(each), "started_at": each} for each in moments])
    # The example of docs/data.md.
    seen = {0: 10, 5: 20, 10: 30, 40: 100, 45: 50}
    for minutes, viewers in seen.items():
        at = START + minutes * 60
        row: Row = {"run_uuid": "r", "snapshot_id": str(at), "observed_at": at, "event_id": 1, "user_id": 1}
        insert(connection, "live_channels", [row | {"viewers_count": viewers}])
    insert(connection, "streams", [{"event_id": 1, "user_id": 1, "first_observed_at": START, "peak_viewers": 100}])
    rows = opened(connection).rows("curves")
    assert [(row["viewers"], row["stretch"]) for row in rows] == [(10, 1), (20, 1), (30, 1), (100, 2), (50, 2)]


def test_only_the_period_is_shown() -> None:
    connection = made_week(1)
    since, until = START + 4 * DAY, START + 5 * DAY - 1
    page = opened(connection, Options(OPTIONS.now, Period(since, until)))
    within = f"epoch(started_at) BETWEEN {since} AND {until}"
    count = answer(connection, f"SELECT count(*) FROM streams WHERE {within}")[0][0]
    assert sum(row["streams"] for row in page.rows("activity")) == count > 0
    for name in ("live", "runs"):
        assert {row["moment"] // 1000 // DAY for row in page.rows(name)} == {since // DAY}
    covered = page.rows("coverage")
    assert all(since * 1000 <= row["since"] <= row["until"] <= until * 1000 for row in covered)
    assert covered


def test_a_long_time_is_counted_in_larger_units() -> None:
    connection = empty_dataset()
    connection.execute(
        f"INSERT INTO streams (event_id, user_id, started_at, duration_seconds) "
        f"SELECT i, 1, to_timestamp({START} - i * {DAY}), 3600 FROM generate_series(0, 2000) s(i)"
    )
    page = opened(connection)
    rows = page.rows("activity")
    assert "Livestreams a week, by category" in page.text
    # Each week begins on a Monday, as the first day of these does.
    assert all((row["moment"] // 1000 - START) % (7 * DAY) == 0 for row in rows)
    assert sum(row["streams"] for row in rows) == 2_001


# --- Hostile texts -------------------------------------------------------------------------------------------------


def test_hostile_texts_are_shown_and_make_no_tag() -> None:
    page = opened(made_week(1))
    assert "window.hacked = 1" in page.text
    assert "\u202e" not in page.text + "".join(page.scripts)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [tag for tag, _ in page.tags if tag in {"img", "iframe", "object", "link", "base", "form"}]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert len(page.data["categories"]) == 9
    assert shown(HOSTILE) in page.data["categories"]


def test_the_page_links_to_the_site_only() -> None:
    page = opened(made_week(1))
    addresses = {str(attributes["href"]) for tag, attributes in page.tags if tag == "a"}
    assert {each for each in addresses if not each.startswith(("https://parti.com/", "#"))} == set()
    assert any(each.startswith("https://parti.com/channel-") for each in addresses)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "http://parti.com/a",
        "https://parti.com.evil.example/a",
        "https://parti.com@evil.example/a",
        "https://parti.com\\@evil.example/a",
        "https://parti.com:444/a",
        "https://parti.com/a\nb",
        'https://parti.com/"onclick="x',
        "//parti.com/a",
        "",
        None,
    ],
)
def test_any_other_address_is_no_link(url: str | None) -> None:
    assert link(url, ["https://parti.com"]) is None


@pytest.mark.parametrize("url", ["https://parti.com", "https://parti.com/a%20b?c=d#e", "http://127.0.0.1:8000/video/1"])
def test_an_address_of_a_site_is_a_link(url: str) -> None:
    assert link(url, ["https://parti.com", "http://127.0.0.1:8000"]) == url


def test_an_emoji_of_several_parts_stays_whole() -> None:
    assert shown("👩‍🚀 \u202eabc\u0000\u2066") == "👩‍🚀 \ufffdabc\ufffd\ufffd"


def test_line_breaks_and_tabs_are_shown_as_blanks() -> None:
    assert shown("a\r\nb\nc\td\u2028e") == "a b c d\ufffde"


def test_the_policy_names_every_script_and_style_by_its_hash_and_allows_nothing_else() -> None:
    page = opened(made_week(1))
    (policy,) = [each["content"] for tag, each in page.tags if tag == "meta" and "http-equiv" in each]
    directives = dict(part.strip().split(" ", 1) for part in str(policy).split(";"))

    def hashed(texts: list[str]) -> str:
        digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in texts)
        return " ".join(f"'sha256-{each}'" for each in digests)

    assert directives == {
        "default-src": "'none'",
        "script-src": hashed(page.scripts[1:]),
        "style-src": hashed(page.styles),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


# --- Size ----------------------------------------------------------------------------------------------------------


def test_an_empty_dataset_has_a_page_that_says_what_brings_data() -> None:
    page = opened(empty_dataset(), Options(OPTIONS.now, program="parti"))
    assert "There are no data yet." in page.text
    assert set(re.findall(r"parti crawl [^\n]*", page.text)) == {
        "parti crawl recent",
        "parti crawl live -a interval=5m",
    }
    assert page.data["charts"] == {}


@pytest.mark.parametrize("kind", ["steady", "gaps"])
def test_the_page_of_a_huge_dataset_is_smaller_than_5_megabytes(kind: str) -> None:
    connection = empty_dataset()
    # Ten years of snapshots every hour; of the other kind, each hour of another length, so that many are gaps.
    moment = f"{START} - i * {HOUR}" + (" + hash(i) % 3000" if kind == "gaps" else "")
    long = "repeat('\\u00e4<', 500)"
    connection.execute(f"""
        INSERT INTO snapshots (run_uuid, snapshot_id, started_at, complete, filters)
        SELECT 'r' || i // 24, i, to_timestamp({moment}), true, '{{}}' FROM generate_series(1, 87600) s(i)""")
    connection.execute(f"""
        INSERT INTO live_channels (run_uuid, snapshot_id, user_id, event_id, observed_at, viewers_count, category_name)
        SELECT 'r' || i // 24, i, c, i // 5 * 10 + c, to_timestamp({moment}), (i * c) % 5000, repeat('ä<' || c, 40)
        FROM generate_series(1, 87600) s(i), generate_series(1, 10) t(c)""")
    connection.execute(f"""
        INSERT INTO streams (event_id, user_id, user_name, event_title, category_name, started_at, duration_seconds,
            peak_viewers, total_viewers, channel_url, video_url)
        SELECT event_id, user_id, text, text, category_name, began, 18000, peak + length(text),
            event_id + 1000000 * length(text), 'https://parti.com/' || text, 'https://parti.com/video/' || event_id
        FROM (SELECT event_id, user_id, any_value(category_name) AS category_name, min(observed_at) AS began,
                max(viewers_count) AS peak, CASE WHEN event_id % 100 = 1 THEN {long} ELSE '' END AS text
            FROM live_channels GROUP BY event_id, user_id)""")
    connection.execute(f"""
        INSERT INTO runs (run_uuid, day, spider, status, complete, started_at, reason, unknown_fields)
        SELECT 'r' || i, '', 'spider ' || i % 20, 'finished', i % 3 > 0, to_timestamp({START} - i * {HOUR}), {long},
            json_object({long} || i, 1) FROM generate_series(1, 20000) s(i)""")
    connection.execute(f"""
        INSERT INTO coverage SELECT 'livestreams', '{{}}', to_timestamp({moment}), to_timestamp({moment} + 60), 'r' || i
        FROM generate_series(1, 87600) s(i)""")
    page = make_report(connection, OPTIONS)
    assert len(page.encode()) < 5_000_000
    assert len(Page(page).rows("live")) <= 9 * 1_000


# --- The command ---------------------------------------------------------------------------------------------------


def report(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, list[Any]]:
    """Run the command; return its exit code, and what it opened."""
    asked: list[Any] = []

    def open_dataset(*places: Any, source: str | None, **_: Any) -> DuckDBPyConnection:
        asked.append((places, source))
        return made_week(1)

    monkeypatch.setattr(report_command, "open_dataset", open_dataset)
    command = report_command.Command()
    command.settings = Settings()
    command.settings.setmodule(settings)
    command._group = SimpleNamespace(_group_actions=[])  # type: ignore[assignment]
    typed: Row = dict.fromkeys(("inputs", "dataset", "since", "until", "source")) | {"page": "report.html"}
    command.run([], SimpleNamespace(**typed | options))  # type: ignore[arg-type]
    return command.exitcode, asked


def test_the_command_writes_the_page_and_prints_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    assert report(monkeypatch, page=str(path), inputs=["one", "two"], source="mock") == (
        ExitCode.COMPLETE,
        [(("one", "two"), "mock")],
    )
    assert capsys.readouterr().out == f"{path}\n"
    assert "Made-up data of a mock server." in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"since": "soon"}, "option `--since`: not a date or an age: 'soon'"),
        ({"inputs": ["a"], "dataset": "b"}, "option `--dataset`: given together with `--from`: 'b'"),
        ({"page": "/"}, "option `-o`: a folder: '/'"),
        ({"page": "/no/such/page.html"}, "option `-o`: no such folder: '/no/such/page.html'"),
    ],
)
def test_what_the_command_does_not_understand_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: Row, said: str
) -> None:
    assert report(monkeypatch, **options) == (ExitCode.USAGE, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_report("new", path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_the_dataset_does_not_have_is_empty() -> None:
    connection = made_week(1)
    for name in ("snapshots", "live_channels", "quarantine", "coverage"):
        connection.execute(f"DROP TABLE {name}")
    page = opened(connection)
    assert sum(row["streams"] for row in page.rows("activity")) == 60
    assert page.rows("live") == page.rows("coverage") == []


def test_each_run_counts_once_whether_its_days_are_known_or_not() -> None:
    connection = empty_dataset()
    run: Row = {"spider": "live", "status": "finished", "started_at": START, "complete": True}
    for uuid, days in (("a", ["", "2026-11-16", "2026-11-17"]), ("b", ["2026-11-16", "2026-11-17"])):
        insert(connection, "runs", [run | {"run_uuid": uuid, "day": day} for day in days])
    prepare(connection, Period())
    assert answer(connection, "SELECT run_uuid, count(*) FROM report_runs GROUP BY 1 ORDER BY 1") == [
        ("a", 1),
        ("b", 2),
    ]


def test_the_report_of_real_runs_has_their_livestreams(scrapy: Scrapy, output: Path, tmp_path: Path) -> None:
    make_run(output, "recent", "first", [livestream(1), livestream(2)], quarantine=[rejected(0)])
    run = scrapy("report", "-o", str(tmp_path / "page.html"))
    assert (run.returncode, run.stderr) == (0, "")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert sum(row["streams"] for row in page.rows("activity")) == 2
    assert sum(row["runs"] for row in page.rows("runs")) == 1
    assert "Healthy: nothing is wrong." in page.text


def test_a_report_without_runs_says_where_they_were_looked_for(scrapy: Scrapy, output: Path, tmp_path: Path) -> None:
    run = scrapy("report", "-o", str(tmp_path / "page.html"))
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"scrapy report: no runs are in '{output}' (accepted: ")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_the_report_names_what_is_wrong_with_the_collection(scrapy: Scrapy, output: Path, tmp_path: Path) -> None:
    make_run(output, "recent", "first", [livestream(1)])
    run = scrapy("report", "-o", str(tmp_path / "page.html"), env={"PARTI_HEALTH_MAX_AGE": "recent=1h,live=15m"})
    assert (run.returncode, run.stderr) == (0, "")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "recent: no complete run since" in page.text
    assert "live: it has never run" in page.text
    assert "scrapy crawl recent" in page.text
    run = scrapy("report", "-o", str(tmp_path / "page.html"), "--from", str(output))
    assert "no complete run" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_wrong_is_hostile_text_too() -> None:
    problems = [Problem("<script>\u202ehacked", 0.0, "scrapy crawl '<b>'")]
    page = opened(made_week(1), replace(OPTIONS, problems=problems))
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "b" not in [tag for tag, _ in page.tags]
    assert "\u202e" not in page.text
