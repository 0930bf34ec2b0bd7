"""Chromium: find it, check that it is there, start and close it.

Playwright is an optional dependency (the extra `browser`), so it is imported inside the functions that use it and never
when a module is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.exceptions import BrowserError
from parti_scraper.network.backoff import one_line
from parti_scraper.secret_settings import SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from playwright.async_api import Browser, Playwright
    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

_PACKAGES = ("playwright", "scrapy_playwright")
_DEBIAN = "/usr/bin/chromium"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_INSTALL = "install it with `apt-get install chromium` or `playwright install chromium`"
ARGUMENTS = (
    # QUIC would bypass a proxy, and what a page requests would not be seen.
    "--disable-quic",
    # No requests that no page makes: updates, lists of sites, reports.
    "--disable-background-networking",
    # /dev/shm is small in containers, and a page that needs more of it crashes.
    "--disable-dev-shm-usage",
)
# How long closing may take, in seconds; Chromium also ends by itself when the pipe to it closes.
_CLOSE_TIMEOUT = 5.0
# Not passed on to driver and browser: with DEBUG the driver prints everything it transports, the token included.
_NOT_INHERITED = ("DEBUG", *SECRETS)
# Lines of the stack trace that Chromium prints when it crashes: functions, registers, and the lines around them.
_STACK = re.compile(r"\s|#\d+ |\[end of stack trace\]|Received signal|Calling _exit|$")
# How the spider `site` opens its pages. `BrowserProvider` adds the user agent, which is known once the browser runs.
CONTEXT_OPTIONS: dict[str, Any] = {
    # A page cannot fill the disk with downloads.
    "accept_downloads": False,
}


def find_chromium(setting: str) -> str:
    """Return the path of Chromium.

    Args:
        setting: the value of `PARTI_CHROMIUM`; if it is empty, the usual places are searched.

    Raises:
        BrowserError: none was found.
    """
    if setting:
        found = shutil.which(setting)
        if found is None:
            raise BrowserError(
                f"setting `PARTI_CHROMIUM`: not a program: {setting!r} (accepted: the path of Chromium; {_INSTALL})"
            )
        return found
    for name in (_DEBIAN, *_NAMES):
        if found := shutil.which(name):
            return found
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    # The version number is in the name of the folder: the newest comes first.
    for path in sorted(own.glob("chromium-*/chrome-linux*/chrome"), reverse=True):
        if os.access(path, os.X_OK):
            return str(path)
    raise BrowserError(f"no Chromium was found: {_INSTALL}, or set PARTI_CHROMIUM to the path of one")


def check_browser(settings: BaseSettings) -> None:
    """Check that the extra and Chromium are installed. Raises BrowserError."""
    if not all(map(importlib.util.find_spec, _PACKAGES)):
        raise BrowserError("the browser needs scrapy-playwright: install it with `pip install scrapy-playwright`")
    find_chromium(settings["PARTI_CHROMIUM"])


def launch_options(settings: BaseSettings) -> dict[str, Any]:
    """Return the options for Playwright's `launch`. Raises BrowserError if there is no Chromium."""
    return {
        "executable_path": find_chromium(settings["PARTI_CHROMIUM"]),
        "headless": True,
        "args": list(ARGUMENTS),
        # Chromium does not run as root with its sandbox.
        "chromium_sandbox": os.geteuid() != 0,
        # Scrapy handles signals, and closes the browser when it shuts down.
        "handle_sigint": False,
        "handle_sigterm": False,
        "handle_sighup": False,
    }


class _ClosedBrowserFilter(logging.Filter):
    """Keeps errors about a closed browser out of the log: the caller gets them as exceptions.

    They are common, since Ctrl-C sends its signal to the driver too.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return type(error).__name__ != "TargetClosedError" and "reading from the driver" not in record.getMessage()


_CLOSED_BROWSER = _ClosedBrowserFilter()


class Chromium:
    """A browser, and the driver process through which Playwright controls it.

    Both are connected to this process by pipes: if it is killed, they end by themselves.

    Attributes:
        user_agent: the browser's own, without the word "Headless"; empty until it has started.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.user_agent = ""
        self._options = dict(options)
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    async def start(self) -> Browser:
        """Start the browser. Raises BrowserError, whose text is one line."""
        with _reduced_environment():
            # Playwright reads DEBUG when it is imported.
            from playwright.async_api import Error, async_playwright  # noqa: PLC0415 - an extra

        for name in ("asyncio", "playwright"):
            logging.getLogger(name).addFilter(_CLOSED_BROWSER)
        try:
            with _reduced_environment():
                self._playwright = await async_playwright().start()
            self._browser = await self._launch()
            session = await self._browser.new_browser_cdp_session()
            version = await session.send("Browser.getVersion")
            await session.detach()
        except (Error, OSError) as error:
            await self.close()
            what = f"{self._options['executable_path']}: {_why(error)}"
            raise BrowserError(f"Chromium could not be started: {what} (PARTI_CHROMIUM names another)") from None
        self.user_agent = version["userAgent"].replace("Headless", "")
        return self._browser

    async def _launch(self) -> Browser:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        assert self._playwright is not None  # noqa: S101 - `start`
        launch = self._playwright.chromium.launch
        try:
            return await launch(**self._options)
        except Error as error:
            if not self._options["chromium_sandbox"] or "sandbox" not in str(error).lower():
                raise
        # As in most containers, which are a sandbox themselves.
        logger.warning("This system does not let Chromium use its sandbox: it is started without")
        return await launch(**self._options | {"chromium_sandbox": False})

    async def close(self) -> None:
        """Close the browser; it may have ended already."""
        browser, playwright = self._browser, self._playwright
        self._browser = self._playwright = None
        # A driver that has died does not answer, or raises errors of several kinds.
        with contextlib.suppress(Exception):
            if browser is not None:
                await asyncio.wait_for(browser.close(), _CLOSE_TIMEOUT)
        with contextlib.suppress(Exception):
            if playwright is not None:
                await asyncio.wait_for(playwright.stop(), _CLOSE_TIMEOUT)


class BrowserProvider:
    """Starts the browser for scrapy-playwright, whose setting PLAYWRIGHT_BROWSER_PROVIDER names this class."""

    def __init__(self, config: Any) -> None:
        self._chromium = Chromium(config.launch_options)

    async def start(self) -> None:
        """Do nothing yet: an error raised here would be logged by the engine, with a traceback."""

    async def launch_browser(self) -> Browser:
        """Start the browser. Raises BrowserError."""
        browser = await self._chromium.start()
        CONTEXT_OPTIONS["user_agent"] = self._chromium.user_agent
        return browser

    async def close(self) -> None:
        await self._chromium.close()


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error from Playwright, without the log of its calls."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # The name of the function, which comes first, is left out too.
    return one_line(re.sub(r"^\w+\.\w+: ", "", lines[0])) if lines else type(error).__name__


def _why(error: BaseException) -> str:
    """Return why a program did not start: the last line that it printed, if it printed anything.

    Lines before it are warnings, such as those of Debian's launcher; a stack trace may follow.
    """
    printed = [text for text in re.findall(r"\[(?:err|out)\] (.+)", str(error)) if not _STACK.match(text)]
    if printed:
        return one_line(printed[-1].strip())
    return "it ended at once" if "has been closed" in str(error) else first_line(error)


@contextlib.contextmanager
def _reduced_environment() -> Iterator[None]:
    """Remove from the environment, within the context, what new processes must not inherit."""
    taken = {name: os.environ.pop(name) for name in _NOT_INHERITED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)
