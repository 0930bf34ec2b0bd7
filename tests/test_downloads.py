"""What the project expects of its download handler, which extends one that Scrapy calls experimental."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from scrapy.exceptions import DownloadConnectionRefusedError

from parti_scraper.api.routes import USER_AGENT
from parti_scraper.network import http
from tests.servers import GAMING, IMPATIENT, NOT_FOUND, UNTHROTTLED, Answer, Script, closed_port, to
from tests.support import CATEGORIES, Run

STATUS, HEADERS, BODY = GAMING


def gaming_or_nothing(path: str) -> Answer:
    return GAMING if urlsplit(path).path == CATEGORIES else NOT_FOUND


def test_a_proxy_of_the_environment_is_used(crawl: Run, script: Script) -> None:
    proxy = script(gaming_or_nothing)
    run = crawl("categories", *UNTHROTTLED, env=to("http://api.example") | {"http_proxy": proxy.base_url})
    assert run.code == 0
    assert [row["name"] for row in run.rows] == ["Gaming"]
    assert f"http://api.example{CATEGORIES}" in proxy.paths


def test_only_the_proxy_gets_its_password(crawl: Run, script: Script) -> None:
    proxy = script(gaming_or_nothing)
    with_password = proxy.base_url.replace("//", "//joe:p%2Fw@")
    run = crawl("categories", *UNTHROTTLED, env=to("http://api.example") | {"http_proxy": with_password})
    assert run.code == 0
    sent = {headers.get("Proxy-Authorization") for _, headers in proxy.requests}
    assert sent == {"Basic " + base64.b64encode(b"joe:p/w").decode()}


def test_a_proxy_that_refuses_a_password_does_not_expose_it(crawl: Run, script: Script, tmp_path: Path) -> None:
    proxy = script(lambda _: (407, {}, b""))
    env = IMPATIENT | {"https_proxy": proxy.base_url.replace("//", "//joe:pa55%2Fw0rd@")}
    log = tmp_path / "log"
    run = crawl("categories", *UNTHROTTLED, "-s", f"LOG_FILE={log}", env=env | to("https://api.example"))
    assert run.code == 4
    assert "proxy: 407" in run.package["reason"]
    everything = run.stderr + log.read_text() + json.dumps(run.package)
    assert "w0rd" not in everything
    asked = [headers for path, headers in proxy.requests if path == "api.example:443"]
    assert {headers["Proxy-Authorization"] for headers in asked} == {
        "Basic " + base64.b64encode(b"joe:pa55/w0rd").decode()
    }
    assert {headers["User-Agent"] for headers in asked} == {USER_AGENT}


def test_a_proxy_whose_name_is_not_found_is_not_reported_as_the_host(crawl: Run) -> None:
    env = IMPATIENT | to("http://api.example,http://other.example") | {"http_proxy": "http://proxy.invalid:1"}
    run = crawl("categories", *UNTHROTTLED, env=env)
    assert run.code == 4
    assert "proxy: proxy.invalid:1" in run.package["reason"]
    assert run.package["reason"].endswith("(HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)")
    assert run.package["failovers"] == []


def test_a_header_may_be_as_long_as_a_large_policy(crawl: Run, script: Script) -> None:
    headers = HEADERS | {"Content-Security-Policy": "x" * 16_000}
    server = script(lambda path: (STATUS, headers, BODY) if path == CATEGORIES else NOT_FOUND)
    assert crawl("categories", env=to(server.base_url)).code == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_cannot_be_reached_is_named_in_the_error(crawl: Run, scheme: str) -> None:
    proxy = closed_port()
    env = IMPATIENT | to(f"{scheme}://api.example") | {f"{scheme}_proxy": proxy}
    run = crawl("categories", *UNTHROTTLED, env=env)
    assert run.code == 4
    assert "no connection" in run.package["reason"]
    assert urlsplit(proxy).netloc.rpartition(":")[2] in run.package["reason"]


def test_a_proxy_that_refuses_is_not_a_dropped_connection(crawl: Run, script: Script) -> None:
    proxy = script(lambda _: (403, {}, b"not from here"))
    run = crawl("categories", *UNTHROTTLED, env=IMPATIENT | to("https://api.example") | {"https_proxy": proxy.base_url})
    assert run.code == 4
    assert "no connection" in run.package["reason"]
    assert "403" in run.package["reason"]


@pytest.mark.parametrize("length", [{}, {"Content-Length": ""}], ids=["length told", "length not told"])
@pytest.mark.parametrize("encoding", ["gzip", ""])
def test_a_body_is_read_whole_with_any_headers(
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
def test_a_listener_for_the_parts_of_a_body_gets_them(crawl: Run, script: Script, length: dict[str, str]) -> None:
    server = script(lambda path: (STATUS, HEADERS | length, BODY) if path == CATEGORIES else NOT_FOUND)
    extensions = {"tests.components.Hearing": 1}
    run = crawl("categories", "-s", f"EXTENSIONS={json.dumps(extensions)}", env=to(server.base_url))
    assert run.code == 0
    assert json.loads(run.stdout)[CATEGORIES] == len(BODY)


def test_a_name_of_which_one_address_refuses_and_one_cannot_be_reached_is_refused() -> None:
    both = OSError(
        "Multiple exceptions: [Errno 101] Network is unreachable, [Errno 111] Connect call failed ('::1', 1)"
    )
    key = ConnectionKey("api.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
    error = http.as_scrapy_error(aiohttp.ClientConnectorError(key, both), None)
    assert isinstance(error, DownloadConnectionRefusedError)
    assert "object at" not in str(error)
