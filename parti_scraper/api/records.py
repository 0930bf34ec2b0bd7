"""From the bytes of an answer to the records of a page; a broken record does not affect the others."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgspec

from parti_scraper.exceptions import PageError
from parti_scraper.redact import MAX_DEPTH, NESTED_TOO_DEEP
from parti_scraper.wording import number_of

_SURROGATE = re.compile("[\ud800-\udfff]")
# The tokens that give JSON its structure: brackets, commas, and texts, since these may contain the others. A lone
# quotation mark begins a text that does not end.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)
# Depth, counted in open brackets from that of the page on, from which on `redact` cuts.
_TOO_DEEP = MAX_DEPTH + 3
_CUT = json.dumps(NESTED_TOO_DEEP).encode()
_STEPS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_BLANK = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Unparsable:
    """A record that is no JSON.

    Attributes:
        text: what came in its place.
    """

    text: str


def parse_page(body: bytes) -> list[Any]:
    """Return the records of a page, `Unparsable` where one is no JSON; `null` is a page without records.

    Raises:
        PageError: the body is no whole JSON list; the text says what it is instead.
    """
    try:
        page = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        page = _parse_patiently(body)
    if page is None:
        return []
    if not isinstance(page, list):
        raise PageError(f"the answer is no list of records but {kind_of(page)} ({number_of(len(body), 'bytes')})")
    return page


def _parse_patiently(body: bytes) -> list[Any]:
    """Parse record by record what is nearly JSON: with half characters, `NaN`, or numbers that are too long."""
    text = body.strip(_BLANK)
    encoding = json.detect_encoding(text)
    if encoding != "utf-8":
        text = text.decode(encoding, errors="replace").strip().encode(errors="replace")
    try:
        return [_parse(element) for element in _split(text)]
    except ValueError as error:
        what = "a web page" if text.startswith(b"<") else "broken JSON" if text else "empty"
        raise PageError(f"the answer is no list of records but {what} ({number_of(len(body), 'bytes')})") from error


def _split(body: bytes) -> list[bytes]:
    """Return the elements of a JSON list as they came, except what is nested too deeply, which is cut.

    It does not recurse, and looks only at texts, brackets and commas, so an error within an element stays within it.

    Raises:
        ValueError: it is no list, or an incomplete one.
    """
    elements: list[bytes] = []
    element, start, depth, end = b"", 1, 0, 0
    for token in _TOKEN.finditer(body):
        mark, step = token[0], _STEPS.get(token[0], 0)
        if mark == b'"':
            break
        depth += step
        if step > 0 and depth == _TOO_DEEP:
            element += body[start : token.start()] + _CUT
        elif step < 0 and depth == _TOO_DEEP - 1:
            start = token.end()
        elif depth == 0 or (depth == 1 and mark == b","):
            elements.append((element + body[start : token.start()]).strip(_BLANK))
            element, start = b"", token.end()
        if depth == 0:
            end = token.end()
            break
    if not end or body[:1] + body[end - 1 :] != b"[]" or (b"" in elements and len(elements) > 1):
        raise ValueError("not one whole list")
    return [] if elements == [b""] else elements


def _parse(element: bytes) -> Any:
    try:
        return msgspec.json.decode(element)
    except (ValueError, RecursionError):
        text = element.decode(errors="replace")
    try:
        value = json.loads(text, strict=False, parse_int=_integer, parse_float=_finite, parse_constant=str)
    except (ValueError, RecursionError):
        return Unparsable(text)
    return _whole_characters(value)


def _whole_characters(value: Any) -> Any:
    """Replace lone surrogates by U+FFFD: half of a character is no text that UTF-8 can hold."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole_characters(inner) for inner in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(inner) for name, inner in value.items()}
    return value


def _integer(text: str) -> int | str:
    """Return the number, or its text where it has more digits than Python converts."""
    try:
        return int(text)
    except ValueError:
        return text


def _finite(text: str) -> float | str:
    """Return the number, or its text where it is too large for one: infinity is not JSON."""
    number = float(text)
    return number if isfinite(number) else text


def kind_of(value: Any) -> str:
    """Return in a word or two what a JSON value is."""
    names = {
        bool: "true or false",
        dict: "an object",
        float: "a fraction",
        int: "a number",
        list: "a list",
        str: "a text",
        type(None): "null",
    }
    return names[type(value)]
