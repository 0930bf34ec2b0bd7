"""The page: figures and charts, put into the template. It requests nothing, and runs nothing but its own scripts."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from parti_scraper.api.routes import SITE_URL
from parti_scraper.api.times import DAY, timestamp_to_iso
from parti_scraper.dataset.coverage import crawl_for
from parti_scraper.dataset.engine import require
from parti_scraper.report import aggregates, charts, collection, live, text, timeline
from parti_scraper.report.period import EVERYTHING, OTHERS, Period, Rows, ask, prepare
from parti_scraper.wording import length_of, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from parti_scraper.report.charts import Chart
    from parti_scraper.report.timeline import Line

# The script has times in milliseconds.
_TIMES = {"moment", "since", "until"}
# What is missing that people can still crawl, and how many gaps are named.
_MOST_GAPS = 20


class Problem(NamedTuple):
    """Something that is wrong with the collection: one line, since when in Unix seconds, and the command that helps."""

    text: str
    since: float
    command: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """What the report is made with.

    Attributes:
        now: when it is made, in Unix seconds.
        period: what is looked at.
        origins: scheme and host of each site that it may link to.
        program: how commands are called in it.
        places: the options by which the command line says where runs are, to be typed again.
        problems: what is wrong with the collection; None where that is not known.
    """

    now: int
    period: Period = EVERYTHING
    origins: tuple[str, ...] = (SITE_URL,)
    program: str = "scrapy"
    places: Sequence[str] = ()
    problems: Sequence[Problem] | None = None


def make_report(connection: DuckDBPyConnection, options: Options) -> str:
    """Return the page.

    Args:
        connection: has the tables of the dataset, as tables or views; temporary views are added to it.
        options: what it is made with.

    Raises:
        ExtraMissing: the extra `report` is not installed.
    """
    template = _template(options)
    prepare(connection, options.period)
    found = _figures(connection, options)
    script, runtime, style = _file("report.js"), charts.runtime(), _file("report.css")
    page: str = template.render(
        **found,
        style=_inline(style),
        scripts=[_inline(runtime), _inline(script)],
        policy=_policy([runtime, script], style),
        program=options.program,
        made_at=options.now,
        problems=options.problems,
    )
    return page


def write_report(page: str, path: Path) -> None:
    """Write the page whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Half of an emoji cannot be written; it is not text.
        temporary.write_bytes(page.encode("utf-8", "replace"))
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


# --- What is in it -------------------------------------------------------------------------------------------------


def _figures(connection: DuckDBPyConnection, options: Options) -> dict[str, Any]:
    """Return what the template shows."""
    lines = timeline.lines(connection, options.period, options.now)
    unit, activity = aggregates.activity(connection)
    unit_of_runs, runs = collection.runs_by_outcome(connection)
    labels = [row[0] for row in ask(connection, "SELECT label FROM report_categories").rows]
    categories = [text.shown(each) for each in dict.fromkeys([*labels, OTHERS])]
    deleted, deletions = collection.deletions(connection, options.period)
    key = aggregates.key_figures(connection)
    rows = {
        "coverage": _drawn(lines),
        "activity": activity,
        "week": aggregates.week(connection),
        "live": live.live(connection),
        "curves": _curves(live.curves(connection)),
        "runs": runs,
    }
    drawn = charts.all_charts(len(lines), (unit, unit_of_runs), categories)
    drawn = [each for each in drawn if rows[each.rows].rows and (each.name != "viewer_hours" or key["viewer_hours"])]
    bounds = _bounds(key, lines)
    return {
        "key": key,
        "bounds": bounds,
        "lines": lines,
        "gaps": _gaps(lines, options),
        "categories": categories,
        "charts": {each.name: each for each in drawn},
        "channels": aggregates.top_channels(connection).as_dicts,
        "streams": aggregates.top_streams(connection).as_dicts,
        "spiders": collection.spiders(connection).as_dicts,
        "odd_fields": collection.odd_fields(connection).as_dicts,
        "set_aside": collection.set_aside(connection).as_dicts,
        "deleted": deleted,
        "deletions": deletions.as_dicts,
        "data": _data(rows, drawn, categories, bounds),
    }


