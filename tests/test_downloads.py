"""What the project expects of its download handler, which rests on one that Scrapy calls experimental."""

from __future__ import annotations

import gzip
import json
from urllib.parse import urlsplit

import pytest

from parti_scraper import settings
from tests.conftest import Run
from tests.test_middlewares import (
    CATEGORIES,
    GAMING,
    IMPATIENT,
    NOT_FOUND,
    UNTHROTTLED,
    Answer,
    Script,
    closed_port,
    script,
    to,
)

__all__ = ["script"]

STATUS, HEADERS, BODY = GAMING


def gaming_or_nothing(path: str) -> Answer:
    return GAMING if urlsplit(path).path == CATEGORIES else NOT_FOUND


def test_a_proxy_of_the_environment_is_asked(crawl: Run, script: Script) -> None:
    proxy = script(gaming_or_nothing)
    run = crawl("categories", *UNTHROTTLED, env=to("http://api.example") | {"http_proxy": proxy.base_url})
    assert run.code == 0
    assert [row["name"] for row in run.rows] == ["Gaming"]
    assert f"http://api.example{CATEGORIES}" in proxy.paths


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_named_as_what_is_wrong(crawl: Run, scheme: str) -> None:
    proxy = closed_port()
    env = IMPATIENT | to(f"{scheme}://api.example") | {f"{scheme}_proxy": proxy}
    run = crawl("categories", *UNTHROTTLED, env=env)
    assert run.code == 4
    assert "no connection" in run.package["reason"]
    assert urlsplit(proxy).netloc.rpartition(":")[2] in run.package["reason"]


def test_a_proxy_that_refuses_is_no_lost_connection(crawl: Run, script: Script) -> None:
    proxy = script(lambda _: (403, {}, b"not from here"))
    run = crawl("categories", *UNTHROTTLED, env=IMPATIENT | to("https://api.example") | {"https_proxy": proxy.base_url})
    assert run.code == 4
    assert "no connection" in run.package["reason"]
    assert "403" in run.package["reason"]


@pytest.mark.parametrize("length", [{}, {"Content-Length": ""}], ids=["length told", "length not told"])
@pytest.mark.parametrize("encoding", ["gzip", ""])
def test_a_body_is_read_whole_whatever_is_told_of_it(
    crawl: Run, script: Script, encoding: str, length: dict[str, str]
) -> None:
    body = gzip.compress(BODY) if encoding else BODY

    def answer(path: str) -> Answer:
        return (STATUS, HEADERS | {"Content-Encoding": encoding} | length, body) if path == CATEGORIES else NOT_FOUND

    run = crawl("categories", env=to(script(answer).base_url))
    assert run.code == 0
    assert [row["name"] for row in run.rows] == ["Gaming"]


@pytest.mark.parametrize("length", [{}, {"Content-Length": ""}], ids=["length told", "length not told"])
@pytest.mark.parametrize("encoding", ["gzip", ""])
def test_a_body_of_more_than_the_limit_is_refused(
    crawl: Run, script: Script, encoding: str, length: dict[str, str]
) -> None:
    large = b"[" + b" " * 100_000 + BODY[1:]
    body = gzip.compress(large) if encoding else large

    def answer(path: str) -> Answer:
        return (STATUS, HEADERS | {"Content-Encoding": encoding} | length, body) if path == CATEGORIES else NOT_FOUND

    run = crawl("categories", "-s", "DOWNLOAD_MAXSIZE=50000", env=IMPATIENT | to(script(answer).base_url))
    assert run.code == 4
    assert run.rows == []
    assert "50000" in run.package["reason"]


@pytest.mark.parametrize("length", [{}, {"Content-Length": ""}], ids=["length told", "length not told"])
def test_who_listens_for_the_parts_of_a_body_hears_them(crawl: Run, script: Script, length: dict[str, str]) -> None:
    server = script(lambda path: (STATUS, HEADERS | length, BODY) if path == CATEGORIES else NOT_FOUND)
    extensions = settings.EXTENSIONS | {"tests.components.Hearing": 1}
    run = crawl("categories", "-s", f"EXTENSIONS={json.dumps(extensions)}", env=to(server.base_url))
    assert run.code == 0
    assert json.loads(run.stdout)[CATEGORIES] == len(BODY)
