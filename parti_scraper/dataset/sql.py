"""Statements that are made of the declarations of tables. Pure.

`upsert` and what it is made of are understood by DuckDB, SQLite and PostgreSQL; the rest is for DuckDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parti_scraper.dataset.tables import FIRST_SCRAPED_AT, LAST_SCRAPED_AT, MISSING_SINCE, RUN_UUID

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from parti_scraper.dataset.tables import Column, Table

# Of the rows of a table that are ready: which part of the table they belong to.
PART = "_part"
UNKNOWN = "unknown"

# Not part of a record's content: when it was received.
_RECEIVED = {"scraped_at", "received_at", "observed_at"}


def name(text: str) -> str:
    """Return the name of a table or a column as SQL takes it."""
    return '"' + text.replace('"', '""') + '"'


def names(texts: Iterable[str], of: str = "") -> str:
    """Return names with commas between them; `of` is the table that they are columns of."""
    head = f"{of}." if of else ""
    return ", ".join(head + name(text) for text in texts)


def typed(columns: Iterable[Column]) -> str:
    """Return columns as the definition of a table of DuckDB has them."""
    return ", ".join(f"{name(each.name)} {each.type}" for each in columns)


def nothing(table: Table) -> str:
    """Return the columns of a table, of their types and null."""
    return ", ".join(f"NULL::{each.type} AS {name(each.name)}" for each in table.columns)


def literal(text: str) -> str:
    """Return a text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


def as_text(time: str) -> str:
    """Return the expression for a time as it is in the files of the runs."""
    return f"strftime({time}, '%Y-%m-%dT%H:%M:%SZ')"


def content_hash(columns: Sequence[Column]) -> str:
    """Return the expression for the hash of a record's content.

    Texts have their lengths in front, so that none can pretend to be several columns; null has none. A column that is
    added one day is to be left out where it is null, or everything in older targets
    looks as if it had changed.
    """
    return f"md5(concat({', '.join(_delimited(each) for each in columns if each.name not in _RECEIVED)}))"


def _delimited(column: Column) -> str:
    """Return the arguments of `concat` for a column. With `||` in place of the comma, it takes twice as long."""
    if column.type == "TIMESTAMPTZ":
        return f"'|', epoch({name(column.name)})::BIGINT"
    if column.type == "VARCHAR":
        return f"'|', strlen({name(column.name)}), ':', {name(column.name)}"
    return f"'|', {name(column.name)}"


def part_of(table: Table, prefix: str = "") -> str:
    """Return the expression for the part of a table that a row is in."""
    if table.partition is None:
        return literal("")
    return f"coalesce(strftime({time_of(table, prefix)}, {literal(table.partition.pattern)}), {literal(UNKNOWN)})"


def time_of(table: Table, prefix: str = "") -> str:
    """Return the expression for the time of a row."""
    times = [prefix + name(each) for each in table.times]
    return f"coalesce({', '.join(times)})" if len(times) > 1 else times[0]


def pick(table: Table, records: str) -> str:
    """Return the query for which rows of `records` make up a table, each key once.

    Its columns are `row` (the `rowid` of one of the records), `_part`, and the columns of which the least and the
    greatest values are kept.
    """
    extremes = [f"min({name(_origin(each, table))}) AS {name(each)}" for each in table.least]
    extremes += [f"max({name(_origin(each, table))}) AS {name(each)}" for each in table.greatest]
    best = "min(rowid)"
    if table.order:
        best = f"{'min' if table.keeps_least else 'max'}_by(rowid, ({names(table.order)}))"
    picked = ", ".join([f"{best} AS row", *extremes])
    key = names(table.key)
    kept = "".join(f", picked.{name(each)}" for each in (*table.least, *table.greatest))
    return (
        f"SELECT picked.row, {part_of(table, 'records.')} AS {PART}{kept} "
        f"FROM (SELECT {picked} FROM {records} GROUP BY {key}) picked "
        f"JOIN {records} records ON records.rowid = picked.row"
    )


def picked_rows(table: Table, records: str, picks: str) -> str:
    """Return the query for the rows of a table, and the part of each, by the rows that `pick` has found.

    What is worked out later is null.
    """
    extremes = {*table.least, *table.greatest}
    columns = ", ".join(
        f"NULL::TIMESTAMPTZ AS {name(each)}"
        if each == MISSING_SINCE
        else f"{'picks' if each in extremes else 'records'}.{name(each)}"
        for each in table.names
    )
    return f"SELECT {columns}, picks.{PART} FROM {picks} picks JOIN {records} records ON records.rowid = picks.row"


def _origin(column: str, table: Table) -> str:
    """Return the column of the records whose least or greatest value is that of a column."""
    # When a livestream was first received is known of it from an earlier export too, but of a version it is not.
    return "scraped_at" if LAST_SCRAPED_AT in table.greatest else column


def observations(table: Table, rows: str, columns: Iterable[str], given: Collection[str]) -> list[str]:
    """Return the queries for the records that say the same as rows of a table.

    Args:
        table: which.
        rows: the name of the rows.
        columns: of the records.
        given: the columns that the rows have; what they lack is null.
    """
    if LAST_SCRAPED_AT not in table.greatest:
        return [f"SELECT {_observed(columns, given, {})} FROM {rows} rows"]
    # A version was received at least twice, or once.
    first, last = (
        _observed(columns, given, dict.fromkeys(("scraped_at", FIRST_SCRAPED_AT), time))
        for time in (FIRST_SCRAPED_AT, LAST_SCRAPED_AT)
    )
    return [
        f"SELECT {first} FROM {rows} rows",
        f"SELECT {last} FROM {rows} rows WHERE {LAST_SCRAPED_AT} > {FIRST_SCRAPED_AT}",
    ]


