"""The recipes of the documents work as they are written, and have the right answers."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import openpyxl
import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from tests.documents import blocks_of, read
from tests.made_runs import category, live_channel, livestream, make_run, rejected
from tests.office import needs_office, rows_of_sheet
from tests.postgresql import ROLE, Cluster, empty_database
from tests.support import ROOT, TIMEOUT, environment_of

COMMANDS = read("docs/commands.md")
DATA = read("docs/data.md")

FIRST, SECOND = "2026-11-25T12:00:00Z", "2026-11-26T12:00:00Z"
OBSERVED = ("2026-11-24T22:30:00Z", "2026-11-24T22:35:00Z")
QUESTIONS: dict[str, list[tuple[Any, ...]]] = {
    "How much was streamed on each day?": [
        ("2026-11-24", 1, 1.5, 130),
        ("2026-11-25", 1, 1.5, 40),
        ("2026-11-26", 1, 1.5, 7),
    ],
    "Which channels were the largest of a month?": [(1, "MellowDuck", 2, 137), (2, "TinyOtter", 1, 40)],
    "How many watched a livestream, when?": [(OBSERVED[0], 10, 2), (OBSERVED[1], 15, 1)],
    "How has a livestream changed after its end?": [
        (FIRST, FIRST, "Speedrun", 100, None),
        (SECOND, SECOND, "Speedrun, done", 130, 30),
    ],
    "Which livestreams were renamed after their end?": [(80658, "Speedrun", "Speedrun, done", 2)],
    "What was set aside, and why?": [("event_id is missing", 2, 1), ("event_id cannot be read", 1, 1)],
    "What is in a field that the API has added?": [(80661, "eu")],
}


# --- The documents -----------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """A block of a document."""

    language: str
    code: str


def recipes_of(document: str) -> dict[str, Recipe]:
    """Return the blocks of a document that are under a paragraph with a bold beginning, by that beginning."""
    found = re.findall(
        r"^\*\*([^*]+?)[.,]?\*\*.*\n(?:.+\n)*\n```(\w+)\n((?:(?!```).*\n)*)```$", document, flags=re.MULTILINE
    )
    return {title: Recipe(language, code) for title, language, code in found}


RECIPES = recipes_of(DATA)


def in_python(title: str, recipes: dict[str, Recipe] = RECIPES) -> dict[str, Any]:
    """Run a recipe in the working folder, and return its variables."""
    variables: dict[str, Any] = {}
    exec(recipes[title].code, variables)  # noqa: S102
    return variables


def type_in(folder: Path, commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run commands as they are written, in a folder that is not the project's."""
    ours = f"{sys.executable} -m parti_scraper "
    return subprocess.run(
        ["sh", "-ec", re.sub("^scrapy ", ours, commands, flags=re.MULTILINE)],
        cwd=folder,
        env=environment_of(folder / "output", None, environment),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=True,
    )


# --- A dataset -----------------------------------------------------------------------------------------------------


def make_runs(output: Path) -> None:
    """Make runs in which a livestream changes, another one has no end, and records are set aside."""
    duck = {"user_id": 1, "user_name": "MellowDuck"}
    otter = {"user_id": 2, "user_name": "TinyOtter"}
    late = {"event_start": "2026-11-24T22:00:00Z", "event_end": "2026-11-24T23:30:00Z"}
    unknown: dict[str, Any] = {"event_end": None, "duration_seconds": None, "total_viewers": None}
    before = [
        livestream(80658, event_title="Speedrun", total_viewers=100, **duck, **late, scraped_at=FIRST),
        livestream(80659, total_viewers=40, **otter, scraped_at=FIRST),
        livestream(80660, **otter, **unknown, scraped_at=FIRST),
    ]
    ended = {"event_start": "2026-11-26T07:30:00Z", "event_end": "2026-11-26T09:00:00Z"}
    after = [
        livestream(80658, event_title="Speedrun, done", total_viewers=130, **duck, **late, scraped_at=SECOND),
        livestream(80659, total_viewers=40, **otter, scraped_at=SECOND),
        livestream(80661, total_viewers=7, extra={"region": "eu"}, **duck, **ended, scraped_at=SECOND),
    ]
    set_aside = [rejected(0), rejected(1), rejected(2, reason="event_id cannot be read")]
    make_run(output, "recent", "first", before)
    make_run(output, "recent", "second", after, quarantine=set_aside)
    make_run(output, "categories", "run", [category(7)])
    snapshots = [
        live_channel(80658, f"run-{number}", observed_at=at, viewers_count=viewers, rank=rank, **duck)
        for number, (at, viewers, rank) in enumerate(zip(OBSERVED, (10, 15), (2, 1), strict=True), 1)
    ]
    others = [live_channel(80659, "run-1", observed_at=OBSERVED[0], viewers_count=40, rank=1, **otter)]
    said = [
        {"snapshot_id": f"run-{number}", "started_at": at, "ended_at": at, "channels": channels, "complete": True}
        for number, (at, channels) in enumerate(zip(OBSERVED, (2, 1), strict=True), 1)
    ]
    make_run(output, "live", "run", [*others, *snapshots], day="2026-11-24", snapshots=said)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs, and what the first recipe makes of them."""
    folder = tmp_path_factory.mktemp("recipes")
    make_runs(folder / "output")
    type_in(folder, RECIPES["The targets that they read"].code)
    return folder


@pytest.fixture
def here(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder of the dataset the working folder."""
    monkeypatch.chdir(dataset)
    return dataset


