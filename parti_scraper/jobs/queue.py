"""The queue as the commands see it: puts jobs in, lists them, and changes what becomes of them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from parti_scraper.api.routes import FIRST_TS
from parti_scraper.api.times import DAY, LENGTHS, parse_length, timestamp_to_iso
from parti_scraper.dataset import sql
from parti_scraper.dataset.coverage import LIVESTREAMS, Interval
from parti_scraper.exceptions import UsageError
from parti_scraper.jobs.database import ENQUEUE
from parti_scraper.jobs.payload import CRAWL, arguments_of, check_payload, queue_of, read_payload, window_of
from parti_scraper.jobs.shards import Attempt, cut, cut_by_density, halve, in_vain, missing
from parti_scraper.program import program
from parti_scraper.run.arguments import RecentArguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import psycopg

    from parti_scraper.dataset.targets.postgres_address import Address

# In the order of a list: what goes on first.
STATUSES = ("doing", "todo", "failed", "aborted", "cancelled", "succeeded")
# Jobs that have ended are kept for so many hours.
KEPT_HOURS = 35 * 24
# More pieces are a slip, such as seconds for days: to put them there would fill the memory.
_MOST_PIECES = 100_000


class Job(NamedTuple):
    """A job, as `jobs list` shows it. Times are ISO 8601.

    Attributes:
        id: its number.
        spider, arguments: what it crawls; `?` where the payload is none of a job.
        status: `todo`, `doing`, `succeeded`, `failed`, `cancelled` or `aborted`, as Procrastinate calls them.
        attempt: which attempt goes on, or was the last one; 0: none yet.
        host: the machine of that attempt.
        started_at, ended_at: when that attempt did.
        exit_code: of its crawl.
        line: what it said in the end.
        next_at: when a job that waits may begin at the earliest.
    """

    id: int
    spider: str
    arguments: dict[str, str]
    status: str
    attempt: int
    host: str | None
    started_at: str | None
    ended_at: str | None
    exit_code: int | None
    line: str
    next_at: str | None


def enqueue(
    connection: psycopg.Connection, spider: str, arguments: Mapping[str, str], shard: str | None = None
) -> list[int]:
    """Put a job into the queue, or one for each piece of its window. Returns their numbers.

    Times of `recent` are counted from now on, not from when the job begins, so a job that is tried again is the same.

    Args:
        connection: of the queue.
        spider: its name.
        arguments: as typed.
        shard: how long a piece is, as typed; None: one job.

    Raises:
        UsageError: a job must not be this.
    """
    check_payload(spider, arguments)
    if spider != "recent":
        if shard is not None:
            raise UsageError.of("option", "--shard", "only for the spider recent", shard, "none")
        return _put(connection, [(spider, dict(arguments))])
    window = _window(connection, arguments)
    if shard is None:
        return _put(connection, [(spider, arguments_of(window, arguments))])
    seconds = parse_seconds("option", "--shard", shard)
    for name in ("sort", "max_records"):
        if name in arguments:
            raise UsageError.of("argument", name, "not together with `--shard`", arguments[name], "none")
    return _put(connection, [(spider, arguments_of(piece, arguments)) for piece in _cut([window], seconds)])


def _cut(windows: Sequence[Interval], longest: int) -> list[Interval]:
    """Return windows in pieces of a length that was typed. Raises UsageError if there are too many."""
    least = -(-sum(each.seconds for each in windows) // _MOST_PIECES)
    if longest < least:
        problem = f"more than {_MOST_PIECES:,} pieces"
        raise UsageError.of("option", "--shard", problem, f"{longest}s", f"{least}s or more")
    return [piece for window in windows for piece in cut(window, longest)]


def _now(connection: psycopg.Connection) -> float:
    """Return Unix seconds by the clock of the database, so that it does not matter whose is wrong."""
    ((now,),) = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchall()
    return float(now)


def _window(connection: psycopg.Connection, arguments: Mapping[str, str]) -> Interval:
    """Return the window of a job of `recent`. Raises UsageError."""
    now = _now(connection)
    parsed = RecentArguments.parse(arguments, "recent", now)
    return Interval(parsed.since, int(now) if parsed.until is None else parsed.until)


def parse_seconds(kind: str, name: str, text: str) -> int:
    """Return a length of time that was typed, in whole seconds, one at least. Raises UsageError."""
    seconds = int(parse_length(kind, name, text))
    if seconds < 1:
        raise UsageError.of(kind, name, "less than a second", text, LENGTHS)
    return seconds


class Missing(NamedTuple):
    """Where to look for what is missing, and how far back for what came late or was changed.

    Attributes:
        since: Unix seconds; None: the begin of the site.
        until: Unix seconds; None: now.
        overlap: seconds.
        longest: seconds of a piece; None: by how many livestreams are expected.
    """

    since: int | None
    until: int | None
    overlap: int
    longest: int | None = None


def enqueue_missing(connection: psycopg.Connection, address: Address, wanted: Missing) -> list[int]:
    """Put jobs into the queue for what the shared dataset does not prove, and nothing that is in it already.

    Whoever does the same at the same time waits. Returns their numbers.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [ENQUEUE])
    now = _now(connection)
    # In this order: a job that ends in between is then in both, not in none.
    taken = [window for window, _ in _windows(connection, "0", "status IN ('todo', 'doing')")]
    ended = _tried(connection)
    proved = _proved(connection, address)
    tried = in_vain(ended, proved)
    until = int(now if wanted.until is None else min(now, wanted.until))
    since = FIRST_TS if wanted.since is None else wanted.since
    windows = missing(proved, since, until, wanted.overlap, taken, tried, now)
    if wanted.longest is not None:
        pieces = _cut(windows, wanted.longest)
    else:
        pieces = cut_by_density(windows, _density(connection, address) if windows else {})
        pieces = halve(pieces, tried)
    return _put(connection, [("recent", arguments_of(piece)) for piece in pieces])


