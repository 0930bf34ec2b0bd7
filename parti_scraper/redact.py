"""Secrets: those that the API sends, taken out before anything is stored or logged, and the user's own.

The live route comes with `playback_auth_token` and with tokens in the query of `playback_url`; a route may grow
another one on any day, so every field that no item declares is searched too.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

# What is nested deeper is no record of this API, and would exhaust the stack of every reader.
MAX_DEPTH = 50

# As the last words of a name: `playback_auth_token`, `streamKey`, `apikey`; but not `token_symbol`.
_SECRET_NAME = re.compile(
    r"(^|_)(token|jwt|secret|password|passwd|authorization|signature|credentials?|cookie"
    r"|(api|stream|access|private|secret|ingest)_?key)$"
)
# Parameters of a URL hold access more often under short names.
_SECRET_PARAMETER = re.compile(
    r"token|jwt|secret|passw|signature|credential|session|hdnts|hdnea|key-pair-id|api_?key"
    r"|(^|[^a-z])(auth|authorization|sig|key|policy)([^a-z]|$)",
    re.IGNORECASE,
)
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A JSON Web Token: `eyJ` is `{"` in base64.
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")


class Secret:
    """A text that shows in no log, dump or traceback: whoever needs it has to ask for it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __bool__(self) -> bool:
        """Tell whether there is a text."""
        return bool(self._text)

    def __repr__(self) -> str:
        """Return stars."""
        return "***"


def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds a secret, in snake_case, kebab-case or camelCase."""
    return bool(_SECRET_NAME.search(_WORD_START.sub("_", name).replace("-", "_").lower()))


def redact_url(url: str) -> str:
    """Return the URL without its credentials and without the parameters of its query that give access."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _JWT.sub("", url.partition("?")[0])
    netloc = parts.netloc.rpartition("@")[2]
    fragment = "" if _JWT.search(parts.fragment) or _SECRET_PARAMETER.search(parts.fragment) else parts.fragment
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if not (_SECRET_PARAMETER.search(name) or _JWT.search(value))]
    # Without a secret the query stays as it came, to the letter.
    query = parts.query if len(kept) == len(pairs) else urlencode(kept, errors="replace")
    return _JWT.sub("", urlunsplit((parts.scheme, netloc, parts.path, query, fragment)))


def redact(value: Any, depth: int = 0) -> Any:
    """Return a copy of a JSON value without secrets: fields by their names, tokens and URLs by their looks.

    What is nested more than `MAX_DEPTH` levels deep is replaced by a text that says so.
    """
    if depth > MAX_DEPTH:
        return f"(nested more than {MAX_DEPTH} levels deep)"
    if isinstance(value, dict):
        return {name: redact(inner, depth + 1) for name, inner in value.items() if not is_secret_name(name)}
    if isinstance(value, list):
        return [redact(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        if "://" in value and "?" in value:
            return redact_url(value)
        return _JWT.sub("", value)
    return value
