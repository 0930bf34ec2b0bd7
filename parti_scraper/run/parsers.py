"""How the value of a spider argument is parsed; times are in `api.times`, categories in `api.categories`.

Each parser takes the text and the current time in Unix seconds, and raises UnparsableError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from parti_scraper.api.times import UnparsableError
from parti_scraper.exceptions import did_you_mean

Parser = Callable[[str, float], Any]

_WHOLE_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
# One part of a path, readable everywhere, and never hidden.
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def whole_number(minimum: int, maximum: int = 10**18) -> Parser:

    def parse(text: str, _now: float) -> int:
        if not _WHOLE_NUMBER.fullmatch(text):
            raise UnparsableError("not a whole number")
        if not minimum <= int(text) <= maximum:
            raise UnparsableError("out of range")
        return int(text)

    return parse


def choice(*choices: str) -> Parser:

    def parse(text: str, _now: float) -> str:
        if text not in choices:
            raise UnparsableError("not one of the choices", did_you_mean(text, choices))
        return text

    return parse


def flag(text: str, _now: float) -> bool:
    if text not in {"true", "false"}:
        raise UnparsableError("neither true nor false", did_you_mean(text, ("true", "false")))
    return text == "true"


def page_url(text: str, _now: float) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f]", text):
        raise UnparsableError("not the address of a page")
    if "@" in parts.netloc:
        raise UnparsableError("an address with a user's name, which would be stored")
    return text


def folder_name(text: str, _now: float) -> str:
    if not _RUN_ID.fullmatch(text):
        raise UnparsableError("not usable as the name of a folder")
    return text