def _windows(connection: psycopg.Connection, moment: str, condition: str) -> list[tuple[Interval, float]]:
    """Return the windows of jobs that meet a condition, and a moment of each."""
    rows = connection.execute(
        f"SELECT args, {moment} FROM procrastinate_jobs AS jobs "  # noqa: S608
        f"WHERE task_name = 'crawl' AND args ->> 'spider' = 'recent' AND {condition}"
    )
    found = []
    for stored, at in rows:
        # What is no job fails as soon as it is begun, and proves nothing.
        with suppress(UsageError):
            if window := window_of(*read_payload(stored)):
                found.append((window, float(at or 0)))
    return found


def _tried(connection: psycopg.Connection) -> list[Attempt]:
    """Return the windows of jobs that have ended, however they did."""
    ended_at = "(SELECT extract(epoch FROM max(at)) FROM procrastinate_events WHERE job_id = jobs.id)"
    return [Attempt(*each) for each in _windows(connection, ended_at, "status IN ('succeeded', 'failed')")]


def _proved(connection: psycopg.Connection, address: Address) -> list[Interval]:
    """Return what the shared dataset proves of ended livestreams; nothing if there is none yet."""
    table = _table(address, "coverage")
    if not _exists(connection, table):
        return []
    rows = connection.execute(
        f"SELECT extract(epoch FROM since), extract(epoch FROM until) FROM {table} "  # noqa: S608
        "WHERE collection = %s AND filters = '{}'",
        [LIVESTREAMS.collection],
    )
    return [Interval(int(since), int(until)) for since, until in rows]


def _density(connection: psycopg.Connection, address: Address) -> dict[int, int]:
    """Return how many livestreams are known to have ended on each day, by its number."""
    table = _table(address, "livestreams")
    if not _exists(connection, table):
        return {}
    rows = connection.execute(
        f"SELECT floor(extract(epoch FROM event_end) / {DAY})::int AS day, count(*) FROM {table} "  # noqa: S608
        "WHERE event_end IS NOT NULL GROUP BY day"
    )
    return dict(rows.fetchall())


def _table(address: Address, name: str) -> str:
    return f"{sql.name(address.schema)}.{sql.name(name)}"


