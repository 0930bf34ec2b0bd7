"""The past of the synthetic world: channels with habits, and their livestreams."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from parti_scraper.mockserver.options import EARLIEST
from parti_scraper.mockserver.words import CATEGORIES, FIRST_WORDS, NO_CATEGORY, ODD_NAMES, SECOND_WORDS

if TYPE_CHECKING:
    from parti_scraper.mockserver.options import Options

HOUR = 3_600
DAY = 86_400
WEEK = 604_800
# Unix time 0 was a Thursday; weeks here begin on Monday.
_MONDAY = 4 * DAY
_SALT_DOUBLED = 201
_MASK = (1 << 64) - 1
# How busy each hour of a day is, and each day from Monday on: evenings and weekends most.
_HOURS = (5, 3, 2, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 5, 5, 6, 7, 9, 12, 15, 16, 15, 12, 8)
_DAYS = (7, 7, 7, 8, 11, 13, 12)
_HOURS_OF_WEEK = tuple(accumulate(day * hour for day in _DAYS for hour in _HOURS))
_GROUP_SIZES = (2, 2, 3, 2, 2, 4, 2, 2, 2, 5)


class Channel(NamedTuple):
    """A channel and its habits."""

    user_id: int
    name: str
    social_media: str
    social_username: str
    discriminator: str | None
    avatar_id: int
    avatar_link: str | None
    arn: str
    size: float
    category_id: int
    other_category_id: int
    joined: float
    slots: tuple[int, ...]
    duration: float


class Event(NamedTuple):
    """An ended livestream. Events sort by their first two fields."""

    end: int
    event_id: int
    start: int
    channel: int
    category_id: int
    viewers: int


@dataclass(slots=True)
class Stream:
    """A livestream that was live at the start of the simulated clock, or later."""

    event_id: int
    start: int
    channel: int
    category_id: int
    peak: int
    end: int | None = None


class _Span(NamedTuple):
    """A livestream without an id; `end` is 0 if it is live."""

    start: int
    end: int
    channel: int


@dataclass(frozen=True, slots=True)
class History:
    """The state when the simulated clock starts.

    Attributes:
        channels: every channel; events and streams refer to its place here.
        events: the ended livestreams, by end and then id, ascending.
        on_air: those that are live, by start.
        last_id: the greatest event id in use.
    """

    channels: list[Channel]
    events: list[Event]
    on_air: list[Stream]
    last_id: int


def rng(*parts: object) -> random.Random:
    """Return a generator that depends only on the parts, and is the same in every process."""
    return random.Random(":".join(map(str, parts)))  # noqa: S311


def mix(seed: int, number: int, salt: int = 0) -> int:
    """Return 64 bits that depend only on the arguments, faster than a generator for each record."""
    value = (number * 0x9E3779B97F4A7C15 + seed * 0xBF58476D1CE4E5B9 + salt * 0x94D049BB133111EB + 1) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def fraction(seed: int, number: int, salt: int = 0) -> float:
    """Return a number from 0 to 1, without 1, that depends only on the arguments."""
    return (mix(seed, number, salt) >> 11) / (1 << 53)


def build_history(options: Options, now: int) -> History:
    """Return the past of the world with these options at `now`."""
    begin = max(EARLIEST, now - int(options.years * 365.25 * DAY))
    channels = _channels(options, now - begin)
    on_air = _spans_on_air(options, channels, now)
    ceilings = {span.channel: span.start - 600 for span in on_air}
    spans = _tied(_spans(options, channels, (begin, now - 60), ceilings), options)
    return _numbered(options, channels, sorted(spans + on_air))


def _channels(options: Options, length: int) -> list[Channel]:
    # Enough for the busiest channel to have time for its streams, and for some never to be live.
    count = max(2 * options.live + 20, options.events // 25, options.events * DAY // max(length, DAY))
    generator = rng(options.seed, "channels")
    ids = sorted(generator.sample(range(401_000, 401_000 + max(215_000, 2 * count)), count))
    giants = set(generator.sample(range(count), max(4, count // 30)))
    return [_channel(generator, user_id, index in giants) for index, user_id in enumerate(ids)]


def _channel(generator: random.Random, user_id: int, giant: bool) -> Channel:
    name = generator.choice(FIRST_WORDS) + generator.choice(SECOND_WORDS)
    if generator.random() < 0.6:
        name += str(generator.randrange(2_000))
    social_media = generator.choices(("parti", "twitter", "discord", "telegram"), (50, 25, 15, 10))[0]
    discriminator = None
    if social_media == "discord":
        discriminator = "0" if generator.random() < 0.9 else f"{generator.randrange(1, 10_000):04}"
    category_id, other_id = generator.choices(
        [row.category_id for row in CATEGORIES], [row.weight for row in CATEGORIES], k=2
    )
    avatar_id = generator.randrange(1_000, 900_000)
    return Channel(
        user_id=user_id,
        name=generator.choice(ODD_NAMES).format(name) if generator.random() < 0.15 else name,
        social_media=social_media,
        social_username=name if social_media == "parti" else name.lower(),
        discriminator=discriminator,
        avatar_id=avatar_id,
        avatar_link=f"https://assets.parti.example/avatars/{avatar_id}.png" if generator.random() < 0.8 else None,
        arn=f"arn:aws:ivs:us-west-2:000000000000:channel/{generator.getrandbits(60):012x}",
        size=generator.uniform(2_000, 30_000) if giant else generator.lognormvariate(3.0, 1.2),
        category_id=category_id,
        other_category_id=other_id,
        joined=generator.random() ** 1.5 * 0.95,
        slots=tuple(generator.choices(range(WEEK // HOUR), cum_weights=_HOURS_OF_WEEK, k=5)),
        duration=generator.lognormvariate(8.6, 0.6),
    )


def _spans_on_air(options: Options, channels: list[Channel], now: int) -> list[_Span]:
    generator = rng(options.seed, "on air")
    chosen = generator.sample(range(len(channels)), options.live)
    for place in range(1, len(chosen), 2):
        if fraction(options.seed, place, _SALT_DOUBLED) < options.doubled:
            chosen[place] = chosen[place - 1]
    return [_Span(now - 30 - int(min(generator.expovariate(1 / 5_400), 36_000)), 0, each) for each in chosen]


def _spans(options: Options, channels: list[Channel], window: tuple[int, int], ceilings: dict[int, int]) -> list[_Span]:
    generator = rng(options.seed, "history")
    # Some channels stream far more often than others, but none more often than its days allow.
    weights = accumulate(min(1 / (1 - generator.random()) ** 0.7, 12) for _ in channels)
    counts: dict[int, int] = {}
    for each in generator.choices(range(len(channels)), cum_weights=list(weights), k=options.events):
        counts[each] = counts.get(each, 0) + 1
    spans: list[_Span] = []
    for index, count in sorted(counts.items()):
        begin, latest = window[0], ceilings.get(index, window[1])
        starts = _starts(generator, channels[index], (begin, latest), count)
        spans += _without_overlap(generator, starts, index, channels[index].duration, (begin, latest))
    return spans


def _starts(generator: random.Random, channel: Channel, window: tuple[int, int], count: int) -> list[int]:
    """Return when a channel went live, the latest first."""
    begin, latest = window
    monday = (begin - _MONDAY) // WEEK * WEEK + _MONDAY
    random_, slots, joined = generator.random, channel.slots, channel.joined
    starts: list[int] = []
    for _ in range(count):
        week = int((joined + (1 - joined) * random_()) * (latest - monday) / WEEK)
        # One stream in seven is off the habit.
        hour = slots[int(random_() * 5)] if random_() > 0.15 else int(random_() * 168)
        start = monday + week * WEEK + hour * HOUR + int(random_() * HOUR)
        if not begin <= start <= latest - 60:
            start = begin + int(random_() * max(latest - 60 - begin, 1))
        starts.append(start)
    return sorted(starts, reverse=True)


def _without_overlap(
    generator: random.Random, starts: list[int], channel: int, duration: float, window: tuple[int, int]
) -> list[_Span]:
    """Give each start an end; move a stream back if it would overlap the channel's next one."""
    begin, ceiling = window
    spans: list[_Span] = []
    for each in starts:
        short = generator.random() < 0.05
        length = int(generator.uniform(60, 240) if short else duration * math.exp(generator.gauss(0, 0.35)))
        length = min(max(length, 60), 14 * HOUR)
        start = max(min(each, ceiling - length), begin)
        spans.append(_Span(start, start + length, channel))
        ceiling = start - 60 - int(generator.random() * 1_800)
    return spans


