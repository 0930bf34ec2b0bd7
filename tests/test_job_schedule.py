"""The schedule of periodic jobs: what is read from it, and the exact line where something in it is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.exceptions import UsageError
from parti_scraper.jobs.schedule import Scheduled, read_schedule
from tests.deployed import DEPLOY, unit_of
from tests.usage_errors import SPIDERS

NOW = iso_to_timestamp("2024-12-01T00:00:00Z")
CRON = "minute hour day month weekday, in UTC, such as `7 * * * *`"
KEYS = "name, spider, cron, arguments, missing"
RECENT = 'spider = "recent"\n'
HOURLY = 'cron = "7 * * * *"\n'
JOB = "[[job]]\n" + RECENT + HOURLY


def check(spider: str, arguments: Mapping[str, str]) -> None:
    """Check a job as `scrapy crawl` would."""
    if spider not in SPIDERS:
        raise UsageError(f"unknown spider: {spider!r}")
    SPIDERS[spider].parse(arguments, spider, NOW)


def written(folder: Path, content: str | bytes) -> Path:
    """Write a schedule."""
    path = folder / "schedule.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- What is read ------------------------------------------------------------------------------------------------


def test_jobs_are_read_in_order_with_what_each_does_not_say(tmp_path: Path) -> None:
    text = """
        [[job]]
        name = "hourly"
        spider = "recent"
        cron = "7 * * * *"
        missing = true
        [[job]]
        spider = "recent"
        cron = "0 5 * * mon-fri"
        arguments = { since = "2d", limit = 50, incremental = true, user_id = "007" }
        [[job]]
        spider = "live"
        cron = "*/5 * * * *"
        [job.arguments]
        interval = 300
    """
    assert read_schedule(written(tmp_path, text), check) == [
        Scheduled("hourly", "recent", "7 * * * *", {}, missing=True),
        Scheduled(
            "recent",
            "recent",
            "0 5 * * mon-fri",
            {"since": "2d", "limit": "50", "incremental": "true", "user_id": "007"},
            missing=False,
        ),
        Scheduled("live", "live", "*/5 * * * *", {"interval": "300"}, missing=False),
    ]


@pytest.mark.parametrize("content", [b"", b"# Nothing yet.\n", b"\xef\xbb\xbfjob = []"])
def test_a_schedule_may_have_no_jobs(content: bytes, tmp_path: Path) -> None:
    assert read_schedule(written(tmp_path, content), check) == []


def test_a_job_may_say_false_and_an_empty_table(tmp_path: Path) -> None:
    for more in ("missing = false\n", "missing = true\narguments = {}\n"):
        (job,) = read_schedule(written(tmp_path, JOB + more), check)
        assert (job.missing, job.arguments) == ("true" in more, {})


def test_each_job_is_checked_with_its_arguments_as_typed(tmp_path: Path) -> None:
    checked: list[tuple[str, Mapping[str, str]]] = []
    text = JOB + "arguments = { incremental = false, limit = -5 }\n[[job]]\nspider = 'x'\ncron = '0 0 * * *'"
    read_schedule(written(tmp_path, text), lambda *job: checked.append(job))
    assert checked == [("recent", {"incremental": "false", "limit": "-5"}), ("x", {})]


def test_the_example_does_what_the_units_of_systemd_do() -> None:
    jobs = {each.name: each for each in read_schedule(DEPLOY / "schedule.toml", check)}
    units = {path.stem.removeprefix("parti-") for path in DEPLOY.glob("parti-*.service")}
    assert jobs.keys() == units & SPIDERS.keys()
    assert {name for name, job in jobs.items() if job.missing} == {"recent"}
    for name, job in jobs.items():
        timer = DEPLOY / f"parti-{name}.timer"
        if timer.exists():
            hour, minute = unit_of(timer)["Timer"]["OnCalendar"].removeprefix("*-*-* ").split(":")[:2]
            assert job.cron == f"{int(minute)} {hour if hour == '*' else int(hour)} * * *"
        else:
            command = unit_of(DEPLOY / f"parti-{name}.service")["Service"]["ExecStart"]
            typed = dict(re.findall(r"-a (\w+)=(\S+)", command))
            assert (job.cron, job.arguments) == ("*/5 * * * *", typed)


# --- What is wrong -----------------------------------------------------------------------------------------------

# What is written, and the line after the name of the file.
ERRORS: list[tuple[str | bytes, str]] = [
    ("job = [\n", "not TOML: Invalid value (at end of document)"),
    (JOB + "cron =\n", "not TOML: Invalid value (at line 4, column 7)"),
    (JOB + HOURLY, "not TOML: Cannot overwrite a value (at line 4, column 19)"),
    (
        f"limit = {'9' * 5000}",
        (
            "not TOML: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; "
            "use sys.set_int_max_str_digits() to increase the limit"
        ),
    ),
    (f"job = {'[' * 100_000}", "nested too deep (accepted: [[job]] tables)"),
    (b"# caf\xe9\n", "not UTF-8 (accepted: a TOML file in UTF-8)"),
    ("[[jobs]]\n", "unknown key: 'jobs' (accepted: [[job]] tables); did you mean `job`?"),
    ('"a\\nb" = 1\n', "unknown key: 'a\\nb' (accepted: [[job]] tables)"),
    ("[job]\n", "key `job`: not a list of tables (accepted: [[job]] before the keys of each job)"),
    ("job = [1]\n", "key `job`: not a list of tables (accepted: [[job]] before the keys of each job)"),
    (JOB + "argument = {}\n", f"job `recent`: unknown key: 'argument' (accepted: {KEYS}); did you mean `arguments`?"),
    (JOB + "\n[[job]]\n" + HOURLY, 'job 2: key `spider` is missing (accepted: such as "recent")'),
    ("[[job]]\n" + RECENT, 'job `recent`: key `cron` is missing (accepted: such as "7 * * * *")'),
    ("[[job]]\nspider = 1\n" + HOURLY, "job 1: key `spider`: not a text: '1' (accepted: such as \"recent\")"),
    (JOB + "name = true\n", "job 1: key `name`: not a text: 'true' (accepted: such as \"recent\")"),
    (
        "[[job]]\n" + RECENT + "cron = 2024-01-31T07:00:00Z\n",
        "job `recent`: key `cron`: not a text: '2024-01-31 07:00:00+00:00' (accepted: such as \"7 * * * *\")",
    ),
    (
        JOB + 'arguments = ["since=7d"]\n',
        "job `recent`: key `arguments`: not a table: '[…]' (accepted: such as { interval = \"5m\" })",
    ),
    (JOB + 'missing = "yes"\n', "job `recent`: key `missing`: neither true nor false: 'yes' (accepted: true, false)"),
    (JOB + "missing = 1\n", "job `recent`: key `missing`: neither true nor false: '1' (accepted: true, false)"),
    (JOB + "name = ''\n", "job 1: key `name`: not a name: '' (accepted: 1 to 64 of a-z, 0-9, _ and -)"),
    (JOB + "name = 'Recent'\n", "job 1: key `name`: not a name: 'Recent' (accepted: 1 to 64 of a-z, 0-9, _ and -)"),
    (
        JOB + f"name = '{'a' * 65}'\n",
        f"job 1: key `name`: not a name: '{'a' * 65}' (accepted: 1 to 64 of a-z, 0-9, _ and -)",
    ),
    (JOB + JOB, "job `recent`: key `name`: of an earlier job too: 'recent' (accepted: a name for each job)"),
    (
        JOB + "missing = true\narguments = { since = '7d', limit = 5 }\n",
        "job `recent`: key `missing`: together with arguments: 'since, limit' (accepted: one of both)",
    ),
    (
        "[[job]]\nspider = 'live'\nmissing = true\n" + HOURLY,
        "job `live`: key `missing`: not known to the spider: 'live' (accepted: only the spider `recent`)",
    ),
    (
        JOB + "arguments = { limit = 1.5 }\n",
        "job `recent`: argument `limit`: of a wrong type: '1.5' (accepted: a text, a whole number, true, false)",
    ),
    (
        JOB + "arguments = { categories = [1, 2] }\n",
        "job `recent`: argument `categories`: of a wrong type: '[…]' (accepted: a text, a whole number, true, false)",
    ),
    (
        JOB + "arguments = { limit = 0x8000000000000000 }\n",
        (
            "job `recent`: argument `limit`: of a wrong type: '0x8000000000000000' "
            "(accepted: a text, a whole number, true, false)"
        ),
    ),
    (
        JOB + 'arguments = { categories = "a\\u0000" }\n',
        "job `recent`: argument `categories`: with a NUL: 'a\\x00' (accepted: a text without)",
    ),
    # What `check` says.
    ("[[job]]\nname = 'a'\nspider = 'recnt'\n" + HOURLY, "job `a`: unknown spider: 'recnt'"),
    (
        "[[job]]\nspider = 'categories'\narguments = { \"a\\nb\" = '' }\n" + HOURLY,
        "job `categories`: argument `a�b`: not known to the spider `categories`: '' (accepted: run_id)",
    ),
]


@pytest.mark.parametrize(("content", "line"), ERRORS)
def test_an_error_is_one_line_with_file_job_and_key(content: str | bytes, line: str, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UsageError) as error:
        read_schedule(path, check)
    assert str(error.value) == f"{path}: {line}"


FIVE, TIME = "not five fields", "not a time"


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        ("", FIVE),
        ("@hourly", FIVE),
        ("7 * * *", FIVE),
        ("* * * * * */10", FIVE),
        ("60 * * * *", TIME),
        ("* * * * mo", TIME),
        ("0 0 31 2 *", TIME),
        ("R * * * *", TIME),
        ("5,r(0-5) * * * *", TIME),
        ("H/5 * * * *", TIME),
    ],
)
def test_a_cron_expression_has_five_fields_and_times(cron: str, problem: str, tmp_path: Path) -> None:
    path = written(tmp_path, f'[[job]]\nspider = "live"\ncron = "{cron}"\n')
    with pytest.raises(UsageError) as error:
        read_schedule(path, check)
    assert str(error.value) == f"{path}: job `live`: key `cron`: {problem}: '{cron}' (accepted: {CRON})"


@pytest.mark.parametrize("cron", ["* * * * *", "0 0 29 2 *", "7 0-6/2 1,15 mar,apr thu", " 7  * * * 7", "0 0 L * *"])
def test_usual_forms_of_cron_are_accepted(cron: str, tmp_path: Path) -> None:
    (job,) = read_schedule(written(tmp_path, f'[[job]]\nspider = "live"\ncron = "{cron}"\n'), check)
    assert job.cron == cron


def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "a\nb", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError) as error:
            read_schedule(path, check)
        assert str(error.value) == f"{str(path).replace(chr(10), '�')}: cannot be read: {reason}"


# --- Whatever is written -----------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CRONS = st.lists(st.text("0123456789*/,-#LlrRhHWw?()", max_size=4), min_size=4, max_size=6).map(" ".join)
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers() | st.integers(2**64, 2**70).map(lambda n: n**300) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
KNOWN = {
    "name": st.sampled_from(["a", "b", "A"]),
    "spider": st.sampled_from([*SPIDERS, "x"]),
    "cron": st.just("7 * * * *") | CRONS,
    "arguments": st.dictionaries(st.sampled_from(["since", "limit", "interval"]), TEXTS | st.integers(1, 9)),
    "missing": st.booleans(),
}
JOBS = st.fixed_dictionaries(
    {key: KNOWN[key] for key in ("spider", "cron")},
    optional={key: KNOWN[key] for key in ("name", "arguments", "missing")},
)
ODD_JOBS = st.tuples(JOBS, st.dictionaries(st.sampled_from([*KNOWN]) | TEXTS, VALUES, max_size=2)).map(
    lambda both: both[0] | both[1]
)
SCHEDULES = st.dictionaries(st.just("job"), st.lists(JOBS | ODD_JOBS, max_size=3) | VALUES) | st.dictionaries(
    TEXTS, VALUES, max_size=2
)


def toml_of(value: Any) -> str:
    """Return a value in TOML, in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_of(key)} = {toml_of(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return hex(value) if isinstance(value, int) and value >= 2**64 else repr(value)


def read(path: Path) -> list[Scheduled] | str:
    """Return the jobs of a schedule, or the error after the name of the file, which is one line."""
    try:
        return read_schedule(path, check)
    except UsageError as error:
        line = str(error)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    return line.removeprefix(f"{path}: ")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example({"job": [{"spider": "live", "cron": "7 * * * *"}]})
@given(SCHEDULES)
def test_whatever_is_written_gives_jobs_or_one_line(tmp_path: Path, known: dict[str, Any]) -> None:
    path = written(tmp_path, "".join(f"{toml_of(key)} = {toml_of(value)}\n" for key, value in known.items()))
    found = read(path)
    if isinstance(found, str):
        assert not found.startswith("not TOML")
    else:
        assert [each.spider for each in found] == [each["spider"] for each in known.get("job", [])]
        assert len({each.name for each in found}) == len(found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text("[]{}job\"'\\\n=. #\t1-:", max_size=60).map(str.encode))
def test_whatever_is_in_the_file_gives_no_jobs_or_one_line(tmp_path: Path, content: bytes) -> None:
    found = read(written(tmp_path, content))
    assert isinstance(found, str) or found == []
