"""Works out what follows from records, for what an export changes only.

`now …` are the rows of a table as they will be after the export, as far as they matter: those that were read, together
with those that the target has of the same livestreams, days and channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.dataset import derived, sql
from parti_scraper.dataset.coverage import LIVESTREAMS, Interval, Proof, Series, proved_by
from parti_scraper.dataset.staging import REMOVED_FILES, Rows, insert_all
from parti_scraper.dataset.tables import CONFIRMED, RUN_UUID, RUNS, SNAPSHOTS, dataset_tables
from parti_scraper.dataset.targets.base import Wanted
from parti_scraper.items import LiveChannel, LiveNotification

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from parti_scraper.dataset.staging import Staging
    from parti_scraper.dataset.tables import Table

    Fetch = Callable[[Wanted], None]

_EVENTS = ("livestreams", "live_notifications", "scheduled_livestreams")
_NAMED = ("livestreams", "live_channels", "live_notifications", "scheduled_livestreams")
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Derived:
    """What follows for a table.

    Attributes:
        rows: those that are new or have changed.
        gone: the name of the keys of rows that are to go; None: there are none.
    """

    rows: Rows
    gone: str | None = None


class Derivation:
    """Works out what follows from what is in a staging database, and what a target has.

    Args:
        staging: with all that was read.
        tables: those that are wanted, and all that they follow from.
        fetch: adds rows of the target to the staging database; None: nothing of the target stays.
        everything: whether all that the target has is to be gone through.
        spans: when runs of `notifications` were connected.
    """

    def __init__(
        self,
        staging: Staging,
        tables: Collection[Table],
        fetch: Fetch | None,
        *,
        everything: bool,
        spans: Iterable[tuple[str, Interval]],
    ) -> None:
        self._staging, self._connection, self._fetch = staging, staging.connection, fetch
        self._names = {table.name for table in tables}
        self._read = {table.name for table in tables if table.records}
        self._everything = everything or fetch is None
        self._spans = spans
        self._days: list[date] = []
        # Where everything is gone through, once is enough.
        self._fetched: set[str] = set()

    def derive(self) -> list[Derived]:
        """Return the rows of all tables; of those that follow from others, those that are new or have changed."""
        self._run("CREATE TABLE removed_events (event_id BIGINT)")
        self._prepare()
        known = dataset_tables()
        found = {name: Derived(self._staging.rows(table)) for name, table in known.items() if name in self._read}
        if "livestreams" in self._names:
            found["livestreams"] = self._livestreams()
            found[CONFIRMED] = self._confirmed()
        if SNAPSHOTS in self._names:
            self._find_snapshots()
            makers = {
                "streams": self._streams,
                "channels": self._channels,
                "hours": self._hours,
                "coverage": self._coverage,
            }
            found |= {name: make() for name, make in makers.items() if name in self._names}
        return [found[name] for name in known if name in found]

    # Before the rows are picked:

    def _prepare(self) -> None:
        """Add to the records what has to be known of earlier ones."""
        if SNAPSHOTS in self._names and "live_channels" in self._names:
            read, channels = staging_name(SNAPSHOTS), staging_name("live_channels")
            if self._everything and self._fetch is not None:
                self._old("live_channels")
                columns = "run_uuid, snapshot_id, observed_at"
                channels = f"(SELECT {columns} FROM {channels} UNION ALL SELECT {columns} FROM {_old('live_channels')})"
            self._run(f"INSERT INTO {read} {derived.unnoted_snapshots(channels, read)}")
        if "livestreams" in self._names:
            self._prepare_livestreams()

    def _prepare_livestreams(self) -> None:
        read, confirmed = staging_name("livestreams"), staging_name(CONFIRMED)
        # Those that are read, for the streams; and those that are confirmed too.
        self._table("read_events", f"SELECT DISTINCT event_id FROM {read}")
        self._table("known_events", f"FROM read_events UNION SELECT event_id FROM {confirmed}")
        self._old(RUNS, "true" if self._everything else "proved_since IS NOT NULL")
        if self._everything:
            self._old("livestreams")
            self._old(CONFIRMED)
        else:
            self._old("livestreams", keys=("event_id", "known_events"))
            self._old_suspects()
            self._old(CONFIRMED, keys=("event_id", "known_events"))
        self._staging.copy(dataset_tables()["livestreams"], _old("livestreams"), "true")

    def _old_suspects(self) -> None:
        """Fetch the livestreams that runs which are new may not have seen."""
        (bounds,) = self._query(
            "SELECT min(proved_since), max(proved_until), min(started_at), max(started_at) "
            f"FROM {staging_name(RUNS)} WHERE knows_missing"
        )
        if bounds[0] is None:
            return
        since, until, first, last = (sql.literal(timestamp_to_iso(each.timestamp())) for each in bounds)
        self._old(
            "livestreams",
            f"event_end >= {since} AND event_end <= {until} AND scraped_at < {last} "
            f"AND (last_confirmed_at IS NULL OR last_confirmed_at < {last}) "
            f"AND (missing_since IS NULL OR missing_since > {first})",
            days=_month_starts(bounds[0], bounds[1]),
        )

    # Livestreams:

    def _livestreams(self) -> Derived:
        """Return the livestreams that were read, with when each was confirmed last, and since when it is missing."""
        new = self._staging.rows(dataset_tables()["livestreams"])
        both = f"(SELECT * FROM {staging_name(CONFIRMED)} UNION ALL FROM {_old(CONFIRMED)})"
        self._table(
            "confirmations",
            f"SELECT event_id, max(last_confirmed_at) AS last_confirmed_at FROM {both} GROUP BY event_id",
        )
        self._now(RUNS)
        self._note_looks()
        self._table("seen", derived.last_seen(new.relation, "confirmations"))
        self._table("missing", derived.absences("seen", "latest_looks", "looks"))
        query = derived.with_deletions(new.relation, "confirmations", "missing")
        ready = self._view("ready livestreams", query)
        return Derived(Rows(new.table, ready, new.count))

    def _confirmed(self) -> Derived:
        """Return the livestreams that are confirmed, and that no run in the dataset has written."""
        events = f"(SELECT event_id FROM {staging_name('livestreams')})"
        query = f"FROM confirmations ANTI JOIN {events} USING (event_id)"
        return self._changes(dataset_tables()[CONFIRMED], query)

    def _note_looks(self) -> None:
        query = (
            "SELECT epoch(proved_since)::BIGINT, epoch(proved_until)::BIGINT, epoch(started_at)::BIGINT "
            f"FROM {_now(RUNS)} WHERE knows_missing"
        )
        looks = [derived.Look(Interval(since, until), began) for since, until, began in self._query(query)]
        self._run("CREATE TEMP TABLE looks (since TIMESTAMPTZ, until TIMESTAMPTZ, began TIMESTAMPTZ)")
        insert_all(self._connection, "looks", [tuple(map(_moment, (*each.interval, each.began))) for each in looks])
        self._run("CREATE TEMP TABLE latest_looks (since TIMESTAMPTZ, began TIMESTAMPTZ)")
        latest = [(_moment(since), _moment(began)) for since, began in derived.latest_looks(looks)]
        insert_all(self._connection, "latest_looks", latest)

    # Streams:

    def _find_snapshots(self) -> None:
        """Fetch the snapshots that matter, and find out how far apart they usually are."""
        self._find_days()
        self._old_near(SNAPSHOTS, "started_at", -2 * _DAY, 3 * _DAY)
        if "live_channels" in self._names:
            self._old_near("live_channels", "observed_at", -_HOUR, _DAY + _HOUR)
        if "streams" in self._names:
            self._find_watched()
        self._now(SNAPSHOTS)
        self._table("usual", derived.usual_distances(_now(SNAPSHOTS)))

    def _streams(self) -> Derived:
        table = dataset_tables()["streams"]
        self._now("live_channels", None if self._everything else "event_id IN (FROM watched)")
        for name in _EVENTS[1:]:
            self._old(name, keys=None if self._everything else ("event_id", "events"))
            self._now(name)
        live = _now("live_channels")
        self._table("observed", derived.observed(live))
        self._table("weighted", derived.weighted(live, "usual"))
        others = (_now("live_notifications"), _now("scheduled_livestreams"))
        of = derived.Sources("events", self._all_livestreams(), "observed", "weighted", *others)
        return self._changes(table, derived.streams(of))

    def _all_livestreams(self) -> str:
        """Return the query for the livestreams as they will be, also of events that were not read of these."""
        names, ready = sql.names(dataset_tables()["livestreams"].names), sql.name("ready livestreams")
        if self._everything:
            return ready
        self._old("livestreams", keys=("event_id", "events"))
        others = f"SELECT DISTINCT {names} FROM {_old('livestreams')} ANTI JOIN {ready} USING (event_id)"
        return f"(SELECT {names} FROM {ready} UNION ALL {others})"

    def _find_watched(self) -> None:
        """Find the livestreams that may have changed, and fetch the snapshots of those that snapshots have."""
        new = [f"SELECT event_id FROM {staging_name(name)}" for name in _EVENTS[1:]]
        on_days = "true" if self._everything else "observed_at::DATE IN (FROM days)"
        of_days = [
            f"SELECT event_id FROM {staging_name('live_channels')}",
            f"SELECT event_id FROM {_old('live_channels')} WHERE {on_days}",
            "FROM removed_events",
        ]
        self._table("events", " UNION ".join(["SELECT event_id FROM read_events", *new, *of_days]))
        if self._everything:
            self._run(f"INSERT INTO events SELECT event_id FROM {_old('livestreams')} EXCEPT FROM events")
        self._old("streams", keys=None if self._everything else ("event_id", "events"))
        if self._everything:
            return
        self._table(
            "watched", " UNION ".join([*of_days, f"SELECT event_id FROM {_old('streams')} WHERE snapshots > 0"])
        )
        spans = self._query(
            "SELECT first_observed_at::DATE, last_observed_at::DATE "
            f"FROM {_old('streams')} WHERE event_id IN (FROM watched) AND snapshots > 0"
        )
        others = {first + n * _DAY for first, last in set(spans) for n in range((last - first).days + 1)}
        days = sorted(others - {*self._days})
        if days:
            self._old("live_channels", _on("observed_at", days), ("event_id", "watched"), days)
            self._old(SNAPSHOTS, _on("started_at", days), days=days)

    # Channels:

    def _channels(self) -> Derived:
        table = dataset_tables()["channels"]
        of_records = [f"SELECT user_id, user_name FROM {staging_name(name)}" for name in _NAMED]
        if self._everything and self._fetch is not None:
            of_records += [f"SELECT user_id, user_name FROM {_old(name)}" for name in _NAMED]
            self._old("livestream_versions")
            of_records.append('SELECT user_id, user_name FROM "old livestream_versions"')
        self._table("named", " UNION ".join(of_records))
        users = [f"SELECT user_id FROM {each}" for each in ("named", sql.name("all streams"), _old("streams"))]
        self._table("users", f"FROM ({' UNION '.join(users)}) WHERE user_id IS NOT NULL")
        keys = None if self._everything else ("user_id", "users")
        self._old("channels", keys=keys)
        if not self._everything:
            # Beside those of the livestreams.
            self._old("live_notifications", keys=keys)
            self._old("streams", keys=keys)
        self._now("live_notifications")
        names = sql.names(dataset_tables()["streams"].names)
        of_users = (
            f'(SELECT {names} FROM "all streams" UNION ALL '
            f"SELECT DISTINCT {names} FROM {_old('streams')} old WHERE event_id NOT IN (SELECT event_id FROM events))"
        )
        known = "SELECT user_id, unnest(from_json(names, '[\"VARCHAR\"]')) AS user_name FROM " + _old("channels")
        self._table("all_names", f"FROM named UNION {known}")
        query = derived.channels("users", of_users, _now("live_notifications"), "all_names")
        return self._changes(table, query)

    # Hours and coverage:

    def _hours(self) -> Derived:
        self._old_near("hours", "hour", -_HOUR, _DAY)
        scope = "true" if self._everything else self._near("started_at", -_HOUR, _DAY)
        condition = None if self._everything else self._near("observed_at", -_HOUR, _DAY + _HOUR)
        self._now("live_channels", condition)
        return self._changes(dataset_tables()["hours"], derived.hours(_now("live_channels"), _now(SNAPSHOTS), scope))

    def _coverage(self) -> Derived:
        live, ended = LiveChannel.collection, LIVESTREAMS.collection
        scope = "true" if self._everything else self._near("started_at", -_DAY, _DAY)
        of_live = "true" if self._everything else self._near("since", -_DAY, _DAY)
        self._old("coverage", f"collection = {sql.literal(ended)} OR collection = {sql.literal(live)} AND ({of_live})")
        self._now(RUNS)
        rows = [*self._proved(), *self._connected()]
        table = dataset_tables()["coverage"]
        columns = sql.typed(table.columns)
        self._run(f"CREATE TEMP TABLE proved ({columns})")
        insert_all(self._connection, "proved", rows)
        query = f"FROM proved UNION ALL FROM ({derived.live_coverage(_now(SNAPSHOTS), 'usual', scope)})"
        return self._changes(table, query)

    def _proved(self) -> Iterable[tuple[Any, ...]]:
        """Return the rows of `coverage` for ended livestreams."""
        query = (
            "SELECT run_uuid, filters, epoch(proved_since)::BIGINT, epoch(proved_until)::BIGINT, continues "
            f"FROM {_now(RUNS)} WHERE proved_since IS NOT NULL"
        )
        proofs = {}
        for run, filters, since, until, continues in self._query(query):
            series = Series(LIVESTREAMS.collection, **json.loads(filters))
            proofs[run] = Proof(series, since, until, continues)
        for run in proved_by(proofs):
            proof = proofs[run]
            filters = json.dumps(proof.series.filters, ensure_ascii=False, sort_keys=True)
            yield LIVESTREAMS.collection, filters, _moment(proof.since), _moment(proof.until), run

    def _connected(self) -> Iterable[tuple[Any, ...]]:
        """Return the rows of `coverage` for notifications, of the runs that were read; each second once."""
        last: dict[tuple[str, int], int] = {}
        for run, each in self._spans:
            last[run, each.since] = max(each.until, last.get((run, each.since), 0))
        for (run, since), until in last.items():
            yield LiveNotification.collection, "{}", _moment(since), _moment(until), run

    # Days:

    def _find_days(self) -> None:
        """Find the days of which snapshots are new or have changed."""
        queries = [f"SELECT started_at::DATE AS day FROM {staging_name(SNAPSHOTS)}"]
        if "live_channels" in self._names:
            queries.append(f"SELECT observed_at::DATE FROM {staging_name('live_channels')}")
        removed = f"SELECT DISTINCT run_uuid FROM {REMOVED_FILES}"
        self._table("removed_runs", removed)
        if not self._everything:
            # What is removed may be on any day of its run.
            self._old(SNAPSHOTS, keys=(RUN_UUID, "removed_runs"))
            queries += [f"SELECT {column}::DATE FROM {_old(SNAPSHOTS)}" for column in ("started_at", "ended_at")]
        self._table("days", f"FROM ({' UNION '.join(queries)}) WHERE day IS NOT NULL")
        self._days = [day for (day,) in self._query("SELECT day FROM days ORDER BY day")]

    def _near(self, column: str, before: timedelta, after: timedelta) -> str:
        """Return the condition for a time on one of the days, or so long before and after its beginning."""
        return _ranges(column, [(_midnight(day) + before, _midnight(day) + after) for day in self._days])

    # Rows:

    def _old_near(self, name: str, column: str, before: timedelta, after: timedelta) -> None:
        """Add the rows that the target has on one of the days, or so long before and after its beginning."""
        if self._everything:
            self._old(name)
            return
        length = (after - before) // _DAY + 1
        days = {(_midnight(day) + before).date() + n * _DAY for day in self._days for n in range(length + 1)}
        if days:
            self._old(name, self._near(column, before, after), days=sorted(days))
        else:
            self._make_old(name)

    def _old(
        self,
        name: str,
        condition: str = "true",
        keys: tuple[str, str] | None = None,
        days: Sequence[date] | None = None,
    ) -> None:
        """Add rows that the target has to the table of those; a row may be there twice then."""
        table = self._make_old(name)
        if self._fetch is not None and not (self._everything and name in self._fetched):
            self._fetched.add(name)
            parts = None
            if days is not None and table.partition is not None:
                parts = frozenset(day.strftime(table.partition.pattern) for day in days)
            self._fetch(Wanted(table, _old(name), condition, keys, parts))
            self._remove_removed(name)

    def _make_old(self, name: str) -> Table:
        """Make the table of the rows that the target has of a table, unless it is there. Returns the table."""
        table = dataset_tables()[name]
        self._run(f"CREATE TABLE IF NOT EXISTS {_old(name)} ({sql.typed(table.columns)})")
        return table

    def _remove_removed(self, name: str) -> None:
        """Delete the rows of files that are replaced."""
        table = dataset_tables()[name]
        if not table.is_of_run:
            return
        if name == "live_channels":
            removed = sql.is_removed(table, "old", REMOVED_FILES)
            self._run(f"INSERT INTO removed_events SELECT DISTINCT event_id FROM {_old(name)} old WHERE {removed}")
        self._run(sql.delete_removed(table, _old(name), REMOVED_FILES))

    def _now(self, name: str, condition: str | None = None) -> None:
        """Make a view of the rows of a table as they will be, as far as they are known."""
        table = dataset_tables()[name]
        new = f"SELECT {sql.names(table.names)} FROM {sql.name(f'new {name}')}"
        query = new if self._fetch is None else sql.merge(table, f"({new} UNION ALL FROM {_old(name)})")
        if condition:
            query = f"SELECT * FROM ({query}) WHERE {condition}"
        self._run(f"CREATE OR REPLACE TEMP VIEW {_now(name)} AS {query}")

    def _changes(self, table: Table, query: str) -> Derived:
        """Return the rows of a query that differ from those that were there, and the keys that are not there now."""
        names, key = sql.names(table.names), sql.names(table.key)
        all_, ready, gone = (f"{each} {table.name}" for each in ("all", "ready", "gone"))
        self._table(all_, f"SELECT {names} FROM ({query})")
        others = f" EXCEPT SELECT {names} FROM {_old(table.name)}" if self._fetch is not None else ""
        self._table(
            ready, f"SELECT *, {sql.part_of(table)} AS {sql.PART} FROM (SELECT {names} FROM {sql.name(all_)}{others})"
        )
        ((count,),) = self._query(f"SELECT count(*) FROM {sql.name(ready)}")
        rows = Rows(table, sql.name(ready), int(count))
        if self._fetch is None:
            return Derived(rows)
        self._table(gone, f"SELECT DISTINCT {key} FROM {_old(table.name)} ANTI JOIN {sql.name(all_)} USING ({key})")
        ((count,),) = self._query(f"SELECT count(*) FROM {sql.name(gone)}")
        return Derived(rows, sql.name(gone) if count else None)

    def _table(self, name: str, query: str) -> None:
        self._run(f"CREATE OR REPLACE TABLE {sql.name(name)} AS {query}")

    def _view(self, name: str, query: str) -> str:
        self._run(f"CREATE OR REPLACE VIEW {sql.name(name)} AS {query}")
        return sql.name(name)

    def _run(self, statement: str) -> None:
        self._connection.execute(statement)

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()


def staging_name(records: str) -> str:
    """Return the name of the records that were read."""
    return sql.name(f"read {records}")


def _old(name: str) -> str:
    return sql.name(f"old {name}")


def _now(name: str) -> str:
    return sql.name(f"now {name}")


def _moment(second: int | None) -> str | None:
    return None if second is None else timestamp_to_iso(second)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _month_starts(since: datetime, until: datetime) -> list[date]:
    """Return the first days of the months between two times in UTC, with those of the times."""
    first, last = (12 * each.year + each.month - 1 for each in (since.astimezone(UTC), until.astimezone(UTC)))
    return [date(month // 12, month % 12 + 1, 1) for month in range(first, last + 1)]


def _on(column: str, days: Iterable[date]) -> str:
    """Return the condition for a time on one of some days."""
    return _ranges(column, [(_midnight(day), _midnight(day) + _DAY) for day in days])


def _ranges(column: str, ranges: Iterable[tuple[datetime, datetime]]) -> str:
    """Return the condition for a time within one of some ranges, without their ends."""
    joined: list[tuple[datetime, datetime]] = []
    for since, until in sorted(ranges):
        if joined and since <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], until))
        else:
            joined.append((since, until))
    texts = [(timestamp_to_iso(since.timestamp()), timestamp_to_iso(until.timestamp())) for since, until in joined]
    conditions = [f"{column} >= {sql.literal(since)} AND {column} < {sql.literal(until)}" for since, until in texts]
    return f"({' OR '.join(conditions) or 'false'})"