def plain(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows in which times, dates and numbers are the same for every program."""
    return [tuple(map(_plain, row)) for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


# --- The recipes -----------------------------------------------------------------------------------------------------


def test_every_block_is_a_recipe_that_is_tested() -> None:
    assert len(RECIPES) == DATA.count("```") / 2
    tested = "".join(
        Path(__file__).with_name(name).read_text("utf-8") for name in ("test_recipes.py", "test_coverage.py")
    )
    assert [title for title in RECIPES if f'"{title}"' not in tested] == []


@pytest.mark.parametrize("title", ["DuckDB over a folder", "DuckDB, a `.duckdb` file"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_in_duckdb(title: str, question: str, here: Path) -> None:
    with in_python(title)["connection"] as connection:
        answer = connection.sql(RECIPES[question].code)
        assert plain(answer.fetchall()) == QUESTIONS[question]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_in_sqlite(question: str, here: Path) -> None:
    query = RECIPES[question].code
    for theirs, its in re.findall(r"^\| `(CAST.+)` \| `(.+)` \|$", DATA, flags=re.MULTILINE):
        query = query.replace(theirs, its)
    with closing(sqlite3.connect("parti.sqlite")) as connection:
        assert plain(connection.execute(query)) == QUESTIONS[question]


def test_the_python_recipes(here: Path) -> None:
    largest = in_python("DuckDB, a `.duckdb` file")["largest"]
    assert largest.to_dict("list") == {"event_id": [80658, 80659], "total_viewers": [130, 40]}
    whole = in_python("One export as a whole, while another may be going on")["livestreams"]
    assert sorted(whole.project("event_id").fetchall()) == [(80658,), (80659,), (80660,), (80661,)]
    days = [("2026-11-24", 1, 130), ("2026-11-25", 1, 40), ("2026-11-26", 1, 7)]
    assert in_python("SQLite")["per_day"] == [(None, 1, None), *days]


def test_the_recipe_for_delta_tables(here: Path) -> None:
    type_in(here, "scrapy export delta+lake/")
    variables = in_python("Delta tables")
    assert sorted(variables["newest"]["event_id"]) == [80658, 80659, 80661]
    assert len(variables["in_duckdb"]) == len(variables["first"]) == 4


def test_the_recipe_for_pandas(here: Path) -> None:
    variables = in_python("pandas")
    livestreams, curve = variables["livestreams"], variables["curve"]
    assert (str(livestreams["event_end"].dtype), len(livestreams)) == ("datetime64[us, UTC]", 4)
    assert str(livestreams["total_viewers"].dtype) == "Int64"
    in_berlin = [(date(2026, 11, 25), 2, 170), (date(2026, 11, 26), 1, 7)]
    assert list(variables["per_day"].itertuples(name=None)) == in_berlin
    assert plain([(at.to_pydatetime(), viewers) for at, viewers in curve.items()]) == [
        (OBSERVED[0], 10),
        (OBSERVED[1], 15),
    ]


def test_the_recipe_for_polars(here: Path) -> None:
    in_berlin = [(date(2026, 11, 25), 2, 170), (date(2026, 11, 26), 1, 7)]
    assert in_python("Polars")["per_day"].rows() == in_berlin


def test_the_recipes_for_open_dataset(here: Path) -> None:
    assert in_python("`open_dataset` and DuckDB")["most"] == [("MellowDuck", 2, 3.0), ("TinyOtter", 2, 1.5)]
    watched = in_python("`open_dataset` and pandas")["watched"]
    assert watched.to_dict() == {80658: 12.5 * 300 / 3_600}
    assert in_python("`open_dataset` and Polars")["per_category"].rows() == [("Category 7", 4)]
    variables = in_python("`open_dataset` in a notebook")
    *_, last = RECIPES["`open_dataset` in a notebook"].code.splitlines()
    with variables["dataset"]:
        shown = eval(last, variables)  # noqa: S307 - as a notebook does
        assert plain(shown.fetchall()) == [("2026-11-24T22:00:00Z", 32.5)]


def test_a_time_is_a_date_in_a_workbook(dataset: Path) -> None:
    with closing(openpyxl.load_workbook(dataset / "parti.xlsx")) as book:
        sheets = {sheet.title: list(sheet.values) for sheet in book}
    assert {name: len(rows) for name, rows in sheets.items()} == {
        "livestreams": 5,
        "streams": 5,
        "channels": 3,
        "categories": 2,
    }
    column = sheets["livestreams"][0].index("event_end")
    # The formula of the document is for this column.
    assert (column, "=H2+1/24" in DATA) == (7, True)
    assert [row[column] and row[column].isoformat() for row in sheets["livestreams"][1:]] == [
        "2026-11-24T23:30:00",
        "2026-11-25T10:30:00",
        "2026-11-26T09:00:00",
        None,
    ]


@needs_office
def test_a_workbook_opens_in_libreoffice(dataset: Path) -> None:
    header, first, *_ = rows_of_sheet(dataset / "parti.xlsx", "livestreams")
    shown = dict(zip(header, first, strict=True))
    assert (shown["event_id"], shown["event_end"]) == ("80658", "2026-11-24 23:30:00")


# PostgreSQL:


@pytest.fixture
def reader(postgresql: Cluster) -> Iterator[str]:
    """Return a role that may do nothing but what it is granted."""
    postgresql.execute(f"CREATE ROLE reader; GRANT reader TO {ROLE}")
    yield "reader"
    postgresql.execute("DROP ROLE reader")


@pytest.fixture(scope="module")
def database(dataset: Path, postgresql: Cluster) -> Iterator[str]:
    """Return the address of a database with the dataset, which is only read."""
    with empty_database(postgresql) as address:
        type_in(dataset, RECIPES["An export"].code, PARTI_DATABASE_URL=address)
        yield address


def test_the_questions_in_postgresql(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("SET search_path = parti")
        answers = {question: plain(connection.execute(RECIPES[question].code).fetchall()) for question in QUESTIONS}
        assert answers == QUESTIONS


def test_a_reader_in_postgresql_may_read_also_after_a_rebuild(dataset: Path, reader: str, postgres_url: str) -> None:
    type_in(dataset, RECIPES["An export"].code, PARTI_DATABASE_URL=postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(RECIPES["A role that may only read"].code)
        type_in(dataset, f"{RECIPES['An export'].code.strip()} --rebuild", PARTI_DATABASE_URL=postgres_url)
        connection.execute("CREATE TABLE parti.later ()")
        connection.execute(f"SET ROLE {reader}; SET search_path = parti")
        assert connection.execute("SELECT count(*) FROM livestreams").fetchall() == [(4,)]
        assert connection.execute("SELECT count(*) FROM later").fetchall() == [(0,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM livestreams")


def test_the_sources_for_dbt_are_the_tables_of_a_database(database: str) -> None:
    sources = (ROOT / "docs" / "dbt" / "sources.yml").read_text(encoding="utf-8")
    (source,) = yaml.safe_load(sources)["sources"]
    described = {
        (each["name"], column["name"], column["data_type"].replace("timestamptz", "timestamp with time zone"))
        for each in source["tables"]
        for column in each["columns"]
    }
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = %s AND table_name <> 'export_state'",
            [source["schema"]],
        ).fetchall()
    assert described == set(found)


def test_a_query_with_psql(dataset: Path, database: str) -> None:
    parts = conninfo_to_dict(database)
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname", "PGPASSWORD": "password"}
    environment = {name: str(parts[part]) for name, part in names.items()}
    assert type_in(dataset, RECIPES["A query"].code, **environment).stdout == "livestreams\n4\n"


# The commands:


def test_the_exports_of_the_commands(tmp_path: Path, postgres_url: str) -> None:
    make_runs(tmp_path / "output")
    (commands,) = (block.code for block in blocks_of("docs/commands.md") if block.run_by == "tests/test_recipes.py")
    done = type_in(tmp_path, commands, PARTI_DATABASE_URL=postgres_url)
    assert len(re.findall(r": \d+ files read, of parti.com$", done.stdout, flags=re.MULTILINE)) == 3


def test_a_file_of_a_run_is_loaded_into_pandas(tmp_path: Path) -> None:
    make_run(tmp_path, "recent", "last-week", [livestream(1), livestream(2, user_name="0123")])
    language, code = recipes_of(COMMANDS)["Load them into pandas"]
    assert language == "python"
    moved = {"it": Recipe(language, code.replace('"archive/', f'"{tmp_path}/'))}
    livestreams = in_python("it", moved)["livestreams"]
    assert [str(livestreams[name].dtype) for name in ("event_start", "event_end", "scraped_at")] == [
        "datetime64[us, UTC]"
    ] * 3
    assert list(livestreams["user_name"]) == ["user 2", "0123"]
    assert livestreams["event_end"][0].isoformat() == "2026-11-25T10:30:00+00:00"
