"""Secrets: those that the API sends, removed before anything is stored or logged, and the user's own.

The live route has `playback_auth_token`, and tokens in the query of `playback_url`. Any route may add others, so every
address and every field that no item declares is searched too.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote_plus

# Deeper nesting does not occur in this API, and would exhaust the stack of readers.
MAX_DEPTH = 50
NESTED_TOO_DEEP = f"(nested more than {MAX_DEPTH} levels deep)"

# As the last words of a name: `playback_auth_token`, `streamKey`, `apikey`; but not `token_symbol`.
_SECRET_NAME = re.compile(
    r"(^|_)(token|jwt|secrets?|passwords?|passwd|passphrase|pwd|authorization|bearer|signature|hmac|credentials?|cookies?"
    r"|otp|totp|csrf|xsrf|sessionid|ingest_endpoint|(api|stream|access|private|secret|ingest|signing|encryption)_?key"
    r"|(access|auth|refresh|session)_tokens|(auth|authorization|access|verification|login|otp|mfa|recovery)_?code)$"
    # Too common a last word: `country_code`, `auto_refresh`.
    r"|^(auth|code|refresh|sid)$"
)
# Parameters of a URL often give access under short names. An expiry time comes with a signature of any name, and
# differs each time.
_SECRET_PARAMETER = re.compile(
    r"token|jwt|secret|passw|signature|credential|session|hdnts|hdnea|hdntl|hmac|key-?pair-?id|api_?key|access_?key"
    r"|googleaccessid|^x-(amz|goog|oss|tos|cos|obs)-|^q-(sign|ak|key|header|url)"
    r"|(^|[^a-z])(auth|authorization|sig|sign|key|policy|bearer|pwd|otp|expires?|expiry|expiration)([^a-z]|$)"
    r"|^(code|pass|refresh|sid|connect\.sid|sess|ticket|tk|ak|secure|verify|(auth|access|verification|login)_?code)$"
)
# Parameters that come with a signature, and differ from one to the next: until when it is good, and of what.
_BESIDE_A_SECRET = re.compile(
    r"(x-)?(e|exp|expires_?(at|in)|st|t|ts|time|timestamp|date|nonce|algorithm|keyname|key_?id|urlprefix|hash|md5|txtime"
    r"|valid_?(from|to|until))"
)
# Those of Azure, which are beside a `sig`.
_BESIDE_A_SIG = re.compile(r"s[eprstiv]|s[sdr]d|spr|srt|sip|ss|ses|saoid|suoid|scid|sk(oid|tid|t|e|s|v)")
# Parameters that are a signature only together: Discord's, Facebook's, nginx's, those of other networks.
_TOGETHER = ({"ex", "is", "hm"}, {"oh", "oe"}, {"md5", "e"}, {"hash", "e"}, {"hash", "validto"})
# A signature in the path, whose slashes are of its own (Akamai).
_SIGNED_PATH = re.compile(
    r"(?:\w+=)?(?:[a-z]+=[^~/]*~)*(?:st|exp)=[^~/]*~(?:acl|url)=[^~]*~(?:[a-z]+=[^~/]*~)*hmac=[^/~]*"
)

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A JSON Web Token: `eyJ` is `{"` in base64.
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
# User and password of an address, also of one that names no scheme.
_USER = re.compile(r"((?:^|:)//)[^/\s]*@")
# The same in what a user typed, where more is taken for a secret: a password with a slash, an address without a scheme.
_TYPED_USER = re.compile(r"(?<=//)\S*@|(?<![^\s,])(?!\S*?//)[^\s,]+:\S*@")
# Settings whose whole value is a secret, also where the name was typed not quite right.
_SECRET_SETTING = re.compile(r"(parti_?)?(alerts?|pings?|database)_?ur[li]s?", re.IGNORECASE)
_IN_QUERY, _IN_PATH = re.compile(r"([&;?])"), re.compile(r"([&;~])")
# A word of a text; and what an address has that has something to hide.
_WORD = re.compile(r"""[^\s"'<>]+""")
_IS_ADDRESS = re.compile(r"[?&]|//")
# Marks of an address as they may be written in JSON.
_ESCAPES = {"\\u0026": "&", "\\u003d": "=", "\\u003f": "?", "\\/": "/"}
_ESCAPED = re.compile(r"\\(?:u0026|u003[df]|/)", re.IGNORECASE)
# A name and what comes between it and its value, in JSON and in what looks a little like it; and the value: all that
# follows where it is not a single one, since its end is not known.
_NAME = re.compile(r"""(?<![\w-])([\w-]++)\\*["']?\s*[:=]\s*""")
_VALUE = re.compile(
    r""""(?:[^"\\]|\\.)*+"?|\\+".*?\\+"|'(?:[^'\\]|\\.)*+'?|(?:Bearer|Basic)\s+\S+|[\[{].*|[^\s,;&}\]]*""", re.DOTALL
)


