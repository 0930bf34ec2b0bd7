"""Every switch of the mock server, declared once; the command line is made from the same declarations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The `from_ts` that the site itself sends: nothing is older.
EARLIEST = 1_627_948_800
# The faults that have a switch `rate_...`, in the order in which one is drawn.
FAULTS = ("429", "500", "reset", "truncated", "challenge", "404")


class _RefusedError(Exception):
    """A kind does not accept a value; the text says what is wrong with it."""


class OptionError(ValueError):
    """A value that is not accepted; the text is one line with the switch and what it accepts.

    Attributes:
        value: as typed.
        choices: the accepted words, if the switch accepts only a few.
    """

    def __init__(self, text: str, value: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.value, self.choices = value, choices


class Kind:
    """The values of a switch: how they are read from text, and which are accepted. Any text, if not derived from."""

    accepted = "any text"
    metavar = "TEXT"
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> Any:
        """Return the value of a text. Raises _RefusedError if it has none."""
        return text

    def check(self, value: Any) -> None:
        """Raise _RefusedError if the value is not accepted."""
        if not isinstance(value, str):
            raise _RefusedError("not a text")


class Whole(Kind):
    """A whole number within bounds."""

    metavar = "N"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.accepted = f"{low} to {high}"
        self.problem = "not a positive number" if low == 1 else "not a whole number in range"

    def parse(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise _RefusedError(self.problem) from None

    def check(self, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise _RefusedError(self.problem)


class Number(Kind):
    """A number within bounds, fractions included."""

    def __init__(self, low: float, high: float, metavar: str) -> None:
        self.low, self.high, self.metavar = low, high, metavar
        self.accepted = f"{low:.12g} to {high:.12g}"

    def parse(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise _RefusedError("not a number") from None

    def check(self, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            raise _RefusedError("not a number")
        if not self.low <= value <= self.high:
            raise _RefusedError("not a number in range")


class Choice(Kind):
    """One of a few words, the default first."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices
        self.accepted = ", ".join(choices)
        self.metavar = "|".join(choices)

    def check(self, value: Any) -> None:
        if value not in self.choices:
            raise _RefusedError("not one of the choices")


class Flag(Kind):
    """On if given, off otherwise."""

    accepted = "no value"
    metavar = ""

    def check(self, value: Any) -> None:
        if not isinstance(value, bool):
            raise _RefusedError("not a flag")


class Instant(Kind):
    """An ISO 8601 instant, in UTC unless it names a zone; empty: the time of the start."""

    accepted = "an ISO 8601 date or time from 2021-09-01 to 2040-08-01, such as 2026-01-31T12:00:00Z"
    metavar = "INSTANT"
    _low = datetime(2021, 9, 1, tzinfo=UTC).timestamp()
    _high = datetime(2040, 8, 1, tzinfo=UTC).timestamp()

    def check(self, value: Any) -> None:
        if value == "":
            return
        try:
            seconds = instant_seconds(value)
        except (TypeError, ValueError):
            raise _RefusedError("not an instant") from None
        if not self._low <= seconds <= self._high:
            raise _RefusedError("not an instant in range")