def _observed(columns: Iterable[str], given: Collection[str], others: Mapping[str, str]) -> str:
    """Return the columns of records, some of which have other names in the rows."""
    sources = {each: others.get(each, each) for each in columns}
    return ", ".join(name(source) if source in given else "NULL" for source in sources.values())


def merge(table: Table, rows: str) -> str:
    """Return the query that leaves one row for each key of `rows`, by the rules of the table."""
    direction = "ASC" if table.keeps_least else "DESC"
    order = ", ".join(f"{name(each)} {direction}" for each in table.order) or "1"
    window = f"OVER (PARTITION BY {names(table.key)})"
    columns = ", ".join(
        f"min({name(each)}) {window} AS {name(each)}"
        if each in table.least
        else f"max({name(each)}) {window} AS {name(each)}"
        if each in table.greatest
        else name(each)
        for each in table.names
    )
    ranked = f"row_number() OVER (PARTITION BY {names(table.key)} ORDER BY {order})"
    return f"SELECT {columns} FROM {rows} QUALIFY {ranked} = 1"


def create(table: Table, as_: str, types: Mapping[str, str]) -> str:
    """Return the statement that creates a table if it is missing; `types` are the names of the column types there."""
    columns = ", ".join(
        f"{name(each.name)} {types[each.type]}{' NOT NULL' if each.name in table.key else ''}" for each in table.columns
    )
    return f"CREATE TABLE IF NOT EXISTS {as_} ({columns}, PRIMARY KEY ({names(table.key)}))"


def upsert(table: Table, into: str, rows: str) -> str:
    """Return the statement that brings rows, each key of which is there once, into a table that may have them."""
    head = f"INSERT INTO {into} AS kept ({names(table.names)}) SELECT {names(table.names)} FROM {rows} WHERE true"
    changes = []
    if table.replaces:
        changes += [f"{name(each)} = excluded.{name(each)}" for each in table.names if each not in table.key]
    else:
        changes += [f"{name(each)} = {_better(each, '<')}" for each in table.least]
        changes += [f"{name(each)} = {_better(each, '>')}" for each in table.greatest]
    if table.order and not table.replaces:
        is_better = _is_better(table, "excluded", "kept")
        fixed = {*table.key, *table.least, *table.greatest}
        changes += [
            f"{name(each)} = CASE WHEN {is_better} THEN excluded.{name(each)} ELSE kept.{name(each)} END"
            for each in table.names
            if each not in fixed
        ]
    condition = is_change(table, "excluded", "kept")
    action = f"DO UPDATE SET {', '.join(changes)} WHERE {condition}" if changes else "DO NOTHING"
    return f"{head} ON CONFLICT ({names(table.key)}) {action}"


def is_change(table: Table, new: str, old: str) -> str:
    """Return the condition for a new row that changes an old one of the same key."""
    if table.replaces:
        columns = [name(each) for each in table.names if each not in table.key]
        return " OR ".join(f"{new}.{each} IS DISTINCT FROM {old}.{each}" for each in columns) or "false"
    conditions = [f"{new}.{name(each)} < {old}.{name(each)}" for each in table.least]
    conditions += [f"{new}.{name(each)} > {old}.{name(each)}" for each in table.greatest]
    conditions += [_is_better(table, new, old)] if table.order else []
    return " OR ".join(conditions) or "false"


def _is_better(table: Table, new: str, old: str) -> str:
    """Return the condition for a new row that takes the place of an old one."""
    sign = "<" if table.keeps_least else ">"
    return f"({names(table.order, new)}) {sign} ({names(table.order, old)})"


def _better(column: str, sign: str) -> str:
    ours, theirs = f"excluded.{name(column)}", f"kept.{name(column)}"
    return f"CASE WHEN {ours} {sign} {theirs} THEN {ours} ELSE {theirs} END"


def delete_removed(table: Table, into: str, removed: str) -> str:
    """Return the statement that deletes the rows of files that are replaced."""
    return f"DELETE FROM {into} AS kept WHERE {is_removed(table, 'kept', removed)}"


def delete_gone(table: Table, into: str, gone: str) -> str:
    """Return the statement that deletes the rows whose keys are among others."""
    return f"DELETE FROM {into} AS kept WHERE {is_gone(table, 'kept', gone)}"


def is_gone(table: Table, rows: str, gone: str) -> str:
    """Return the condition for a row whose key is among others."""
    same = " AND ".join(f"gone.{name(each)} = {rows}.{name(each)}" for each in table.key)
    return f"EXISTS (SELECT 1 FROM {gone} AS gone WHERE {same})"


def is_removed(table: Table, rows: str, removed: str) -> str:
    """Return the condition for a row that came from a file that is replaced.

    The files are those of `staging.REMOVED_FILES`. In a table that does not name them, a file of a run is known by the
    times of its rows.
    """
    of_file = f"removed.file IN ('', {rows}.file)"
    if "file" not in table.names:
        time = f"{rows}.{name(table.time or '')}"
        of_file = f"{time} >= removed.since AND {time} < removed.until"
    return f"EXISTS (SELECT 1 FROM {removed} AS removed WHERE removed.run_uuid = {rows}.{name(RUN_UUID)} AND {of_file})"