class Secret:
    """A text that shows in no log, dump or traceback; only `reveal` returns it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "***"


def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds a secret, in snake_case, kebab-case or camelCase."""
    return bool(_SECRET_NAME.search(_WORD_START.sub("_", name).replace("-", "_").lower()))


def may_hide_secrets(text: str) -> bool:
    """Tell quickly whether a text may be an address, or hold one, with something to remove."""
    return "=" in text or "@" in text or "eyJ" in text


def redact_url(url: str) -> str:
    """Return an address, which may be relative, without its credentials and the parameters that give access.

    Of a signed address, all parameters that come with the signature are removed, so that it is the same each time.
    The rest is left exactly as it came.
    """
    address, hash_mark, fragment = url.partition("#")
    path, question_mark, query = address.partition("?")
    kept_path = _USER.sub(r"\1", path) if "@" in path else path
    if "=" in kept_path:
        kept_path = _SIGNED_PATH.sub("", kept_path)
        kept_path = "/".join(_without_secrets(part, _IN_PATH) for part in kept_path.split("/"))
    kept_query, kept_fragment = (_without_secrets(part, _IN_QUERY) for part in (query, fragment))
    if kept_query or not query:
        kept_path += question_mark + kept_query
    if kept_fragment or not fragment:
        kept_path += hash_mark + kept_fragment
    return _JWT.sub("", kept_path)


def _without_secrets(parameters: str, separators: re.Pattern[str]) -> str:
    """Return the parameters that give no access, as they came."""
    if "=" not in parameters and "eyJ" not in parameters:
        return parameters
    pieces = separators.split(parameters)
    names = [unquote_plus(piece.partition("=")[0]).lower() for piece in pieces[::2]]
    secrets = {
        name
        for name, piece in zip(names, pieces[::2], strict=True)
        if _SECRET_PARAMETER.search(name) or _JWT.search(piece)
    }
    secrets.update(*(each for each in _TOGETHER if each.issubset(names)))
    if secrets:
        secrets |= set(filter(_BESIDE_A_SECRET.fullmatch, names))
    if "sig" in secrets:
        secrets |= set(filter(_BESIDE_A_SIG.fullmatch, names))
    kept = []
    for separator, piece, name in zip(("", *pieces[1::2]), pieces[::2], names, strict=True):
        if name not in secrets:
            kept += [separator, _redact_value(piece)]
    return "".join(kept[1:])


def _redact_value(parameter: str) -> str:
    """Return a parameter without secrets in its value, which may be another address."""
    name, mark, value = parameter.partition("=")
    if "%" not in value:
        return parameter
    plain = unquote_plus(value)
    redacted = redact_text(plain)
    return parameter if redacted == plain else f"{name}{mark}{quote(redacted, safe='')}"


def redact_text(text: str) -> str:
    """Return a text without secrets in its addresses."""
    if not may_hide_secrets(text):
        return text
    text = _WORD.sub(lambda word: redact_url(word[0]) if _IS_ADDRESS.search(word[0]) else word[0], text)
    return _JWT.sub("", text)


def is_typed_secret(name: str) -> bool:
    """Tell whether what was typed under a name is a secret; not a rule for fields of the API, which may be named so."""
    return is_secret_name(name) or bool(_SECRET_SETTING.fullmatch(name))


def redact_typed(text: str, name: str = "") -> str:
    """Return what a user typed as an error may show it: `***` for the value of a name that is that of a secret.

    Args:
        text: a value, or a word such as `--token=abc`.
        name: the name of the value, if the text is one.
    """
    before, mark, _ = text.partition("=")
    if is_typed_secret(name):
        return "***"
    if mark and is_typed_secret(before.lstrip("-")):
        return f"{before}=***"
    return redact_text(_TYPED_USER.sub("", text))


def redact_unparsed(text: str) -> str:
    """Return a text that is JSON or similar to it, without fields that are named as secrets."""
    # Some JSON encoders escape the separators of an address, which would hide its parameters.
    plain = _ESCAPED.sub(lambda escaped: _ESCAPES[escaped[0].lower()], text)
    redacted = _redact_plain(plain)
    return text if redacted == plain else redacted


def _redact_plain(text: str) -> str:
    kept, start = [], 0
    for name in _NAME.finditer(text):
        if name.start() >= start and is_secret_name(name[1]) and (value := _VALUE.match(text, name.end())):
            kept.append(text[start : name.end()])
            start = value.end()
    return redact_text("".join(kept) + text[start:])


def redact(value: Any, depth: int = 0) -> Any:
    """Return a copy of a JSON value without secrets: fields by their names, tokens and URLs by their form.

    Values nested more than `MAX_DEPTH` levels deep are replaced by a text that says so.
    """
    if depth > MAX_DEPTH:
        return NESTED_TOO_DEEP
    if isinstance(value, dict):
        return {
            redact_text(name): redact(inner, depth + 1) for name, inner in value.items() if not is_secret_name(name)
        }
    if isinstance(value, list):
        return [redact(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        # JSON within a text has field names too.
        return redact_unparsed(value) if value.lstrip().startswith(("{", "[")) else redact_text(value)
    return value
