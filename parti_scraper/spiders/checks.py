"""The checks of settings, before anything is requested."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parti_scraper.api import urls
from parti_scraper.api.quality import parse_expect_absent, parse_max_rejected
from parti_scraper.api.times import parse_length
from parti_scraper.browser.chromium import check_browser
from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.network.proxies import check_proxies
from parti_scraper.network.settings import check_settings as check_retry_settings
from parti_scraper.secret_settings import SECRETS, secret_from
from parti_scraper.spiders import components

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings


def check_settings(settings: BaseSettings, uses: tuple[str, ...]) -> None:
    """Check the settings of a spider.

    Args:
        settings: with those of the spider.
        uses: settings with further servers that the spider uses.

    Raises:
        UsageError: a setting is wrong.
        BrowserError: there is no browser, and one is needed.
    """
    urls.parse_base_urls(settings["PARTI_API_BASE_URLS"])
    components.check(settings)
    check_retry_settings(settings)
    for name in SECRETS:
        secret_from(settings, name)
    check_proxies(settings)
    urls.check_same_machine(addresses(settings, uses))
    if settings["PARTI_TRANSPORT"] == "browser":
        check_browser(settings)
    for name in ("PARTI_INCREMENTAL_OVERLAP", "PARTI_WS_IDLE_TIMEOUT"):
        parse_length("setting", name, settings[name])
    parse_expect_absent(settings["PARTI_EXPECT_ABSENT"])
    parse_max_rejected(settings["PARTI_MAX_REJECTED"])
    _check_batching(settings)


def addresses(settings: BaseSettings, uses: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of all servers that a spider uses, by setting; arguments as in `check_settings`.

    Raises:
        UsageError: one is wrong.
    """
    names = {"PARTI_API_BASE_URLS", *uses}
    if settings["PARTI_TRANSPORT"] == "browser":
        names.add("PARTI_SITE_URL")
    found = {
        "PARTI_API_BASE_URLS": urls.parse_base_urls(settings["PARTI_API_BASE_URLS"]),
        "PARTI_WS_URL": urls.parse_ws_urls(settings["PARTI_WS_URL"]),
        "PARTI_SITE_URL": (urls.check_site_url(settings["PARTI_SITE_URL"]),),
    }
    return {name: each for name, each in found.items() if name in names}


def _check_batching(settings: BaseSettings) -> None:
    try:
        settings.getbool("PARTI_BATCHING")
    except ValueError:
        value = str(settings["PARTI_BATCHING"])
        hint = did_you_mean(value, ("true", "false"))
        problem = "neither true nor false"
        raise UsageError.of("setting", "PARTI_BATCHING", problem, value, "true, false", hint=hint) from None
