"""The switches: what they accept, and their error messages."""

from __future__ import annotations

from typing import Any

import pytest

from parti_scraper.mockserver import Options
from parti_scraper.mockserver.options import switches

NOW_ACCEPTED = "an ISO 8601 date or time from 2021-09-01 to 2040-08-01, such as 2026-01-31T12:00:00Z"
REFUSED = [
    ({"seed": "-1"}, "option `seed`: not a whole number in range: '-1' (accepted: 0 to 9223372036854775807)"),
    ({"seed": "1.5"}, "option `seed`: not a whole number in range: '1.5' (accepted: 0 to 9223372036854775807)"),
    ({"page_cap": "0"}, "option `page-cap`: not a positive number: '0' (accepted: 1 to 1000)"),
    ({"latency": "nan"}, "option `latency`: not a number: 'nan' (accepted: 0 to 600)"),
    ({"latency": "1s"}, "option `latency`: not a number: '1s' (accepted: 0 to 600)"),
    ({"speed": "1e9"}, "option `speed`: not a number in range: '1000000000.0' (accepted: 0 to 100000)"),
    ({"bounds": "shut"}, "option `bounds`: not one of the choices: 'shut' (accepted: closed, open, half-open)"),
    ({"now": "yesterday"}, f"option `now`: not an instant: 'yesterday' (accepted: {NOW_ACCEPTED})"),
    ({"now": "2020-01-01"}, f"option `now`: not an instant in range: '2020-01-01' (accepted: {NOW_ACCEPTED})"),
    (
        {"rate_429": "0.7", "rate_500": "0.7"},
        "option `rate-*`: the six rates of faults add up to more than 1: '1.4' (accepted: at most 1)",
    ),
]


@pytest.mark.parametrize(("typed", "line"), REFUSED)
def test_an_invalid_value_is_refused_in_one_line(typed: dict[str, str], line: str) -> None:
    with pytest.raises(ValueError, match="option") as caught:
        Options.parse(typed)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    "wrong",
    [{"events": 1.5}, {"events": True}, {"latency": "1"}, {"gone": 1}, {"token": None}, {"nan": "NaN"}, {"now": 5}],
)
def test_values_of_other_types_are_refused_in_code_as_well(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^option `{next(iter(wrong))}`: "):
        Options(**wrong)


def test_given_values_are_read_and_the_others_have_their_defaults() -> None:
    typed: dict[str, str | bool] = {"seed": "9", "latency": "0.5", "nan": "none", "gone": True, "now": "2026-01-31"}
    assert Options.parse(typed) == Options(seed=9, latency=0.5, nan="none", gone=True, now="2026-01-31")


def test_the_default_of_every_open_question_is_the_likeliest_answer() -> None:
    defaults = {switch.field: switch.default for switch in switches()}
    likeliest = {
        "above_cap": "clamp", "offset": "honored", "time_filter": "end", "bounds": "closed", "categories": "or",
        "nan": "unfiltered", "user_filter": "honored", "tie_order": "stable", "nameless": "empty", "fields": "full",
        "ws_ping": "ignored",
    }  # fmt: skip
    assert {name: defaults[name] for name in likeliest} == likeliest
    rates = {value for name, value in defaults.items() if "rate" in name or name in {"malformed", "ws_malformed"}}
    assert rates == {0}
