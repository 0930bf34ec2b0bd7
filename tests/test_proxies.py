"""The proxies of the environment: which one a request uses, and the errors for those that cannot be used."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from parti_scraper.exceptions import UsageError
from parti_scraper.network.proxies import Proxy, proxy_of
from tests.proxies import ForwardingProxy
from tests.servers import (
    GAMING,
    IMPATIENT,
    SMALL,
    UNTHROTTLED,
    ScriptedServer,
    api_requests,
    closed_port,
    self_signed,
    to,
)
from tests.support import Run, Serve, sorted_ids, true_ids

PASSWORD = "pa55/w0rd"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return a function that sets variables in an environment without proxies."""
    for name in os.environ.keys() & {*NAMES, *map(str.upper, NAMES)}:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def proxy() -> Iterator[ForwardingProxy]:
    """Return a proxy that works."""
    with ForwardingProxy() as proxy:
        yield proxy


@pytest.fixture
def https(tmp_path: Path) -> Iterator[str]:
    """Return the address of an API that speaks TLS."""
    with closing(ScriptedServer(lambda _path: GAMING, self_signed(tmp_path))) as server:
        yield server.base_url


@pytest.mark.parametrize(
    ("variables", "address", "proxy"),
    [
        ({}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://api.example", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "wss://ws.example/", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://api.example", None),
        ({"HTTP_PROXY": "http://p:1"}, "ws://ws.example/", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "wss://ws.example/", None),
        ({"ALL_PROXY": "http://p:1"}, "https://api.example", "http://p:1"),
        ({"all_proxy": "http://p:1"}, "ws://ws.example/", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "https://api.example", "http://q:2"),
        ({"ALL_PROXY": "socks5://p:1", "HTTPS_PROXY": "http://q:2"}, "https://api.example", "http://q:2"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "https://api.example", "http://q:2"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, "https://api.example", None),
        ({"HTTPS_PROXY": "p:1"}, "https://api.example", "http://p:1"),
        ({"HTTPS_PROXY": "https://p:1/"}, "https://api.example", "https://p:1"),
        ({"HTTPS_PROXY": "http://[::1]:1"}, "https://api.example", "http://[::1]:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.example"}, "https://api.example", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.example, .example"}, "https://api.example", None),
        ({"ALL_PROXY": "http://p:1", "no_proxy": "127.0.0.1"}, "ws://127.0.0.1:80/", None),
        ({"ALL_PROXY": "http://p:1", "no_proxy": "host:8"}, "wss://host:8/", None),
        ({"ALL_PROXY": "http://p:1", "no_proxy": "host:8"}, "wss://host:9/", "http://p:1"),
        ({"ALL_PROXY": "socks5://p:1", "no_proxy": "*"}, "https://api.example", None),
    ],
)
def test_the_proxy_for_an_address(
    environment: pytest.MonkeyPatch, variables: dict[str, str], address: str, proxy: str | None
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    found = proxy_of(address)
    assert (found and found.url) == proxy


def test_the_address_of_a_proxy_has_no_password(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "http://joe:p%40ss%2Fword@p:1")
    assert proxy_of("https://api.example") == Proxy("http://p:1", "joe", "p@ss/word")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("socks5://joe:pa55/w0rd@p:1", "not a proxy that can be used: 'socks5://…'"),
        ("socks5h://p:1", "not a proxy that can be used: 'socks5h://…'"),
        ("SOCKS4://p:1", "not a proxy that can be used: 'SOCKS4://…'"),
        ("ftp://p:1", "not a proxy that can be used: 'ftp://…'"),
        ("http://", "not a proxy that can be used: 'http://…'"),
        ("http://joe:pa55/w0rd@p:port", "not a proxy that can be used: 'http://…'"),
        ("http://joe:pa55 w0rd@p:1", "not a proxy that can be used: 'http://…'"),
        ("joe:pa55 w0rd@p:1", "not the address of a proxy; what it holds is not shown"),
        ("/var/run/proxy.sock", "not the address of a proxy; what it holds is not shown"),
        ("http://[::1", "not a proxy that can be used: 'http://…'"),
        ("://p:1", "not the address of a proxy; what it holds is not shown"),
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_a_line_that_names_the_variable_and_shows_no_password(
    environment: pytest.MonkeyPatch, name: str, text: str, shown: str
) -> None:
    environment.setenv(name, text)
    with pytest.raises(UsageError) as error:
        proxy_of("https://api.example")
    assert str(error.value) == (
        f"environment variable `{name}`: {shown} (accepted: http://host:port, https://host:port)"
    )


@pytest.mark.parametrize("name", ["ALL_PROXY", "http_proxy"])
def test_a_proxy_that_cannot_be_used_ends_the_run_before_anything_is_requested(
    crawl: Run, serve: Serve, name: str
) -> None:
    server = serve(**SMALL)
    run = crawl("recent", server=server, env={name: f"socks5://joe:{PASSWORD}@127.0.0.1:1"})
    assert (run.code, run.stdout) == (2, "")
    assert run.stderr == (
        f"environment variable `{name}`: not a proxy that can be used: 'socks5://…' "
        "(accepted: http://host:port, https://host:port)\n"
    )
    assert server.requests == []
    assert crawl("recent", server=server, env={name: "socks5://p:1", "NO_PROXY": "127.0.0.1"}).code == 0


def test_a_proxy_that_cannot_be_used_for_the_websocket_ends_the_run_too(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL)
    env = {"PARTI_WS_URL": "wss://127.0.0.1:9/", "HTTPS_PROXY": "socks5://p:1"}
    run = crawl("notifications", server=server, env=env, duration=1)
    assert run.code == 2
    assert run.stderr.startswith("environment variable `HTTPS_PROXY`: ")
    assert server.requests == []
    # A spider that does not listen ignores it.
    assert crawl("categories", server=server, env=env).code == 0


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_requests_go_through_the_proxy(crawl: Run, serve: Serve, proxy: ForwardingProxy, name: str) -> None:
    server = serve(**SMALL)
    address = proxy.url.replace("http://", "http://joe:pa55%2Fw0rd@")
    run = crawl("recent", "--loglevel", "DEBUG", server=server, env={name: address})
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(server)
    assert len([each for each in proxy.asked if "/parti_v2/" in each]) == len(api_requests(server))
    assert set(proxy.logins) == {"Basic " + base64.b64encode(b"joe:pa55/w0rd").decode()}
    left = run.stderr + "".join(path.read_text(encoding="utf-8") for path in run.folder.iterdir())
    assert "w0rd" not in left
    assert "Proxy-Authorization" not in str([seen.headers for seen in server.requests])


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_tls_goes_through_a_tunnel(crawl: Run, https: str, proxy: ForwardingProxy, name: str) -> None:
    # Without a scheme, as is common.
    env = to(https) | {name: proxy.url.removeprefix("http://")}
    run = crawl("categories", "-s", "DOWNLOAD_VERIFY_CERTIFICATES=False", env=env)
    assert run.code == 0
    assert [row["name"] for row in run.rows] == ["Gaming"]
    assert set(proxy.asked) == {https.removeprefix("https://")}


def test_after_a_failover_the_next_hosts_proxy_is_used(crawl: Run, serve: Serve, proxy: ForwardingProxy) -> None:
    server = serve(**SMALL)
    # The proxy cannot find the first host, and is not used for the second.
    env = to("http://localhost:9", server.base_url) | {"http_proxy": proxy.url, "no_proxy": "127.0.0.1"} | IMPATIENT
    run = crawl("recent", *UNTHROTTLED, env=env)
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(server)
    assert {each.partition(":9/")[0] for each in proxy.asked} == {"http://localhost"}


def test_a_dead_proxy_is_named(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL)
    run = crawl("recent", server=server, env=IMPATIENT | {"ALL_PROXY": closed_port()})
    assert run.code == 4
    assert "no connection to the proxy" in run.package["reason"]
    assert server.requests == []
