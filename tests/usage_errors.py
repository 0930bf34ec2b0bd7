"""The exact messages of the spiders for wrong arguments."""

from __future__ import annotations

from parti_scraper.run.arguments import (
    Arguments,
    CategoriesArguments,
    LiveArguments,
    NotificationsArguments,
    RecentArguments,
    ScheduledArguments,
    SiteArguments,
)

SPIDERS: dict[str, type[Arguments]] = {
    "categories": CategoriesArguments,
    "recent": RecentArguments,
    "live": LiveArguments,
    "notifications": NotificationsArguments,
    "scheduled": ScheduledArguments,
    "site": SiteArguments,
}

TIMES = "2026-01-31, 2026-01-31T12:00Z, 1769860800, 7d, 2w, today, yesterday"
LENGTHS = "seconds, or 90s, 5m, 24h, 7d, 2w"
CATEGORIES = "comma-separated ids, names or NaN, or `all` alone"
RUN_IDS = "letters, digits, `.`, `_` and `-`, at most 100"
RECENT = "categories, incremental, limit, max_records, run_id, since, sort, until, user_id"

# Spider, arguments, and the exact line that is printed: a promise.
USAGE_ERRORS: list[tuple[str, dict[str, str], str]] = [
    (
        "recent",
        {"sinse": "7d"},
        f"argument `sinse`: not known to the spider `recent`: '7d' (accepted: {RECENT}); did you mean `since`?",
    ),
    (
        "live",
        {"since": "7d"},
        (
            "argument `since`: not known to the spider `live`: '7d' "
            "(accepted: categories, duration, interval, limit, max_records, run_id)"
        ),
    ),
    ("categories", {"limit": "5"}, "argument `limit`: not known to the spider `categories`: '5' (accepted: run_id)"),
    ("scheduled", {"limit": "5"}, "argument `limit`: not known to the spider `scheduled`: '5' (accepted: run_id)"),
    ("scheduled", {"since": "7d"}, "argument `since`: not known to the spider `scheduled`: '7d' (accepted: run_id)"),
    (
        "recent",
        {"since": "yesterdayish"},
        f"argument `since`: not a date or an age: 'yesterdayish' (accepted: {TIMES}); did you mean `yesterday`?",
    ),
    (
        "recent",
        {"until": "7 Days"},
        f"argument `until`: not a date or an age: '7 Days' (accepted: {TIMES}); did you mean `7d`?",
    ),
    (
        "live",
        {"interval": "5min"},
        f"argument `interval`: not a length of time: '5min' (accepted: {LENGTHS}); did you mean `5m`?",
    ),
    ("recent", {"until": ""}, f"argument `until`: not a date or an age: '' (accepted: {TIMES})"),
    ("recent", {"since": "2026-02-30"}, f"argument `since`: not a date or an age: '2026-02-30' (accepted: {TIMES})"),
    ("recent", {"since": "-7d"}, f"argument `since`: not a date or an age: '-7d' (accepted: {TIMES})"),
    (
        "recent",
        {"since": "20260131"},
        f"argument `since`: a date or Unix seconds, it could be either: '20260131' (accepted: {TIMES})",
    ),
    (
        "recent",
        {"since": "7"},
        f"argument `since`: days, a year or Unix seconds, it could be any: '7' (accepted: {TIMES}); did you mean `7d`?",
    ),
    (
        "recent",
        {"since": "2026"},
        (
            "argument `since`: days, a year or Unix seconds, it could be any: '2026' (accepted: "
            f"{TIMES}); did you mean `2026-01-01`?"
        ),
    ),
    (
        "recent",
        {"since": "999999999d"},
        f"argument `since`: a time before 1970 or after 9999: '999999999d' (accepted: {TIMES})",
    ),
    (
        "recent",
        {"since": "1769860800000"},
        f"argument `since`: not a date or an age: '1769860800000' (accepted: {TIMES})",
    ),
    (
        "recent",
        {"since": "2026-11-01", "until": "2026-10-01"},
        "argument `since`: later than `until`: '2026-11-01' (accepted: at or before 2026-10-01T23:59:59Z)",
    ),
    (
        "recent",
        {"since": "2027-01-01"},
        "argument `since`: later than `until`: '2027-01-01' (accepted: at or before 2026-11-24T00:00:00Z)",
    ),
    (
        "recent",
        {"until": "2020-01-01"},
        "argument `until`: earlier than `since`: '2020-01-01' (accepted: at or after 2021-08-03T00:00:00Z)",
    ),
    ("recent", {"sort": "length"}, "argument `sort`: not one of the choices: 'length' (accepted: date, views)"),
    (
        "recent",
        {"sort": "veiws"},
        "argument `sort`: not one of the choices: 'veiws' (accepted: date, views); did you mean `views`?",
    ),
    ("recent", {"limit": "0"}, "argument `limit`: out of range: '0' (accepted: 1 to 1000)"),
    ("live", {"limit": "1001"}, "argument `limit`: out of range: '1001' (accepted: 1 to 1000)"),
    ("live", {"limit": "ten"}, "argument `limit`: not a whole number: 'ten' (accepted: 1 to 1000)"),
    ("live", {"limit": "1_0"}, "argument `limit`: not a whole number: '1_0' (accepted: 1 to 1000)"),
    ("live", {"limit": "\u0661"}, "argument `limit`: not a whole number: '\u0661' (accepted: 1 to 1000)"),
    ("live", {"limit": "9" * 5000}, f"argument `limit`: not a whole number: '{'9' * 100}…' (accepted: 1 to 1000)"),
    ("live", {"max_records": "0"}, "argument `max_records`: out of range: '0' (accepted: 1 or more)"),
    (
        "recent",
        {"incremental": "yes"},
        "argument `incremental`: neither true nor false: 'yes' (accepted: true, false)",
    ),
    (
        "recent",
        {"incremental": "True"},
        "argument `incremental`: neither true nor false: 'True' (accepted: true, false); did you mean `true`?",
    ),
    (
        "recent",
        {"user_id": "ironway"},
        "argument `user_id`: not a whole number: 'ironway' (accepted: a channel's number)",
    ),
    ("recent", {"categories": ""}, f"argument `categories`: an empty list: '' (accepted: {CATEGORIES})"),
    (
        "live",
        {"categories": "7,,10"},
        f"argument `categories`: an empty name in the list: '7,,10' (accepted: {CATEGORIES})",
    ),
    (
        "live",
        {"categories": "all,7"},
        f"argument `categories`: `all` with other names: 'all,7' (accepted: {CATEGORIES})",
    ),
    ("live", {"interval": "often"}, f"argument `interval`: not a length of time: 'often' (accepted: {LENGTHS})"),
    ("live", {"interval": "0"}, f"argument `interval`: not more than 0 seconds: '0' (accepted: {LENGTHS})"),
    (
        "live",
        {"interval": "5", "duration": "1y"},
        f"argument `duration`: not a length of time: '1y' (accepted: {LENGTHS})",
    ),
    ("live", {"duration": "5m"}, "argument `duration`: needs `interval`: '5m' (accepted: together with `interval`)"),
    *(
        ("site", {"url": url}, f"argument `url`: {problem}: {url!r} (accepted: such as https://parti.com/categories)")
        for url, problem in (
            ("parti.com", "not the address of a page"),
            ("file:///etc/passwd", "not the address of a page"),
            ("https://x:99999/", "not the address of a page"),
            ("https://parti.com/a b", "not the address of a page"),
        )
    ),
    (
        "site",
        {"url": "https://me:secret@parti.com/"},
        (
            "argument `url`: an address with a user's name, which would be stored: 'https://parti.com/' "
            "(accepted: such as https://parti.com/categories)"
        ),
    ),
    (
        "recent",
        {"run_id": "../x"},
        f"argument `run_id`: not usable as the name of a folder: '../x' (accepted: {RUN_IDS})",
    ),
    ("recent", {"run_id": ".x"}, f"argument `run_id`: not usable as the name of a folder: '.x' (accepted: {RUN_IDS})"),
    (
        "recent",
        {"sort": "a\nb"},
        "argument `sort`: not one of the choices: 'a\\nb' (accepted: date, views)",
    ),
]