def _bounds(key: Mapping[str, Any], lines: Sequence[Line]) -> dict[str, int] | None:
    """Return the first and the last day of what is shown at first; None if there are no data.

    What is proved may reach back years before the first livestream, so it counts only if there is none.
    """
    moments = [key[name] for name in ("since", "until", "last_snapshot") if key[name] is not None]
    if key["since"] is None:
        moments += [each.since for line in lines for each in line.coverage.intervals]
    if not moments:
        return None
    ends = [each.until for line in lines for each in line.coverage.intervals]
    return {"since": min(moments) // DAY * DAY, "until": max([*moments, *ends]) // DAY * DAY}


def _drawn(lines: Sequence[Line]) -> Rows:
    """Return the rows of the time line: of each series one from its beginning to its end, over which its gaps are."""
    rows: list[tuple[Any, ...]] = []
    for line in lines:
        every = [*line.coverage.intervals, *line.coverage.gaps]
        if line.coverage.intervals:
            whole = min(each.since for each in every), max(each.until for each in every)
            rows.append((line.label, "proved", *whole, length_of(whole[1] - whole[0] + 1)))
        rows += [(line.label, "missing", each.since, each.until, length_of(each.seconds)) for each in line.drawn]
    return Rows(("series", "state", "since", "until", "length"), rows)


def _curves(rows: Rows) -> Rows:
    """Return the rows of the viewer curves as they are drawn: with a name for each livestream, and hours."""
    names = {
        each["event_id"]: f"{each['title'] or each['event_id']} · {each['user_name'] or '?'}" for each in rows.as_dicts
    }
    # Two may have the same title, and one line is one livestream.
    numbered = {event: f"{place}. {name}" for place, (event, name) in enumerate(names.items(), 1)}
    return Rows(
        ("stream", "moment", "hours", "stretch", "viewers", "is_peak"),
        [
            (numbered[event], moment, round(seconds / 3600, 4), stretch, viewers, is_peak)
            for event, _, _, moment, seconds, stretch, viewers, is_peak in rows.rows
        ],
    )


def _gaps(lines: Iterable[Line], options: Options) -> list[dict[str, Any]]:
    """Return the longest gaps of all series, with the command that fills each, if one can."""
    gaps = [(gap, line) for line in lines for gap in line.drawn]
    gaps.sort(key=lambda each: (-each[0].seconds, each[1].label, each[0]))
    return [
        {
            "series": line.label,
            "since": gap.since,
            "until": gap.until,
            "seconds": gap.seconds,
            "command": f"{options.program} {shlex.join([*words, *options.places])}"
            if (words := crawl_for(gap, line.coverage.series, options.now))
            else None,
        }
        for gap, line in gaps[:_MOST_GAPS]
    ]


def _data(
    rows: Mapping[str, Rows], drawn: Sequence[Chart], categories: Sequence[str], bounds: Mapping[str, int] | None
) -> dict[str, Any]:
    """Return what the script is given."""
    since, until = ((bounds[name] * 1000 if bounds else 0) for name in ("since", "until"))
    return {
        "since": since,
        "until": until,
        "categories": list(categories),
        "rows": {name: _packed(each) for name, each in rows.items()},
        "charts": {each.name: {"rows": each.rows, "spec": each.spec, "columns": each.columns} for each in drawn},
    }


def _packed(rows: Rows) -> dict[str, Any]:
    """Return rows as the script reads them: each text once."""
    columns = list(zip(*rows.rows, strict=True)) or [()] * len(rows.columns)
    texts: dict[str, int] = {}
    packed = []
    is_text = [any(isinstance(value, str) for value in column) for column in columns]
    for name, column, is_of_text in zip(rows.columns, columns, is_text, strict=True):
        if is_of_text:
            packed.append([None if each is None else texts.setdefault(text.shown(each), len(texts)) for each in column])
        else:
            packed.append([_number(each, name) for each in column])
    return {
        "columns": list(zip(rows.columns, is_text, strict=True)),
        "texts": list(texts),
        "values": list(zip(*packed, strict=True)),
    }


def _number(value: Any, column: str) -> Any:
    if column in _TIMES and value is not None:
        return value * 1000
    # What is not seen on a chart would double the size of the page.
    return round(value, 3) if isinstance(value, float) else value


# --- The template --------------------------------------------------------------------------------------------------


def _template(options: Options) -> Any:
    """Return the template, which escapes whatever is put into it."""
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_file),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The order of the columns is that of the tables.
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "sort_keys": False}
    environment.filters |= {
        "amount": _amount,
        "day": lambda seconds: timestamp_to_iso(seconds)[:10],
        "duration": length_of,
        "link": lambda url: text.link(url, options.origins),
        "moment": _moment,
        "number_of": number_of,
        "percent": _percent,
        "shown": text.shown,
    }
    return environment.get_template("template.html")


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _inline(code: str) -> Any:
    """Return the code of a script or style as the template is to put it in, which is as it is."""
    if "</script" in code.lower() or "</style" in code.lower():
        raise ValueError("it would end before its end")
    # It is this project's, or that of the library that draws.
    return require("markupsafe", "report").Markup(code)


def _policy(scripts: Sequence[str], style: str) -> str:
    """Return the Content-Security-Policy: nothing is requested, and nothing runs but these scripts."""
    hashes = " ".join(map(_hash, scripts))
    return f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(code: str) -> str:
    digest = hashlib.sha256(code.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _amount(value: float | None) -> str:
    """Return a number with separators, and one decimal if it is small and no whole number."""
    if value is None:
        return "–"
    return f"{value:,.1f}" if value != round(value) and abs(value) < 100 else f"{value:,.0f}"


def _moment(seconds: int | None) -> str:
    return "–" if seconds is None else timestamp_to_iso(seconds)[:16].replace("T", " ")


def _percent(share: float) -> str:
    """Return a share in percent; it is 100 only if nothing is missing."""
    return "100 %" if share == 1 else f"{min(share * 100, 99.9):.1f} %"
