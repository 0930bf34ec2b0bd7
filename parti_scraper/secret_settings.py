"""Settings that come from the environment only, because others can read a command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from parti_scraper.exceptions import UsageError
from parti_scraper.redact import Secret

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

# By name. The settings read them as they are imported.
SECRETS = ("PARTI_ALERT_URLS", "PARTI_DATABASE_URL", "PARTI_PING_URL", "PARTI_TOKEN")


def forget_environment() -> None:
    """Remove the secrets from the environment, which every process that is started from now on gets a copy of.

    To be called once the settings were imported.
    """
    for name in SECRETS:
        os.environ.pop(name, None)


def secret_from(settings: BaseSettings, name: str) -> Secret:
    """Return a secret of the environment, empty if it is not set. Raises UsageError if it was typed."""
    secret = settings.get(name, Secret(""))
    if not isinstance(secret, Secret):
        raise UsageError(
            f"setting `{name}`: not to be typed, since others on the machine can read it there "
            f"(accepted: the environment variable {name})"
        )
    return secret
