"""Real crawls of lists with odd records that could affect other records, or the exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.servers import GAMING, NOT_FOUND, Answer, Script, json_answer, to
from tests.support import Run

NEWEST = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
STEP = 600
SECRET = "S3CRET"

Record = dict[str, Any]


def livestream(number: int) -> Record:
    """Return a normal record, the latest first."""
    end = NEWEST - number * STEP
    return {
        "user_id": number, "user_name": f"name {number}", "user_avatar_id": 1, "avatar_link": None,
        "event_id": 10_000 - number, "event_title": "title", "event_file": None, "event_start_ts": end - 300,
        "event_end_ts": end, "category_name": "Gaming", "total_viewers": 1, "viewers_count": 1,
        "livestream_visibility_type": "Public", "has_access_pass": False, "livestream_recording": None,
        "social_media": "parti", "social_username": "n", "discord_discriminator": None, "channel_arn": None,
        "playback_url": None,
    }  # fmt: skip


_OF_LIVE = {"viewers_count", "channel_arn", "playback_url"}
_OF_RECENT = {
    "event_start_ts", "event_end_ts", "total_viewers", "livestream_visibility_type", "has_access_pass",
    "livestream_recording",
}  # fmt: skip
_DEFAULTS = {"from_ts": 0, "to_ts": 2**40, "offset": 0, "limit": 15}


@dataclass(frozen=True)
class OddApi:
    """The API with a list of livestreams in which some are odd.

    Attributes:
        number: how many there are.
        odd: makes of a place in the list and a record what is served.
        page: how many records a page holds at most.
        redirect: whether the recent route redirects to an address with a token.
    """

    number: int
    odd: Callable[[int, Record], Record]
    page: int = 100
    redirect: bool = False

    def answer(self, path: str) -> Answer:
        """Return the answer to a request."""
        url = urlsplit(path)
        if self.redirect and "token" not in url.query and url.path.endswith("/recent"):
            return 302, {"Location": f"{path}&token={SECRET}"}, b""
        if url.path.endswith("/categories"):
            return GAMING
        others = {"/recent": _OF_LIVE, "/live": _OF_RECENT}.get(url.path[url.path.rindex("/") :])
        return NOT_FOUND if others is None else json_answer(self._page(parse_qs(url.query), others))

    def _page(self, query: dict[str, list[str]], others: set[str]) -> list[Record]:
        number = {name: int(query.get(name, [str(default)])[0]) for name, default in _DEFAULTS.items()}
        found = [
            (place, record)
            for place, record in enumerate(map(livestream, range(self.number)))
            if number["from_ts"] <= record["event_end_ts"] <= number["to_ts"]
        ]
        if query.get("sort_by_date_desc") == ["false"]:
            found.reverse()
        end = number["offset"] + min(number["limit"], self.page)
        return [
            {name: value for name, value in self.odd(place, record).items() if name not in others}
            for place, record in found[number["offset"] : end]
        ]


Lists = Callable[..., dict[str, str]]


@pytest.fixture
def lists(script: Script) -> Lists:
    """Return a function that serves an `OddApi`; it returns the environment."""
    return lambda *of, **others: to(script(OddApi(*of, **others).answer).base_url)


@pytest.mark.parametrize("end", [0, "1970-01-01", 1_600_000_000, 4_102_444_800], ids=str)
def test_an_implausible_end_hides_none_and_loses_none(end: Any, crawl: Run, lists: Lists) -> None:
    # As the last of a page, it would seem to be below every window.
    env = lists(500, lambda place, record: record | ({"event_end_ts": end} if place % 100 == 99 else {}))
    runs = [crawl("recent", env=env, run_id=name, incremental="true") for name in ("first", "second")]
    assert [(run.code, len(run.rows)) for run in runs] == [(0, 500), (0, 0)], runs[0].stderr


def test_an_end_that_is_days_too_early_hides_none(crawl: Run, lists: Lists) -> None:
    # It is the last of a page, and the next page would start from there.
    env = lists(500, lambda place, record: record | {"event_end_ts": record["event_end_ts"] - 86_400 * (place == 99)})
    run = crawl("recent", env=env)
    assert (run.code, len(run.rows)) == (0, 500), run.stderr


def test_half_of_the_records_is_no_flaw_and_one_more_is(crawl: Run, lists: Lists) -> None:
    def odd(place: int, record: Record) -> Record:
        return record | ({"total_viewers": {}, "viewers_count": {}} if place >= 40 - most else {})

    for spider, name in (("recent", "total_viewers"), ("live", "viewers_count")):
        for most, code in ((20, 0), (21, 4)):
            # Small pages overlap a lot, and probing the end repeats some records.
            run = crawl(spider, env=lists(40, odd, page=10), run_id=f"run-{most}")
            assert (run.code, run.package["complete"]) == (code, True), run.stderr
            assert run.package["unreadable_fields"][name] == most
            assert run.package["degraded"] == ([f"{name} is unreadable in 21 of 40 records"] if code else [])


def test_records_that_do_not_match_the_filters_do_not_count_for_the_fields(crawl: Run, lists: Lists) -> None:
    def odd(place: int, record: Record) -> Record:
        return {name: value for name, value in record.items() if name != "user_name" or place >= 20}

    for wanted, degraded in ((20, ["user_name is absent from 20 of 20 records"]), (19, [])):
        since = NEWEST - (wanted - 1) * STEP
        run = crawl("recent", env=lists(100, odd), run_id=f"run-{wanted}", since=since)
        assert (len(run.rows), run.package["degraded"]) == (wanted, degraded)


def test_duplicates_count_once_for_the_share_that_may_be_set_aside(crawl: Run, lists: Lists) -> None:
    env = lists(19, lambda place, record: record | ({"event_id": "x"} if place == 5 else {}))
    run = crawl("recent", "-s", "PARTI_MAX_REJECTED=0", env=env)
    assert (run.code, len(run.rows), len(run.quarantine)) == (0, 18, 1), run.stderr
    # Whether records that are set aside match the filters is unknown, so the share is that of all records.
    env = lists(100, lambda place, record: record | ({"event_id": "x"} if place in {50, 60} else {}))
    run = crawl("recent", env=env, run_id="some", since=NEWEST - 19 * STEP)
    assert (run.code, len(run.rows), len(run.quarantine)) == (0, 20, 2), run.stderr


def test_a_token_in_the_address_that_the_api_redirects_to_is_neither_stored_nor_logged(
    crawl: Run, lists: Lists
) -> None:
    env = lists(30, lambda place, record: record | ({"event_id": "x"} if place == 5 else {}), redirect=True)
    run = crawl("recent", "-s", "LOG_LEVEL=DEBUG", env=env)
    assert (run.code, len(run.rows), len(run.quarantine)) == (0, 29, 1), run.stderr
    files = b"".join(path.read_bytes() for path in run.folder.iterdir())
    assert SECRET not in run.stderr + run.stdout + files.decode()
