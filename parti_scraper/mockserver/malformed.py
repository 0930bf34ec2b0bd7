"""What may be malformed or odd about a record: chosen by the record's id, always the same for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from parti_scraper.mockserver.history import fraction, mix

if TYPE_CHECKING:
    from collections.abc import Callable

    from parti_scraper.mockserver.options import Options

Record = dict[str, Any]
_SALT_WHETHER, _SALT_REPAIRABLE, _SALT_WHICH = 101, 102, 103
# The share of those records that are odd; the others are malformed.
_ODD = 1 / 3


class Malformation(NamedTuple):
    """One way to differ from the contract.

    Attributes:
        name: what is wrong, in a few words.
        repairable: whether the record still says which livestream it is about.
        apply: turns the true record into the one that is served, or into bytes if that is no JSON.
        lost: fields whose value cannot be read.
    """

    name: str
    repairable: bool
    apply: Callable[[Record], Any]
    lost: frozenset[str] = frozenset()


def malformation(options: Options, event_id: int, route: str) -> Malformation | None:
    """Return what is wrong with the record of a livestream on a route, or None.

    `route` is `recent`, `live` or `scheduled`. Whether the record is repairable is the same on all of them.
    """
    seed, chance = options.seed, fraction(options.seed, event_id, _SALT_WHETHER)
    if chance < options.malformed:
        odd = fraction(seed, event_id, _SALT_REPAIRABLE) < _ODD
        ways = ODD[route] if odd else BROKEN[route]
    elif chance < options.malformed + options.no_json:
        ways = NO_JSON
    else:
        return None
    return ways[mix(seed, event_id, _SALT_WHICH) % len(ways)]


def _with(values: Record) -> Callable[[Record], Any]:
    return lambda record: record | values


def _without(*names: str) -> Callable[[Record], Any]:
    return lambda record: {name: value for name, value in record.items() if name not in names}


def _numbers(change: Callable[[int], Any]) -> Callable[[Record], Any]:
    """Write every whole number in another form."""
    return lambda record: {name: change(value) if type(value) is int else value for name, value in record.items()}


def _times(change: Callable[[int], Any]) -> Callable[[Record], Any]:
    """Write the times in another form."""
    names = ("event_start_ts", "event_end_ts")
    return lambda record: record | {name: change(record[name]) for name in names if name in record}


def _iso(ts: int) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat()


def _unlike_json(more: bytes) -> Callable[[Record], Any]:
    """Add a field whose value is not JSON."""
    return lambda record: json.dumps(record).encode()[:-1] + b', "more": ' + more + b"}"


def _titled(text: str) -> Callable[[Record], Any]:
    return lambda record: record | {"event_title": str(record.get("event_title", ""))[:20] + text}


def _broken(name: str, apply: Callable[[Record], Any]) -> Malformation:
    return Malformation(name, False, apply)


def _odd(name: str, apply: Callable[[Record], Any], *lost: str) -> Malformation:
    return Malformation(name, True, apply, frozenset(lost))


def _lost(what: str, **values: Any) -> Malformation:
    """Return the malformation in which these fields hold values that cannot be read."""
    return _odd(what, _with(values), *values)


_NO_OBJECT = (
    _broken("a text", lambda _: "livestream"),
    _broken("a number", lambda _: 42),
    _broken("null", lambda _: None),
    _broken("a list", lambda _: [{"event_id": 1}]),
)
_ODD_ANYWHERE = (
    _odd("digits as texts", _numbers(str)),
    _odd("fractions", _numbers(float)),
    _odd("discriminator a number", _with({"discord_discriminator": 0})),
    _odd("unknown field", _with({"stream_quality": "1080p60"})),
    _odd("unknown nested field", _with({"overlay": {"theme": {"color": "#ff00aa", "sizes": [1, 2.5, None]}}})),
    _odd("unknown huge number", _with({"score": [10**30, -(2**63) - 1]})),
    _odd("unknown secret", _with({"chat_auth_token": "eyJhbGciOiJIUzI1NiJ9.eyJjaGF0IjoxfQ.secretsecret"})),
    _odd("half a character in the title", _titled(" \ud83d")),
    _odd("NUL in the title", _titled(" \0end")),
    _odd("title a number", _with({"event_title": 12345})),
    _lost("title a list", event_title=["a", "title"]),
    _lost("name an object", user_name={"first": "a", "last": "b"}),
    _lost("avatar a word", user_avatar_id="none"),
    _lost("avatar link true", avatar_link=True),
)
_ODD_TIMES = (
    _odd("milliseconds", _times(lambda ts: ts * 1_000)),
    _odd("fractions of seconds", _times(lambda ts: ts + 0.5)),
    _odd("times as texts", _times(lambda ts: f"{ts}.25")),
    _odd("times in ISO 8601", _times(_iso)),
    _odd("times in ISO 8601 without a zone", _times(lambda ts: _iso(ts).partition("+")[0] + ".123")),
    _lost("end absurd", event_end_ts=10**18),
    _lost("start negative", event_start_ts=-5),
)


def _bad_ids(*names: str) -> tuple[Malformation, ...]:
    """Return the malformations in which none of these ids can be read."""
    values = {"null": None, "a word": "abc", "true": True, "an object": {"id": 5}, "huge": 10**30, "empty": ""}
    return (
        _broken("id missing", _without(*names)),
        *(_broken(f"id {what}", _with(dict.fromkeys(names, value))) for what, value in values.items()),
    )


# A record of the live route is identified by its channel too, so both of its ids are broken.
BROKEN = {
    "recent": (*_NO_OBJECT, *_bad_ids("event_id")),
    "live": (*_NO_OBJECT, *_bad_ids("event_id", "user_id")),
    "scheduled": (*_NO_OBJECT, *_bad_ids("event_id")),
}
ODD = {
    "recent": (
        *_ODD_ANYWHERE,
        *_ODD_TIMES,
        _odd("access pass 0 or 1", lambda record: record | {"has_access_pass": int(record.get("has_access_pass", 0))}),
        _odd("access pass a text", _with({"has_access_pass": "maybe"}), "has_access_pass"),
        _lost("viewers huge", total_viewers=10**30),
    ),
    "live": (
        *_ODD_ANYWHERE,
        _lost("viewers a word", viewers_count="many"),
        _lost("viewers huge", viewers_count=10**30),
    ),
    "scheduled": (
        *_ODD_ANYWHERE,
        *_ODD_TIMES,
        _lost("category a name", category_id="Gaming"),
        _lost("description a list", event_description=["a", "b"]),
    ),
}
# A strict parser rejects the whole page because of one such record.
NO_JSON = (
    _odd("not a number", _unlike_json(b"NaN")),
    _odd("infinity", _unlike_json(b"[-Infinity, 1e999]")),
    _odd("not UTF-8", _unlike_json(b'"\xff\xfe"')),
    _odd("thousands of digits", _unlike_json(b"9" * 5_000)),
    _odd("a thousand levels", _unlike_json(b"[" * 1_000 + b"]" * 1_000)),
    _odd("a line break in a text", _unlike_json(b'"a\nb"')),
    _broken("a word that is not JSON", _unlike_json(b"undefined")),
    _broken("a value is missing", _unlike_json(b"")),
)
