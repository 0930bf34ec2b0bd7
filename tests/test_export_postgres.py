"""PostgreSQL as a target, on a real server: types, rights, what else is in the schema, trouble, and the password."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from parti_scraper.dataset.engine import ExtraMissing, TargetError
from parti_scraper.dataset.tables import all_tables
from parti_scraper.dataset.targets.database import DatabaseSession
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.dataset.targets.postgres_address import parse_address
from parti_scraper.exceptions import UsageError
from tests import forked
from tests.collecting import bring as bring_with
from tests.dataset_truth import Truth, tables_of
from tests.exporting import bring, make_categories
from tests.made_runs import category, livestream, make_run
from tests.postgresql import PASSWORD, ROLE, SECRET, Cluster
from tests.processes import descendants
from tests.support import ROOT, SCRAPY, TIMEOUT, Scrapy, environment_of, wait_until

# What exports wait for.
WAITING = "SELECT wait_event FROM pg_stat_activity WHERE usename = 'parti' AND wait_event_type = 'Lock'"
ACCEPTED = (
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE?schema=parti, USER and PASSWORD percent-encoded; "
    "or postgresql:// alone, for that of the environment variable PARTI_DATABASE_URL"
)


def shown(address: str) -> str:
    """Return an address as messages show it."""
    return f"postgresql://{address.partition('@')[2]}"


def rows(address: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(address, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@contextmanager
def held(address: str, statement: str) -> Iterator[psycopg.Connection]:
    """Keep a transaction open in which a statement was executed."""
    with closing(psycopg.connect(address)) as connection:
        connection.execute(statement.encode())
        yield connection


@pytest.fixture
def admin(postgresql: Cluster, postgres_url: str) -> str:
    """Return the address of the database for its administrator."""
    return f"postgresql://postgres@/{postgres_url.rpartition('/')[2]}?host={postgresql.folder}&port={postgresql.port}"


# --- What is in the schema ---------------------------------------------------------------------------------------


def test_columns_have_types_and_say_what_they_are(postgres_url: str, output: Path) -> None:
    make_run(output, "recent", "run", [livestream(1, has_access_pass=True, event_start=None)])
    bring(postgres_url, output)
    query = "SELECT event_id, has_access_pass, event_start, event_end, extra FROM parti.livestreams"
    assert rows(postgres_url, query) == [(1, True, None, datetime(2026, 11, 25, 10, 30, tzinfo=UTC), "{}")]
    query = """
        SELECT c.relname, obj_description(c.oid), a.attname, format_type(a.atttypid, a.atttypmod),
        col_description(c.oid, a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'parti'::regnamespace AND c.relkind = 'r' AND c.relname != 'export_state'
        AND a.attnum > 0
    """
    types = {
        "BIGINT": "bigint",
        "BOOLEAN": "boolean",
        "DOUBLE": "double precision",
        "TIMESTAMPTZ": "timestamp with time zone",
        "VARCHAR": "text",
    }
    assert set(rows(postgres_url, query)) == {
        (table.name, table.description, column.name, types[column.type], column.description)
        for table in all_tables().values()
        for column in table.columns
    }


def test_the_schema_that_is_named_is_made_and_holds_a_dataset_of_its_own(postgres_url: str, output: Path) -> None:
    make_categories(output, ["Art"])
    for schema in ("one", "Zo%C3%AB's%20%222%22"):
        assert bring(f"{postgres_url}?schema={schema}", output).tables["categories"].rows == 1
    query = "SELECT schemaname FROM pg_tables WHERE tablename = 'categories' ORDER BY 1"
    assert rows(postgres_url, query) == [('Zoë\'s "2"',), ("one",)]
    assert target_of(f"{postgres_url}?schema=one").shown == f"{shown(postgres_url)}?schema=one"


@pytest.fixture
def reader(admin: str) -> Iterator[str]:
    """Return a role without rights."""
    role = f"reader_of_{admin.partition('?')[0].rpartition('/')[2]}"
    rows(admin, f"CREATE ROLE {role}")
    yield role
    rows(admin, f"DROP OWNED BY {role}")
    rows(admin, f"DROP ROLE {role}")


def test_views_indexes_and_grants_stay_when_a_column_is_added_and_at_a_rebuild(
    postgres_url: str, reader: str, output: Path
) -> None:
    make_run(output, "recent", "run", [livestream(1), livestream(2)])
    bring(postgres_url, output)
    for statement in (
        "CREATE VIEW parti.mine AS SELECT event_id FROM parti.livestreams",
        f"GRANT SELECT ON parti.livestreams, parti.mine TO {reader}",
        "CREATE INDEX mine_too ON parti.livestreams (user_id)",
        # As an earlier version would have left it.
        "ALTER TABLE parti.livestreams DROP COLUMN video_url",
        "COMMENT ON COLUMN parti.livestreams.event_title IS 'what it was called then'",
    ):
        rows(postgres_url, statement)
    for rebuild in (False, True):
        make_run(output, "recent", f"later-{rebuild}", [livestream(3)])
        bring_with(postgres_url, [output], output.with_name("state"), rebuild=rebuild)
        assert rows(postgres_url, "SELECT count(*) FROM parti.mine") == [(3,)]
        assert rows(postgres_url, f"SELECT has_table_privilege('{reader}', 'parti.livestreams', 'SELECT')") == [(True,)]
        assert rows(postgres_url, "SELECT count(*) FROM pg_indexes WHERE indexname = 'mine_too'") == [(1,)]
    query = """
        SELECT attname, col_description(attrelid, attnum) FROM pg_attribute
        WHERE attrelid = 'parti.livestreams'::regclass AND attnum > 0 AND NOT attisdropped
    """
    assert dict(rows(postgres_url, query)) == {
        each.name: each.description for each in all_tables()["livestreams"].columns
    }


@pytest.mark.parametrize("title", ["CR\r\nLF", "\r\n", "LF\n", "lone\rCR", '"\r\n",'])
def test_rows_are_read_back_whatever_line_breaks_their_texts_have(postgres_url: str, output: Path, title: str) -> None:
    make_run(output, "recent", "first", [livestream(1, event_title=title), livestream(2)])
    tables = ("livestream_versions", "livestreams")
    bring(postgres_url, output, *tables)
    later = {"event_title": "new", "scraped_at": "2026-11-25T13:00:00Z"}
    make_run(output, "recent", "second", [livestream(1, **later), livestream(2, **later)])
    bring(postgres_url, output, *tables)
    query = "SELECT event_title FROM parti.livestream_versions WHERE event_id = 1"
    assert sorted(rows(postgres_url, query)) == sorted([(title,), ("new",)])
    true = Truth().see(output).tables()
    assert tables_of(postgres_url, tables) == {table: true[table] for table in tables}


def test_the_number_of_altered_texts_is_shown(scrapy: Scrapy, postgres_url: str, output: Path) -> None:
    make_run(
        output, "categories", "run", [category(1, name="a\0b", extra={"\0": "\0"}), category(2, extra={"a": "\\u0000"})]
    )
    run = scrapy("export", postgres_url, "--table", "categories")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (
        f"{shown(postgres_url)}: 1 file read, of parti.com\n  categories  2 rows (2 new, 2 texts altered)\n"
    )


# --- Rights and settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "REVOKE ALL ON DATABASE {0} FROM parti; ALTER DATABASE {0} OWNER TO postgres",
            "permission denied for database {0}",
        ),
        ("CREATE SCHEMA parti; ALTER SCHEMA parti OWNER TO postgres", "permission denied for schema parti"),
        (
            (
                "CREATE SCHEMA parti; GRANT ALL ON SCHEMA parti TO parti; "
                "CREATE TABLE parti.export_state (name text, value text)"
            ),
            "permission denied for table export_state",
        ),
    ],
)
def test_a_lack_of_rights_is_one_line(
    scrapy: Scrapy, postgres_url: str, admin: str, output: Path, statement: str, problem: str
) -> None:
    make_categories(output, ["Art"])
    database = shown(postgres_url).rpartition("/")[2]
    for each in statement.format(database).split("; "):
        rows(admin, each)
    run = scrapy("export", postgres_url)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        f"scrapy export: {shown(postgres_url)}: {problem.format(database)} "
        "(needed: CREATE on the database, or on the schema and ownership of its tables)\n"
    )


def test_a_role_that_may_use_a_schema_of_others_needs_no_other_rights(
    postgres_url: str, admin: str, output: Path
) -> None:
    make_categories(output, ["Art"])
    rows(admin, "CREATE SCHEMA parti")
    rows(admin, "GRANT USAGE, CREATE ON SCHEMA parti TO parti")
    rows(admin, f"ALTER DATABASE {shown(postgres_url).rpartition('/')[2]} OWNER TO postgres")
    assert bring(postgres_url, output).tables["categories"].rows == 1


def test_settings_of_the_role_make_no_difference(postgres_url: str, output: Path) -> None:
    timeouts = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    settings = dict.fromkeys(timeouts, "60000") | {
        "default_transaction_isolation": "serializable",
        "standard_conforming_strings": "off",
        "client_encoding": "LATIN1",
        "datestyle": "German",
        "timezone": "Asia/Tokyo",
        "search_path": "nowhere",
    }
    address = f"{postgres_url}?options={''.join(f'-c%20{name}%3D{value}%20' for name, value in settings.items())}"
    make_run(output, "recent", "run", [livestream(1, event_title="👾 \\'"), livestream(2)])
    for number in range(2):
        make_categories(output, ["Art"] * (number + 1))
        bring(address, output)
    assert tables_of(postgres_url) == Truth().see(output).tables()
    with target_of(address).open() as session:
        assert isinstance(session, DatabaseSession)
        shown = [session.query(f"SHOW {name}") for name in (*timeouts, "transaction_isolation")]
    assert shown == [[("0",)], [("0",)], [("0",)], [("read committed",)]]


def test_a_database_of_another_encoding_is_refused(postgres_url: str, admin: str, output: Path) -> None:
    rows(admin, "CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0 OWNER parti")
    try:
        with pytest.raises(TargetError) as caught:
            bring(f"{postgres_url.rpartition('/')[0]}/latin", output)
    finally:
        rows(admin, "DROP DATABASE latin")
    assert str(caught.value).endswith("/latin: the encoding of the database is LATIN1 (accepted: UTF8)")


# --- Trouble -----------------------------------------------------------------------------------------------------


def refused(address: str) -> str:
    """Return why an export failed."""
    with pytest.raises(TargetError) as caught, target_of(address).open():
        pass
    return str(caught.value)


def test_what_keeps_an_export_from_connecting_is_one_line_without_the_password(postgres_url: str) -> None:
    port = shown(postgres_url).rpartition(":")[2].partition("/")[0]
    failed = f'connection failed: connection to server at "127.0.0.1", port {port} failed'
    there = f"{shown(postgres_url)}: {failed}"
    assert refused(postgres_url.replace(SECRET, "wrong")) == (
        f'{there}: FATAL: password authentication failed for user "parti"'
    )
    assert (
        refused(f"postgresql://{ROLE}@{postgres_url.partition('@')[2]}")
        == f"{there}: fe_sendauth: no password supplied"
    )
    address = f"{postgres_url.rpartition('/')[0]}/nowhere"
    assert refused(address).endswith('failed: FATAL: database "nowhere" does not exist')
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as silent:
        port = silent.getsockname()[1]
        address = f"postgresql://{ROLE}:{SECRET}@127.0.0.1:{port}/x"
        # It accepts, and never answers.
        assert refused(f"{address}?connect_timeout=2") == f"postgresql://127.0.0.1:{port}/x: connection timeout expired"
    assert refused(address).startswith(f"{shown(address)}: connection failed: ")
    assert "Connection refused" in refused(address)


def test_a_text_of_the_server_that_holds_the_password_is_shown_without_it(postgres_url: str, output: Path) -> None:
    make_categories(output, ["Art"])
    bring(postgres_url, output)
    body = f"BEGIN RAISE EXCEPTION E'{PASSWORD}\\nand more'; END"
    rows(postgres_url, f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    rows(postgres_url, "CREATE TRIGGER fail BEFORE INSERT ON parti.loaded_files EXECUTE FUNCTION fail()")
    make_run(output, "categories", "second", [category(7)])
    with pytest.raises(TargetError) as caught:
        bring(postgres_url, output)
    assert str(caught.value) == f"{shown(postgres_url)}: *** and more"


@pytest.mark.parametrize("trouble", ["a cut connection", "a crash of the server"])
def test_an_export_that_loses_its_server_is_one_line_and_is_finished_by_the_next(
    scrapy: Scrapy, postgres_url: str, postgresql: Cluster, admin: str, output: Path, trouble: str
) -> None:
    make_categories(output, ["Art"])
    bring(postgres_url, output)
    make_run(output, "recent", "run", [livestream(1)])
    make_run(output, "categories", "second", [category(7)])
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        # Where it waits, something is written already.
        stack.enter_context(held(admin, "LOCK parti.livestreams"))
        export = pool.submit(scrapy, "export", postgres_url)
        wait_until(lambda: rows(admin, WAITING) == [("relation",)])
        if trouble == "a cut connection":
            rows(admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'parti'")
        else:
            postgresql.restart()
        run = export.result()
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"scrapy export: {shown(postgres_url)}: ")
    assert run.stderr.count("\n") == 1
    assert SECRET not in run.stderr
    assert rows(postgres_url, "SELECT count(*) FROM parti.categories") == [(1,)]
    bring(postgres_url, output)
    assert tables_of(postgres_url) == Truth().see(output).tables()


def test_an_export_that_is_stopped_undoes_what_it_has_done(postgres_url: str, admin: str, output: Path) -> None:
    make_categories(output, ["Art"])
    bring(postgres_url, output)
    make_run(output, "categories", "second", [category(7)])
    with held(admin, "LOCK parti.livestreams"):
        with closing(forked.Scrapy(["export", postgres_url], environment_of(output, None))) as export:
            wait_until(lambda: rows(admin, WAITING) == [("relation",)])
            export.send_signal(signal.SIGINT)
            _, stderr = export.communicate(TIMEOUT)
            assert (export.wait(), stderr) == (3, "scrapy export: stopped; the next export does the rest\n")
        wait_until(lambda: rows(admin, WAITING) == [])
    assert rows(postgres_url, "SELECT count(*) FROM parti.categories") == [(1,)]


# --- The address, and the password in it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (f"postgresql://me:{SECRET}/@host/x", ": its user or password has a character that is to be percent-encoded"),
        (
            f"postgresql://me:{SECRET}@{SECRET}@host/x",
            ": its user or password has a character that is to be percent-encoded",
        ),
        (
            f"postgresql://me:1234/{SECRET}@host:1/x",
            ": its user or password has a character that is to be percent-encoded",
        ),
        (f"postgresql://me:{SECRET}", ": its port is not a number"),
        (f"postgresql://me:{SECRET}%zz@host/x", ""),
        (f"postgresql://me:{SECRET} x@host/x", ""),
        (f"postgres://host/x?password=a&{SECRET}", ""),
        (f"postgresql://me:{SECRET}@host/x?schema=", ": its schema is not a name that PostgreSQL takes"),
        (f"postgresql://me:{SECRET}@host/x?schema=pg_{SECRET}", ": its schema is not a name that PostgreSQL takes"),
        (f"postgresql://me:{SECRET}@host/x?schema={'x' * 64}", ": its schema is not a name that PostgreSQL takes"),
    ],
)
def test_what_is_no_address_is_a_usage_error_that_shows_nothing_of_it(
    scrapy: Scrapy, address: str, problem: str
) -> None:
    line = f"not an address of PostgreSQL{problem} (accepted: {ACCEPTED})\n"
    run = scrapy("export", address)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"scrapy export: argument `TARGET`: {line}")
    run = scrapy("export", "postgresql://", env={"PARTI_DATABASE_URL": address})
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"scrapy export: environment variable `PARTI_DATABASE_URL`: {line}"


def test_a_parameter_that_is_misspelt_has_a_hint() -> None:
    with pytest.raises(UsageError, match=r"; did you mean `schema`\?$"):
        target_of("postgresql://host/x?schem=mine")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (
            "postgresql://me:a%2F%40@[::1]:5/x?sslmode=disable&schema=mine",
            {"password": "a/@", "host": "::1", "port": "5", "user": "me", "dbname": "x", "sslmode": "disable"},
        ),
        ("postgres://one:1,two:2/x", {"host": "one,two", "port": "1,2", "dbname": "x"}),
        ("postgresql:///x?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "x"}),
        ("postgresql://me:a?b#c@host", {"user": "me", "password": "a?b#c", "host": "host"}),
    ],
)
def test_an_address_is_what_libpq_makes_of_it(address: str, found: dict[str, str]) -> None:
    parsed = parse_address(address)
    assert parsed.parameters == found
    assert "a/@" not in f"{parsed}"
    assert parsed.schema == ("mine" if "mine" in address else "parti")


def test_without_an_address_that_of_the_environment_is_taken(scrapy: Scrapy, postgres_url: str, output: Path) -> None:
    make_categories(output, ["Art"])
    run = scrapy("export", "postgresql://", "--quiet")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"scrapy export: argument `TARGET`: PARTI_DATABASE_URL is not set (accepted: {ACCEPTED})\n"
    run = scrapy("export", "postgres://", "--quiet", env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert rows(postgres_url, "SELECT name FROM parti.categories") == [("Art",)]


def test_without_psycopg_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ExtraMissing, match=r"^psycopg is not installed \(extra `postgres`\): pip install "):
        target_of("postgresql://host/x")


@pytest.mark.parametrize("command", [("export", "postgresql://"), ("crawl", "recent")])
def test_the_address_must_not_be_typed_as_a_setting(scrapy: Scrapy, command: tuple[str, ...]) -> None:
    run = scrapy(*command, "-s", f"PARTI_DATABASE_URL=postgresql://me:{SECRET}@host/x")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.endswith(
        "setting `PARTI_DATABASE_URL`: not to be typed, since others on the machine can read it there "
        "(accepted: the environment variable PARTI_DATABASE_URL)\n"
    )
    assert run.stderr.count("\n") == 1


def test_the_password_is_nowhere(postgres_url: str, admin: str, output: Path, tmp_path: Path) -> None:
    make_categories(output, ["Art"])
    bring(postgres_url, output)
    make_run(output, "categories", "second", [category(7)])
    command = [*SCRAPY, "export", "postgresql://", "-s", "LOG_ENABLED=true", "--loglevel", "DEBUG"]
    environment = environment_of(output, None, {"PARTI_DATABASE_URL": postgres_url})
    with held(admin, "LOCK parti.livestreams") as blocking:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as export:
            wait_until(lambda: rows(admin, WAITING) == [("relation",)])
            assert descendants(export.pid) == {}
            seen = [Path(f"/proc/{export.pid}/cmdline").read_bytes()]
            seen += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
            blocking.rollback()
            seen += export.communicate(timeout=TIMEOUT)
        assert export.returncode == 0
    seen += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert [each for each in seen if SECRET.encode() in each] == []
