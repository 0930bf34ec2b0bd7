"""Where the folders of the settings are, on the command line and in a job of scrapyd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scrapy.settings import SETTINGS_PRIORITIES

from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy.settings import BaseSettings

_PLACES = ("PARTI_OUTPUT_DIR", "PARTI_STATE_DIR", "PARTI_HOME")
_ACCEPTED = "an absolute path such as /srv/parti"


def output_dir(settings: BaseSettings, raw_arguments: Mapping[str, str]) -> Path:
    """Return the folder of all runs' folders. Raises UsageError."""
    return _resolve(settings, "PARTI_OUTPUT_DIR", raw_arguments)


def state_dir(settings: BaseSettings, raw_arguments: Mapping[str, str]) -> Path:
    """Return the folder of the ledger. Raises UsageError."""
    return _resolve(settings, "PARTI_STATE_DIR", raw_arguments)


def typed_places(settings: BaseSettings) -> list[str]:
    """Return the options that say on the command line where folders are, as words of a shell."""
    given = [name for name in _PLACES if settings.getpriority(name) == SETTINGS_PRIORITIES["cmdline"]]
    return [word for name in given for word in ("-s", f"{name}={settings[name]}")]


def _resolve(settings: BaseSettings, name: str, raw_arguments: Mapping[str, str]) -> Path:
    text: str = settings[name]
    if not text:
        raise UsageError.of("setting", name, "empty", "", "a folder")
    folder = _home(settings, raw_arguments) / _in_home_folder(text)
    try:
        # The ledger and the data package name it, in UTF-8.
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError.of("setting", name, "not UTF-8", str(folder.absolute()), "a folder whose name is") from None
    return folder


def _home(settings: BaseSettings, raw_arguments: Mapping[str, str]) -> Path:
    """Return the base of relative paths: an absolute path, or the working folder as `.`."""
    home = settings["PARTI_HOME"]
    if home:
        folder = _in_home_folder(home)
        if not folder.is_absolute():
            raise UsageError.of("setting", "PARTI_HOME", "not an absolute path", home, _ACCEPTED)
        return folder
    # Only scrapyd sends `_job`; the working folder of a job is where scrapyd was started.
    if not raw_arguments.get("_job"):
        return Path()
    try:
        return Path.home() / "parti_scraper"
    except RuntimeError:  # The user has no home folder.
        raise UsageError.of("setting", "PARTI_HOME", "empty, and there is no home folder", "", _ACCEPTED) from None


def _in_home_folder(text: str) -> Path:
    """Return a path with the home folder for `~`, which no shell replaces in a file of settings or a crontab."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - that of Path raises an error where there is none
