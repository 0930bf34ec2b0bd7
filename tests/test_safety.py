"""What no server can cause: too many requests, open ports, untrusted certificates, secrets on disk."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from scrapy.crawler import Crawler
from scrapy.settings import Settings

from parti_scraper import settings as project
from parti_scraper.mockserver import MockServer
from parti_scraper.spiders.recent import RecentSpider
from tests.servers import Answer, ScriptedServer, json_answer, self_signed
from tests.support import STILL, Run, RunningCrawl, Serve, environment_of, paths, typed_of, wait_until

# For requests that always fail: a retry would change nothing.
SOON = {"PARTI_RETRY_PATIENCE": "0.1", "PARTI_RETRY_DELAY": "0.001"}


def test_a_host_never_gets_more_requests_at_a_time_than_the_limit(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, latency=0.05)
    # Scrapy itself does not keep the limit without a delay.
    cap = ("-s", "CONCURRENT_REQUESTS_PER_DOMAIN=2", "-s", "DOWNLOAD_DELAY=0")
    run = crawl("live", *cap, server=server, categories="all")
    assert run.code == 0
    assert server.peak_in_flight == 2


@pytest.mark.parametrize(
    ("base_urls", "is_ours"),
    [
        ("https://api-backend.parti.com", False),
        ("http://127.0.0.1:8765", True),
        ("http://127.0.0.1:8765,https://api-backend.parti.com", False),
    ],
)
def test_there_is_always_a_delay_except_for_a_server_on_this_machine(base_urls: str, is_ours: bool) -> None:
    settings = Settings()
    settings.setmodule(project, priority="project")
    settings.set("PARTI_API_BASE_URLS", base_urls, priority="cmdline")
    effective = Crawler(RecentSpider, settings).settings
    assert effective.getfloat("DOWNLOAD_DELAY") == (0.001 if is_ours else 0.25)
    assert effective.getbool("AUTOTHROTTLE_ENABLED") is not is_ours


def listening_ports(process_id: int) -> list[int]:
    """Return the TCP ports on which a process listens, read from the kernel."""
    process = Path("/proc") / str(process_id)
    inodes = {
        match[1]
        for link in (process / "fd").iterdir()
        if link.is_symlink() and (match := re.match(r"socket:\[(\d+)\]", str(link.readlink())))
    }
    sockets = [
        line.split() for name in ("tcp", "tcp6") for line in (process / "net" / name).read_text().splitlines()[1:]
    ]
    # State 0A is LISTEN.
    return [int(line[1].rpartition(":")[2], 16) for line in sockets if line[3] == "0A" and line[9] in inodes]


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="the kernel tells nothing about sockets")
def test_nobody_can_connect_to_a_crawl(serve: Serve, output: Path) -> None:
    server = serve(**STILL, latency=600)
    running = RunningCrawl(typed_of("recent", "run", {}, ()), environment_of(output, server))
    wait_until(lambda: bool(paths(server, "/categories")))
    ports = listening_ports(running.process.pid)
    running.process.kill()
    running.process.communicate()
    assert ports == []


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a server with a self-signed certificate, and the list of its requests."""
    asked: list[str] = []

    def answer(path: str) -> Answer:
        asked.append(path)
        return json_answer([])

    with closing(ScriptedServer(answer, self_signed(tmp_path))) as server:
        yield server.base_url, asked


def test_an_untrusted_certificate_is_refused(crawl: Run, stranger: tuple[str, list[str]]) -> None:
    url, asked = stranger
    run = crawl("categories", env={"PARTI_API_BASE_URLS": url, **SOON})
    assert run.code == 4
    assert asked == []
    assert "certificate" in run.package["reason"]


def test_robots_txt_is_obeyed_and_named_as_the_reason(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, robots="disallow")
    run = crawl("recent", server=server)
    assert run.code == 4
    assert [request.path for request in server.requests] == ["/robots.txt"]
    assert "robots.txt" in run.package["reason"]
    assert run.package["reason"] in run.stderr


def tokens(server: MockServer) -> set[str]:
    """Return the secrets that the live route sends."""
    live = server.world.live_at()
    queries = [urlsplit(record["playback_url"]).query for record in live]
    in_urls = {value for query in queries for name, value in parse_qsl(query) if name == "token"}
    return in_urls | {record["playback_auth_token"] for record in live}


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        (("-O", "ftp://me:hunter2@HOST/there/x.jsonl"), 4),
        (("-O", "ftp://hun%74er2:hunter2@x@HOST/x.csv", "-s", "FTP_PASSWORD=hunter2"), 4),
        (("-s", 'AWS_SECRET_ACCESS_KEY=it\'s "hunter2"', "-s", "FTP_PASSWORD=it's hunter2"), 0),
    ],
)
def test_a_password_of_a_feed_is_in_no_log_line_and_no_file(
    crawl: Run, serve: Serve, typed: tuple[str, ...], code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        host = f"127.0.0.1:{unused.getsockname()[1]}"
    typed = tuple(each.replace("HOST", host) for each in typed)
    run = crawl("categories", *typed, "--loglevel", "DEBUG", server=serve(**STILL))
    assert run.code == code, run.stderr
    texts = [run.stdout, run.stderr, *(path.read_text(encoding="utf-8") for path in run.folder.iterdir())]
    assert "hunter2" not in "".join(texts)
    # The line is there, and names the feed.
    assert code == 0 or re.search(rf"Error storing \w+ feed \(\d+ items\) in: ftp://{host}/", run.stderr)


def test_a_secret_of_the_api_is_in_no_file_and_no_line_of_a_debug_log(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, malformed=0.3)
    run = crawl("live", "--loglevel", "DEBUG", "-s", "PARTI_MAX_REJECTED=1", server=server)
    assert run.code == 0
    assert run.quarantine
    assert "DEBUG: Crawled (200)" in run.stderr
    secrets = tokens(server)
    assert len(secrets) > 30
    for text in (run.stderr, run.stdout, *(path.read_text(encoding="utf-8") for path in run.folder.iterdir())):
        assert not [secret for secret in secrets if secret in text]
        assert "playback_auth_token" not in text
        assert "eyJ" not in text