def _exists(connection: psycopg.Connection, table: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
    return bool(row and row[0])


def put_scheduled(connection: psycopg.Connection, name: str, spider: str, arguments: Mapping[str, str]) -> list[int]:
    """Put a job of a schedule into the queue, unless the one before waits or goes on. Returns its number, if any."""
    lock = f"schedule {name}"
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [ENQUEUE])
    found = connection.execute(
        "SELECT 1 FROM procrastinate_jobs WHERE lock = %s AND status IN ('todo', 'doing') LIMIT 1", [lock]
    )
    if found.fetchone():
        return []
    check_payload(spider, arguments)
    frozen = arguments_of(_window(connection, arguments), arguments) if spider == "recent" else dict(arguments)
    return _put(connection, [(spider, frozen)], lock)


def _put(
    connection: psycopg.Connection, jobs: Iterable[tuple[str, Mapping[str, str]]], lock: str | None = None
) -> list[int]:
    """Put jobs into the queue, as Procrastinate does. Returns their numbers."""
    rows = [
        {
            "number": number,
            "queue": queue_of(spider, arguments),
            "args": {"spider": spider, "arguments": dict(arguments)},
        }
        for number, (spider, arguments) in enumerate(jobs)
    ]
    # Of years in hours there are tens of thousands, too many for a statement each.
    found = connection.execute(
        "SELECT unnest(procrastinate_defer_jobs_v1(array_agg(ROW(queue, %s, 0, %s, NULL, args, NULL)"
        "::procrastinate_job_to_defer_v1 ORDER BY number))) "
        "FROM jsonb_to_recordset(%s::jsonb) AS jobs (number int, queue varchar, args jsonb)",
        [CRAWL, lock, json.dumps(rows)],
    )
    return [int(number) for (number,) in found]


def jobs(connection: psycopg.Connection) -> list[Job]:
    """Return all jobs that crawl, those that go on first, of the same status the last one first."""
    rows = connection.execute(
        "SELECT jobs.id, args, status::text, coalesce(attempt, 0), host, started_at, ended_at, exit_code, "
        "coalesce(line, ''), CASE WHEN status = 'todo' THEN scheduled_at END FROM procrastinate_jobs AS jobs "
        "LEFT JOIN LATERAL (SELECT * FROM parti_attempts WHERE job_id = jobs.id ORDER BY attempt DESC LIMIT 1) AS last "
        "ON true WHERE task_name = %s ORDER BY array_position(%s, status::text), jobs.id DESC",
        [CRAWL, list(STATUSES)],
    )
    return [_job(row) for row in rows]


def _job(row: Sequence[Any]) -> Job:
    number, stored, status, attempt, host, started_at, ended_at, exit_code, line, next_at = row
    times = [each and timestamp_to_iso(each.timestamp()) for each in (started_at, ended_at, next_at)]
    try:
        spider, arguments = read_payload(stored)
    except UsageError:
        spider, arguments = "?", {}
    return Job(number, spider, arguments, status, attempt, host, times[0], times[1], exit_code, line, times[2])


def retry(connection: psycopg.Connection, job_id: int) -> None:
    """Have a job that has failed tried again, as often as a new one. Raises UsageError."""
    if (status := _status(connection, job_id)) != "failed":
        raise _refusal(job_id, f"the job is {status}, not failed")
    connection.execute("UPDATE parti_attempts SET has_failed = false WHERE job_id = %s", [job_id])
    connection.execute("SELECT procrastinate_retry_job_v2(%s, now(), NULL, NULL, NULL)", [job_id])


def cancel(connection: psycopg.Connection, job_id: int) -> bool:
    """Take a job out of the queue, or have its crawl stopped. Tells whether it has begun. Raises UsageError."""
    status = _status(connection, job_id)
    connection.execute("SELECT procrastinate_cancel_job_v1(%s, true, false)", [job_id])
    if status not in {"todo", "doing"}:
        raise _refusal(job_id, f"the job has ended: {status}")
    return status == "doing"


def _status(connection: psycopg.Connection, job_id: int) -> str:
    """Return the status of a job, which nobody changes until the transaction ends. Raises UsageError."""
    row = connection.execute(
        "SELECT status::text FROM procrastinate_jobs WHERE id = %s AND task_name = %s FOR UPDATE", [job_id, CRAWL]
    ).fetchone()
    if row is None:
        raise _refusal(job_id, "there is no such job")
    return str(row[0])


def _refusal(job_id: int, problem: str) -> UsageError:
    return UsageError.of("argument", "ID", problem, str(job_id), f"see {program()} jobs list")
