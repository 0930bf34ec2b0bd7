"""How long `scrapy export` takes, and how much memory, against what nobody can go below.

Makes run folders in a temporary folder, and exports them, each time in a process of its own. A case is one of:

- `parquet`: livestreams of many small runs into a folder; its peer is one DuckDB statement over the same files, which
  picks the newest version of each and sorts them, without checking anything.
- `postgres`: the same into PostgreSQL; its peer is ADBC, which inserts the merged rows into an empty table without a
  key. Needs PARTI_DATABASE_URL.
- `delta`: the same into Delta tables, and one run more; its peer is the export into a folder.
- `again`: a second export, of which nothing is new.
- `live`: a year of `live` every five minutes, as 365 folders of days and as 105,120 folders of runs.
- `derived`: ten million rows of snapshots, with all that follows from them, and one day more; its peer is the export of
  `live_channels` alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import adbc_driver_postgresql.dbapi
import duckdb

from parti_scraper import __version__
from parti_scraper.api.times import seconds_to_iso as iso
from parti_scraper.dataset.export import Export, Silent, export
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.tables import columns_of
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.items import LiveChannel, Livestream
from parti_scraper.run import datapackage
from parti_scraper.run.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HOUR, _DAY = 3_600, 86_400
_START = 1_735_689_600  # 2025-01-01
_EVERY = 300
_CHANNELS = 60


# --- Runs ----------------------------------------------------------------------------------------------------------


def make_recent(output: Path, runs: int, rows: int, *, first: int = 0) -> None:
    """Make an hourly run each, from one on, of which one livestream in fifty is one that was there before."""
    by_chance = random.Random(1)
    for number in range(first, runs):
        at = _START + number * _HOUR
        ids = [number * rows + each for each in range(rows)]
        ids = [each - by_chance.randrange(1_000) if by_chance.random() < 0.02 else each for each in ids]
        lines = [_livestream(max(event_id, 1), at, by_chance) for event_id in dict.fromkeys(ids)]
        window = {"since": iso(at - _HOUR), "until": iso(at)}
        _write(output / "recent" / f"run-{number:06}", Livestream, lines, at, {"window": window})


def _livestream(event_id: int, at: int, by_chance: random.Random) -> str:
    user = event_id % 50_000
    end = at - by_chance.randrange(_HOUR)
    start = end - by_chance.randrange(600, 20_000)
    picture = f"{by_chance.getrandbits(128):032x}"
    return (
        f'{{"event_id":{event_id},"user_id":{user},"user_name":"channel {user}","event_title":"Stream {picture[:6]}",'
        f'"category_id":7,"category_name":"Gaming","event_start":"{iso(start)}","event_end":"{iso(end)}",'
        f'"duration_seconds":{end - start},"total_viewers":{int(picture[:3], 16)},'
        f'"livestream_visibility_type":"Public","has_access_pass":false,'
        f'"livestream_recording":"https://media.parti.com/recordings/{event_id}/{picture[:12]}/master.m3u8",'
        f'"event_file":"https://assets.parti.com/{picture}.png","avatar_link":"https://assets.parti.com/{user:032x}.png",'
        f'"user_avatar_id":{user},"social_media":"parti","social_username":"channel {user}",'
        f'"discord_discriminator":null,"channel_url":"https://parti.com/channel{user}",'
        f'"video_url":"https://parti.com/video/{event_id}","scraped_at":"{iso(at)}",'
        f'"extra":{{"original_playback_url":"https://media.parti.com/{picture}"}}}}'
    )


def make_live(output: Path, days: int, *, by_day: bool, first: int = 0) -> None:
    """Make a snapshot every five minutes, of a run that has folders of days, or of a run each, from a day on."""
    by_chance = random.Random(1)
    run = output / "live" / "run"
    for day in range(first, days):
        began = _START + day * _DAY
        snapshots = [_snapshot(at, by_chance) for at in range(began, began + _DAY, _EVERY)]
        if by_day:
            name = iso(began)[:10]
            lines = [line for lines in snapshots for line in lines]
            noted = [_noted(at) for at in range(began, began + _DAY, _EVERY)]
            _write(run / name, LiveChannel, lines, began, {"day": name, "snapshots": noted}, run_id="run")
            continue
        for number, lines in enumerate(snapshots):
            at = began + number * _EVERY
            _write(output / "live" / f"run-{at}", LiveChannel, lines, at, {"snapshots": [_noted(at)]})
    if by_day:
        names = [iso(_START + day * _DAY)[:10] for day in range(days)]
        _write(run, LiveChannel, [], _START, {"days": names}, run_id="run")


def _noted(at: int) -> dict[str, Any]:
    """Return what a data package says of a snapshot."""
    times = {"started_at": iso(at), "ended_at": iso(at)}
    return {"snapshot_id": f"run-{at // _EVERY}", **times, "channels": _CHANNELS, "complete": True}


def _snapshot(at: int, by_chance: random.Random) -> list[str]:
    """Return the channels of a snapshot; a livestream lasts for two hours."""
    lines = []
    for rank in range(1, _CHANNELS + 1):
        user = rank + 1_000 * (at // (2 * _HOUR) % 7)
        event_id = at // (2 * _HOUR) * _CHANNELS + rank
        lines.append(
            f'{{"snapshot_id":"run-{at // _EVERY}","observed_at":"{iso(at)}","rank":{rank},"event_id":{event_id},'
            f'"user_id":{user},"user_name":"channel {user}","event_title":"Stream {event_id}","category_id":7,'
            f'"category_name":"Gaming","viewers_count":{by_chance.randrange(500)},'
            f'"event_file":"https://assets.parti.com/{event_id:032x}.png",'
            f'"avatar_link":"https://assets.parti.com/{user:032x}.png","user_avatar_id":{user},"social_media":"parti",'
            f'"social_username":"channel {user}","discord_discriminator":null,'
            f'"channel_arn":"arn:aws:ivs:us-west-2:1:channel/{user}",'
            f'"playback_url":"https://media.parti.com/{user}.m3u8","channel_url":"https://parti.com/channel{user}",'
            f'"extra":{{}}}}'
        )
    return lines


def _write(
    folder: Path, item_class: Any, lines: list[str], at: int, more: dict[str, Any], *, run_id: str | None = None
) -> None:
    """Write the folder of a run, or of a day of one."""
    folder.mkdir(parents=True, exist_ok=True)
    run_id = run_id or folder.name
    name = f"{item_class.collection}.jsonl"
    body = "".join(f"{line}\n" for line in lines).encode()
    resources = []
    if lines:
        (folder / name).write_bytes(body)
        digest = hashlib.sha256(body).hexdigest()
        resources = [
            {"path": name, "format": "jsonl", "rows": len(lines), "bytes": len(body), "hash": f"sha256:{digest}"}
        ]
    package = {
        "format_version": datapackage.FORMAT_VERSION,
        "project_version": __version__,
        "spider": folder.parent.parent.name if "day" in more else folder.parent.name,
        "run_id": run_id,
        "run_uuid": str(UUID(bytes=hashlib.md5(run_id.encode()).digest())),  # noqa: S324 - only a name
        "source": "parti.com",
        "host": "https://api-backend.parti.com",
        "created": iso(at),
        "arguments": {},
        "counts": {"served": len(lines), "written": len(lines)},
        "complete": True,
        "resources": resources,
    }
    path = folder / datapackage.FILE_NAME
    path.write_text(json.dumps(package | more), encoding="utf-8")
    # What has just changed is not noted by the catalog.
    os.utime(path, (at, at))


# --- What is measured, each in a process of its own ------------------------------------------------------------------


def step_export(folder: Path, target: str, tables: str = "") -> None:
    """Export into a target."""
    selection = Selection(tables=tuple(tables.split(",")) if tables else None)
    what = Export(Catalog([folder / "output"], folder / "catalog.sqlite"), folder / "scratch", selection)
    export(target_of(target), what, Silent())


def step_duckdb(folder: Path, target: str) -> None:
    """Do with one statement what the export of livestreams into Parquet comes down to."""
    files = sorted(map(str, folder.glob("output/recent/*/livestreams.jsonl")))
    columns = "{" + ", ".join(f"{name}: '{kind}'" for name, kind in _columns()) + "}"
    with duckdb.connect(config={"temp_directory": str(folder / "spill")}) as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_json($files, columns={columns}, format='newline_delimited') "
            f"QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY scraped_at DESC) = 1 ORDER BY event_end) "
            f"TO '{target}' (FORMAT parquet, COMPRESSION zstd)",
            {"files": files},
        )


def step_adbc(folder: Path, target: str) -> None:
    """Insert the merged rows into an empty table without a key."""
    with duckdb.connect() as source, adbc_driver_postgresql.dbapi.connect(target) as connection:
        rows = source.sql(f"SELECT * FROM read_parquet('{folder}/dataset/livestreams/**/*.parquet')")
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS peer")
            cursor.adbc_ingest("peer", rows.to_arrow_reader(), mode="create")
        connection.commit()


def _columns() -> Iterator[tuple[str, str]]:
    return ((each.name, "JSON" if each.is_json else each.type) for each in columns_of(Livestream))


STEPS: dict[str, Callable[..., None]] = {"export": step_export, "duckdb": step_duckdb, "adbc": step_adbc}


def measured(step: str, folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Return the seconds that a step took in a process of its own, its CPU time, and the most memory in MiB."""
    command = [sys.executable, __file__, "--step", step, str(folder), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    seconds, cpu, memory = json.loads(done.stdout)
    return seconds, cpu, memory


# --- The cases -------------------------------------------------------------------------------------------------------


def case_parquet(folder: Path, runs: int, rows: int, rounds: int) -> None:
    """Print how an export into Parquet compares to one statement."""
    make_recent(folder / "output", runs, rows)
    print(f"{runs * rows:,} livestreams in {runs:,} runs into Parquet", flush=True)
    for _ in range(rounds):
        peer = measured("duckdb", folder, str(folder / "peer.parquet"))
        for tables in ("livestreams", ""):
            target = str(folder / f"dataset-{time.monotonic_ns()}/")
            ours = measured("export", folder, target + "/", tables)
            _print(f"one DuckDB statement against {tables or 'all tables'}", ours, peer)


def case_postgres(folder: Path, runs: int, rows: int, rounds: int) -> None:
    """Print how an export into PostgreSQL compares to ADBC."""
    address = os.environ["PARTI_DATABASE_URL"]
    make_recent(folder / "output", runs, rows)
    measured("export", folder, str(folder / "dataset") + "/", "livestreams")
    print(f"{runs * rows:,} livestreams in {runs:,} runs into PostgreSQL", flush=True)
    for number in range(rounds):
        peer = measured("adbc", folder, address)
        for tables in ("livestreams", ""):
            sign = "&" if "?" in address else "?"
            ours = measured("export", folder, f"{address}{sign}schema=bench{number}{len(tables)}", tables)
            _print(f"ADBC against {tables or 'all tables'}", ours, peer)


def case_delta(folder: Path, runs: int, rows: int, rounds: int) -> None:
    """Print how an export into Delta tables compares to one into a folder."""
    make_recent(folder / "output", runs, rows)
    print(f"{runs * rows:,} livestreams in {runs:,} runs into Delta tables", flush=True)
    for number in range(rounds):
        target = folder / f"dataset-{number}"
        peer = measured("export", folder, f"{target}/")
        _print("a folder against Delta tables", measured("export", folder, f"delta+{target}-delta/"), peer)
        make_recent(folder / "output", runs + number + 1, rows, first=runs + number)
        peer = measured("export", folder, f"{target}/")
        _print("one run more", measured("export", folder, f"delta+{target}-delta/"), peer)


def case_again(folder: Path, runs: int, rows: int, rounds: int) -> None:
    """Print how long an export takes of which nothing is new."""
    make_recent(folder / "output", runs, rows)
    target = str(folder / "dataset") + "/"
    print(f"{runs:,} runs of {rows:,} livestreams, of which nothing is new", flush=True)
    _print("the first time", measured("export", folder, target))
    for _ in range(rounds):
        _print("again", measured("export", folder, target))


def case_live(folder: Path, days: int, _rows: int, _rounds: int) -> None:
    """Print what a year of snapshots takes."""
    for name, by_day in (("folders of days", True), ("folders of runs", False)):
        place = folder / name.replace(" ", "-")
        make_live(place / "output", days, by_day=by_day)
        target = place / "dataset"
        print(f"{days} days of snapshots every five minutes, as {name}", flush=True)
        _print("the first time", measured("export", place, f"{target}/"))
        _print("again", measured("export", place, f"{target}/"))
        lines = sum(path.stat().st_size for path in (place / "output").rglob("*.jsonl")) / 2**20
        parquet = sum(path.stat().st_size for path in target.glob("live_channels/_versions/*")) / 2**20
        print(f"  {lines:,.0f} MiB of JSON Lines are {parquet:,.1f} MiB of Parquet")


def case_derived(folder: Path, days: int, _rows: int, _rounds: int) -> None:
    """Print what it takes to work out what follows from snapshots, and what one day more takes."""
    output, rows = folder / "output", days * _DAY // _EVERY * _CHANNELS
    make_live(output, days, by_day=True)
    print(f"{rows:,} rows of snapshots on {days} days", flush=True)
    peer = measured("export", folder, str(folder / "peer") + "/", "live_channels")
    first = measured("export", folder, str(folder / "dataset") + "/")
    _print("live_channels alone against all tables", first, peer)
    make_live(output, days + 1, by_day=True, first=days)
    _print("one day more against all of them", measured("export", folder, str(folder / "dataset") + "/"), first)


CASES = {
    "parquet": case_parquet,
    "postgres": case_postgres,
    "delta": case_delta,
    "again": case_again,
    "live": case_live,
    "derived": case_derived,
}
_SIZES = {
    "parquet": (5_000, 200),
    "postgres": (5_000, 200),
    "delta": (5_000, 200),
    "again": (10_000, 40),
    "live": (365, 0),
    "derived": (579, 0),
}


def _print(what: str, ours: tuple[float, float, float], peer: tuple[float, float, float] | None = None) -> None:
    against = f"; {ours[0] / peer[0]:.2f} x {peer[0]:.1f} s, CPU {ours[1] / peer[1]:.2f} x" if peer else ""
    print(f"  {what:<45} {ours[0]:6.2f} s, CPU {ours[1]:6.2f} s, {ours[2]:,.0f} MiB{against}", flush=True)


def main() -> None:
    """Make runs, export them and print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="parquet")
    parser.add_argument("--runs", type=int, help="how many there are; of `live` and `derived`: days")
    parser.add_argument("--rows", type=int, help="how many livestreams each has")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, folder, *arguments = options.step
        began = time.perf_counter()
        STEPS[name](Path(folder), *arguments)
        seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
        return
    runs, rows = _SIZES[options.case]
    with tempfile.TemporaryDirectory() as folder:
        CASES[options.case](Path(folder), options.runs or runs, options.rows or rows, options.rounds)


if __name__ == "__main__":
    main()