def instant_seconds(text: str) -> float:
    """Return an ISO 8601 instant as Unix seconds."""
    instant = datetime.fromisoformat(text)
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _switch(default: Any, kind: Kind, explanation: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": explanation})


def _choice(choices: str, explanation: str) -> Any:
    kind = Choice(*choices.split("|"))
    return _switch(kind.choices[0], kind, explanation)


def _rate(explanation: str, default: float = 0.0) -> Any:
    return _switch(default, Number(0, 1, "RATE"), explanation)


def _seconds(default: float, high: float, explanation: str) -> Any:
    return _switch(default, Number(0, high, "SECONDS"), explanation)


@dataclass(frozen=True)
class Options:
    """What the server serves and how it behaves.

    Every field is a switch of `scrapy mockserver`, with a hyphen for each underscore. For an open question of the API,
    the default is the likeliest answer.

    Raises:
        OptionError: a value is not accepted.
    """

    # --- Data
    seed: int = _switch(1, Whole(0, 2**63 - 1), "the same seed, --now and switches give the same answers")
    now: str = _switch("", Instant(), "where the simulated clock starts, in ISO 8601 (empty: the actual time)")
    speed: float = _switch(1.0, Number(0, 100_000, "FACTOR"), "simulated seconds per second; 0 stops the clock")
    events: int = _switch(5_000, Whole(0, 2_000_000), "ended livestreams in the history")
    years: float = _switch(3.0, Number(0.01, 20, "YEARS"), "length of the history, up to what fits since 2021-08-03")
    live: int = _switch(60, Whole(0, 5_000), "channels that are live at any time, about")
    scheduled: int = _switch(40, Whole(0, 100_000), "livestreams that are announced when the clock starts")
    start_every: float = _seconds(3.0, 86_400, "mean simulated seconds between two starts, and two ends (0: none)")
    ties: float = _rate("share of the history that ends in the same second as another", 0.02)
    uncategorized: float = _rate("share of livestreams without a category (category_name null)")
    fields: str = _choice("full|demo|2026", "fields of a record: all, those of the demo, or those of 2026")
    nameless: str = _choice("empty|display_name|null", "category_name of records of nameless categories")
    malformed: float = _rate("share of the records of livestreams that are malformed or odd")
    no_json: float = _rate("share of the records of livestreams that a strict JSON parser rejects")
    absent: str = _switch("", Kind(), "fields that no record has, separated by commas")
    unreadable: str = _switch("", Kind(), "fields that hold an object in every record, separated by commas")
    category_ids: bool = _switch(False, Flag(), "records have the number of their category too")
    signed: bool = _switch(False, Flag(), "addresses of files are signed, with another signature in each answer")
    doubled: float = _rate("share of the channels live at the start that have two livestreams at the same time")
    # --- Open questions of the API
    page_cap: int = _switch(100, Whole(1, 1_000), "most records of a page")
    above_cap: str = _choice("clamp|refuse|ignore", "a limit above the cap: capped, 400, or every limit ignored")
    offset: str = _choice("honored|ignored", "the offset parameter")
    time_filter: str = _choice("end|start|ignored", "the time that from_ts and to_ts filter by")
    bounds: str = _choice("closed|open|half-open", "whether from_ts and to_ts are in the window")
    categories: str = _choice("or|last|ignored", "several categories parameters: any, the last, or none counts")
    nan: str = _choice("unfiltered|ignored|none|error", "categories=NaN: no filter, no meaning, no category, or 400")
    user_filter: str = _choice("honored|ignored", "the by_user_id parameter")
    tie_order: str = _choice("stable|unstable", "the order of records that share a sort key")
    empty_as: str = _choice("list|404|204|null", "a page without records: an empty list, 404, 204, or null")
    hidden: int = _switch(0, Whole(0, 100_000), "livestreams in a row that are left out of the pages of each list")
    hidden_at: float = _switch(0.5, Number(0, 1, "SHARE"), "where in the list these begin: 0 is the head, 1 the tail")
    undated: float = _rate("share of ended livestreams without an end (event_end_ts null), in every window of time")
    nulls: str = _choice("first|last", "where these are in a list by date")
    ascending: str = _choice("honored|ignored|refused|failing", "sort_by_date_desc=false")
    # --- A set that moves
    insert_every: int = _switch(0, Whole(0, 1_000_000), "insert a record after every N recent requests (0: never)")
    delete_every: int = _switch(0, Whole(0, 1_000_000), "delete a record after every N recent requests (0: never)")
    # --- Faults
    rate_429: float = _rate("share of API requests answered with 429")
    retry_after: str = _choice("none|seconds|date|mixed", "Retry-After of a 429, about a second")
    rate_500: float = _rate("share of API requests answered with 500, 502 or 503")
    rate_reset: float = _rate("share of API requests whose connection is reset in the middle")
    rate_truncated: float = _rate("share of API requests whose answer is cut short")
    rate_challenge: float = _rate("share of API requests answered with a challenge page, status 200 or 403")
    fault_burst: int = _switch(2, Whole(0, 1_000), "most faults in a row on the same URL (0: no limit)")
    latency: float = _seconds(0.0, 600, "seconds before every answer of the API")
    gone: bool = _switch(False, Flag(), "answer 404 on every API route, as if the API had moved to another host")
    rate_404: float = _rate("share of API requests answered with 404, as by a load balancer during a deployment")
    once_404: int = _switch(0, Whole(0, 1_000_000), "answer the API request of this number with 404 (0: none)")
    down_after: int = _switch(0, Whole(0, 1_000_000), "API requests after which the server is down")
    down_for: float = _seconds(0.0, 86_400, "how long it is down (0: never)")
    down_as: str = _choice(
        "404|500|challenge|429|reset|empty|short",
        "the answer while it is down: 404, 500, a challenge page, 429, a reset, empty lists, or lists of one record",
    )
    token: str = _switch("", Kind(), "answer 401 unless this Bearer token is sent (empty: none needed)")
    api_moved: bool = _switch(False, Flag(), "the API is on a port of its own, which only the page knows")
    drift: str = _choice(
        "none|route|parameter|field|all",
        "how the API has changed: one more route, limit renamed to page_size, one more field, all of these",
    )
    browser_only: bool = _switch(False, Flag(), "answer with a challenge page until its script has set a cookie")
    # --- The rest of the site
    robots: str = _choice("none|allow|disallow", "robots.txt: 404, all allowed, all disallowed")
    busy: int = _switch(0, Whole(0, 1_000), "more requests a second that the page makes")
    service_worker: str = _choice(
        "none|awaited|answers|asks",
        "the page waits for a service worker; the worker answers for the API; or it makes the page's requests",
    )
    ws_drop_after: float = _seconds(0.0, 86_400, "close a WebSocket after this many seconds (0: never)")
    ws_drop_every: int = _switch(
        0, Whole(0, 1_000_000), "end a WebSocket after this many messages, with a close frame or without (0: never)"
    )
    ws_refused: float = _rate("share of WebSocket handshakes that are refused, with 429 or 503")
    ws_ping: str = _choice("ignored|answered", "WebSocket pings of the client")
    ws_malformed: float = _rate("share of notifications that are replaced by something else")
    ws_answer: str = _choice(
        "notifications|error|close|silence|nonsense|pings",
        "what subscribers get: notifications, an error and a close, a close, an error and nothing more, useless "
        "messages without end, or pings without end from a server that reads nothing",
    )
    ws_deaf_after: float = _seconds(0.0, 86_400, "send nothing so long after the first subscription (0: always send)")
    ws_padding: int = _switch(0, Whole(0, 2**26), "bytes that the first notification is padded to (0: not padded)")

    def __post_init__(self) -> None:
        for switch in switches():
            value = getattr(self, switch.field)
            try:
                switch.kind.check(value)
            except _RefusedError as error:
                refuse(switch.name, str(error), str(value), switch.kind.accepted, switch.kind.choices)
        total = sum(self.fault_rates().values())
        if total > 1 + 1e-9:
            refuse("rate-*", "the six rates of faults add up to more than 1", f"{total:.12g}", "at most 1")

    def fault_rates(self) -> dict[str, float]:
        """Return the share of API requests that each fault hits."""
        return {fault: getattr(self, f"rate_{fault}") for fault in FAULTS}

    @classmethod
    def parse(cls, typed: Mapping[str, str | bool]) -> Options:
        """Return the options of a command line.

        Args:
            typed: the values that were typed, by field name; other fields have their defaults.

        Raises:
            OptionError: a value is not accepted.
        """
        values: dict[str, Any] = {}
        for switch in switches():
            text = typed.get(switch.field)
            if text is None:
                continue
            try:
                values[switch.field] = switch.kind.parse(text) if isinstance(text, str) else text
            except _RefusedError as error:
                refuse(switch.name, str(error), str(text), switch.kind.accepted)
        return cls(**values)


@dataclass(frozen=True)
class Switch:
    """One switch as the command line shows it.

    Attributes:
        field: the field of `Options`.
        name: the same with hyphens, as typed after `--`.
        kind: which values it accepts.
        default: the value if it is not given.
        explanation: one line of help.
    """

    field: str
    name: str
    kind: Kind
    default: Any
    explanation: str


def switches() -> Iterator[Switch]:
    """Yield every switch, in the order of declaration."""
    for each in fields(Options):
        yield Switch(each.name, each.name.replace("_", "-"), each.metadata["kind"], each.default, each.metadata["help"])


def refuse(name: str, problem: str, value: str, accepted: str, choices: tuple[str, ...] = ()) -> NoReturn:
    """Raise OptionError with a message in this project's form."""
    raise OptionError(f"option `{name}`: {problem}: {value!r} (accepted: {accepted})", value, choices)
