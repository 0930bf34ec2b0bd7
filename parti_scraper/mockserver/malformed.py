"""What may be wrong, or merely odd, with a record: chosen by the record's id, always the same for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from parti_scraper.mockserver.history import fraction, mix

if TYPE_CHECKING:
    from collections.abc import Callable

Record = dict[str, Any]
_SALT_WHETHER, _SALT_REPAIRABLE, _SALT_WHICH = 101, 102, 103
# A share of a third is odd rather than malformed.
_ODD = 1 / 3


class Malformation(NamedTuple):
    """One way to differ from the contract.

    Attributes:
        name: what it is, in a word or two.
        repairable: whether everything that the record says can still be read.
        apply: makes the record that is served in place of the true one.
    """

    name: str
    repairable: bool
    apply: Callable[[Record], Any]


def malformation(seed: int, rate: float, event_id: int, route: str) -> Malformation | None:
    """Return what is wrong with the record of a livestream, or None.

    Whether it is beyond repair is the same on both routes, since it is asked of the event id.

    Args:
        seed: the world's.
        rate: the share of records with which something is.
        event_id: the livestream's id.
        route: `recent` or `live`.
    """
    if not rate or fraction(seed, event_id, _SALT_WHETHER) >= rate:
        return None
    odd = fraction(seed, event_id, _SALT_REPAIRABLE) < _ODD
    ways = ODD[route] if odd else BROKEN[route]
    return ways[mix(seed, event_id, _SALT_WHICH) % len(ways)]


def _instead(value: Any) -> Callable[[Record], Any]:
    return lambda _: value


def _with(values: Record) -> Callable[[Record], Any]:
    return lambda record: record | values


def _without(*names: str) -> Callable[[Record], Any]:
    return lambda record: {name: value for name, value in record.items() if name not in names}


def _milliseconds(record: Record) -> Record:
    now = 1_700_000_000
    start, end = record.get("event_start_ts", now), record.get("event_end_ts", now)
    return record | {"event_start_ts": start * 1_000, "event_end_ts": end * 1_000}


def _digits(record: Record) -> Record:
    """Write every whole number as a text."""
    return {
        name: str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in record.items()
    }


def _titled(text: str) -> Callable[[Record], Any]:
    return lambda record: record | {"event_title": record["event_title"][:20] + text}


def _broken(name: str, apply: Callable[[Record], Any]) -> Malformation:
    return Malformation(name, False, apply)


def _odd(name: str, apply: Callable[[Record], Any]) -> Malformation:
    return Malformation(name, True, apply)


_NO_OBJECT = (
    _broken("a text", _instead("livestream")),
    _broken("a number", _instead(42)),
    _broken("null", _instead(None)),
    _broken("a list", _instead([{"event_id": 1}])),
)
_NO_TEXT = (
    _broken("title a number", _with({"event_title": 12345})),
    _broken("title a list", _with({"event_title": ["a", "title"]})),
    _broken("name an object", _with({"user_name": {"first": "a", "last": "b"}})),
)
_ODD_ANYWHERE = (
    _odd("digits as texts", _digits),
    _odd("unknown field", _with({"stream_quality": "1080p60"})),
    _odd("unknown nested field", _with({"overlay": {"theme": {"color": "#ff00aa", "sizes": [1, 2.5, None]}}})),
    _odd("unknown secret", _with({"chat_auth_token": "eyJhbGciOiJIUzI1NiJ9.eyJjaGF0IjoxfQ.secretsecret"})),
    _odd("half a character in the title", _titled(" \ud83d")),
    _odd("NUL in the title", _titled(" \0end")),
)


def _bad_ids(*names: str) -> tuple[Malformation, ...]:
    """Return the ways in which all these ids are useless."""
    values = {"null": None, "a word": "abc", "true": True, "an object": {"id": 5}, "huge": 10**30, "empty": ""}
    return (
        _broken("id missing", _without(*names)),
        *(_broken(f"id {what}", _with(dict.fromkeys(names, value))) for what, value in values.items()),
    )


# A record of the live route is known by its channel as well, so both ids are taken from it.
BROKEN = {
    "recent": (
        *_NO_OBJECT,
        *_bad_ids("event_id"),
        *_NO_TEXT,
        _broken("end absurd", _with({"event_end_ts": 10**18})),
        _broken("start negative", _with({"event_start_ts": -5})),
        _broken("milliseconds", _milliseconds),
        _broken("access pass a text", _with({"has_access_pass": "maybe"})),
        _broken("viewers huge", _with({"total_viewers": 10**30})),
    ),
    "live": (
        *_NO_OBJECT,
        *_bad_ids("event_id", "user_id"),
        *_NO_TEXT,
        _broken("viewers a word", _with({"viewers_count": "many"})),
        _broken("viewers huge", _with({"viewers_count": 10**30})),
    ),
}
ODD = {"recent": _ODD_ANYWHERE, "live": _ODD_ANYWHERE}