def _tied(spans: list[_Span], options: Options) -> list[_Span]:
    """Make a share of the streams end in the same second as their neighbours in time."""
    generator = rng(options.seed, "ties")
    by_end = sorted(spans, key=lambda span: (span.end, span.start, span.channel))
    mean = sum(_GROUP_SIZES) / len(_GROUP_SIZES)
    # `options.ties` is the share of streams that are in groups, not the share of groups.
    chance = options.ties / (mean - options.ties * (mean - 1))
    tied: list[_Span] = []
    groups = 0
    while len(tied) < len(by_end):
        first = by_end[len(tied)]
        if generator.random() >= chance:
            tied.append(first)
            continue
        group = by_end[len(tied) : len(tied) + _GROUP_SIZES[groups % len(_GROUP_SIZES)]]
        groups += 1
        # Start and end are moved together, but the start not before the earliest.
        tied += [_Span(max(span.start - span.end + first.end, EARLIEST), first.end, span.channel) for span in group]
    return tied


def _numbered(options: Options, channels: list[Channel], spans: list[_Span]) -> History:
    """Give the streams their ids, which grow with the start, categories and viewers."""
    generator = rng(options.seed, "events")
    highest = max(80_900, 1_000 + len(spans) * 5 // 4)
    ids = sorted(generator.sample(range(1_000, highest), len(spans)))
    events: list[Event] = []
    on_air: list[Stream] = []
    for event_id, (start, end, index) in zip(ids, spans, strict=True):
        category_id = choose_category(generator, channels[index], options.uncategorized)
        viewers = choose_viewers(generator, channels[index])
        if end:
            events.append(Event(end, event_id, start, index, category_id, viewers))
        else:
            on_air.append(Stream(event_id, start, index, category_id, viewers))
    events.sort()
    return History(channels, events, on_air, ids[-1] if ids else 1_000)


def choose_category(generator: random.Random, channel: Channel, uncategorized: float) -> int:
    """Return the category of a new stream: mostly the channel's usual one."""
    if uncategorized and generator.random() < uncategorized:
        return NO_CATEGORY
    return channel.category_id if generator.random() < 0.88 else channel.other_category_id


def choose_viewers(generator: random.Random, channel: Channel) -> int:
    """Return the viewers of a new stream of the channel; sometimes 0."""
    if generator.random() < 0.05:
        return 0
    return int(channel.size * math.exp(generator.gauss(0, 0.6)))
