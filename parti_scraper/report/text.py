"""Text of strangers as the report shows it, and which addresses it links to. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Joins the parts of an emoji, and letters of some scripts; it moves nothing.
_JOINERS = "\u200c\u200d"
_BREAK = re.compile(r"\r\n|[\t\n\r]")
# What follows scheme and host of an address: no character that a browser reads as another one.
_REST = re.compile(r"(?:[/?#][A-Za-z0-9\-._~%/?#\[\]@!$&()*+,;=:]*)?", re.ASCII)


def shown(text: str | None) -> str:
    """Return a text as one line, with a mark for each character that is not seen, or would turn other text around."""
    one_line = _BREAK.sub(" ", text or "")
    return "".join("\ufffd" if _is_hidden(each) else each for each in one_line)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and character not in _JOINERS


def link(url: str | None, origins: Iterable[str]) -> str | None:
    """Return an address if it is on one of the sites, given as scheme and host; else None: it is not to be a link."""
    is_safe = any(url.startswith(each) and _REST.fullmatch(url[len(each) :]) for each in origins) if url else False
    return url if is_safe else None
