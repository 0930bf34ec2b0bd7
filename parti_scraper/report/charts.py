"""The charts, as specifications of Vega-Lite: what is drawn of which rows, which the page's script adds by their names.

Every chart has the parameters `since` and `until` (Unix milliseconds) and `picked` (categories), which the script sets.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from parti_scraper.dataset.engine import require
from parti_scraper.report.collection import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each has a contrast of 3 to 1 with the light and the dark background; the classes c0 to c8 of report.css are the same.
COLOURS = (
    "#3b7de0", "#d9600f", "#2b9348", "#a04fd0", "#e0405a", "#0c8f9c", "#94800a", "#d6409f", "#7d8590",
)  # fmt: skip
PROVED, MISSING = "#2b9348", "#e0405a"
_OUTCOME_COLOURS = ("#2b9348", "#94800a", "#d9600f", "#e0405a", "#a04fd0", "#7d8590")
_HEIGHT = 220
_IN_PERIOD = "datum.moment >= since && datum.moment <= until"
_CHOSEN = f"{_IN_PERIOD} && indexof(picked, datum.category) >= 0"
_FORMATS = {"day": "%a, %d %b %Y", "week": "week from %d %b %Y", "month": "%b %Y", "year": "%Y"}
_LENGTHS = {"day": 86_400_000, "week": 604_800_000, "month": 2_629_800_000, "year": 31_557_600_000}
_NUMBER = ",.1~f"
_MOMENT = "%d %b %Y, %H:%M UTC"
# Hours by the clock, and the first day of a year as its number. Of more than a year that day may have no label, so
# months have their year.
_TIME_LABEL = (
    "utchours(datum.value) || utcminutes(datum.value) ? utcFormat(datum.value, '%H:%M') : "
    f"until - since > {366 * 86_400_000} && utcdate(datum.value) == 1 ? utcFormat(datum.value, '%b %Y') : "
    "utcFormat(datum.value, utcdayofyear(datum.value) == 1 ? '%Y' : '%d %b')"
)
MEASURES = {"streams": "Livestreams", "hours": "Hours", "viewer_hours": "Viewer-hours"}


class Chart(NamedTuple):
    """A chart.

    Attributes:
        name: its name in the page.
        title: what it shows.
        rows: the name of the rows that it is made of.
        spec: the specification.
        columns: the columns of the rows that are its figures, with their titles: for the table beside it.
    """

    name: str
    title: str
    rows: str
    spec: dict[str, Any]
    columns: dict[str, str]


@cache
def _altair() -> Any:
    """Return the library. Raises ExtraMissing."""
    return require("altair", "report")


def runtime() -> str:
    """Return the JavaScript that draws the charts. Raises ExtraMissing."""
    bundle: str = require("vl_convert", "report").javascript_bundle()
    # In a function, since what it declares would be global.
    return f"(() => {{{bundle}\n}})();"


def all_charts(series: int, units: tuple[str, str], categories: Sequence[str]) -> list[Chart]:
    """Return all charts.

    Args:
        series: how many series the coverage has.
        units: that of the bars of activity and of runs.
        categories: the labels, in the order of their colours.
    """
    return [
        _coverage(series),
        *(_activity(measure, units[0], categories) for measure in MEASURES),
        _by_category(categories),
        _week(),
        _live("viewers", "Viewers of all live channels"),
        _live("channels", "Channels that are live"),
        _curves(),
        _runs("runs", "Runs", units[1]),
        _runs("pages", "Pages that were received", units[1]),
    ]


def _coverage(series: int) -> Chart:
    alt = _altair()
    base = alt.Chart(alt.NamedData(name="coverage")).encode(
        x=_over_time("since"),
        x2="until:T",
        y=alt.Y("series:N", title=None, sort=None, axis=alt.Axis(labelLimit=110)),
        color=alt.Color("state:N", scale=alt.Scale(domain=["proved", "missing"], range=[PROVED, MISSING]), legend=None),
        tooltip=[
            alt.Tooltip("series:N", title="Series"),
            alt.Tooltip("state:N", title="State"),
            alt.Tooltip("since:T", title="From", format=_MOMENT),
            alt.Tooltip("until:T", title="To", format=_MOMENT),
            alt.Tooltip("length:N", title="Length"),
        ],
    )
    proved = base.transform_filter("datum.state == 'proved'").mark_bar(clip=True, height=16)
    # The outline keeps a gap of a minute visible beside years.
    gaps = base.transform_filter("datum.state == 'missing'").mark_bar(
        clip=True, height=28, stroke=MISSING, strokeWidth=2
    )
    columns = {"series": "Series", "state": "State", "since": "From", "until": "To", "length": "Length"}
    title = "What is proved (green), and what is missing (red, taller)"
    return Chart("coverage", title, "coverage", _finished(proved + gaps, 30 + 40 * series), columns)


def _activity(measure: str, unit: str, categories: Sequence[str]) -> Chart:
    """Return bars over time, stacked by category."""
    alt = _altair()
    chart = _bars("activity", unit, _CHOSEN).encode(
        y=_summed(measure),
        color=_coloured(categories),
        tooltip=[_time_of_bar(unit), alt.Tooltip("category:N", title="Category"), *_measures()],
    )
    columns = {"moment": unit.capitalize(), "category": "Category", measure: MEASURES[measure]}
    title = f"{MEASURES[measure]} a {unit}, by category"
    return Chart(measure, title, "activity", _finished(chart, _HEIGHT), columns)


def _by_category(categories: Sequence[str]) -> Chart:
    alt = _altair()
    chart = (
        alt.Chart(alt.NamedData(name="activity"))
        .transform_filter(_CHOSEN)
        .mark_bar()
        .encode(
            x=alt.X("sum(hours):Q", title=None),
            y=alt.Y("category:N", title=None, sort="-x", axis=alt.Axis(labelLimit=110)),
            color=_coloured(categories),
            tooltip=[alt.Tooltip("category:N", title="Category"), *_measures()],
        )
    )
    spec = _finished(chart, 30 + 26 * max(1, len(categories)))
    return Chart("categories", "Hours by category", "activity", spec, {"category": "Category", **MEASURES})


def _week() -> Chart:
    alt = _altair()
    # All of them, also those in which nothing began.
    hours, weekdays = (alt.Scale(domain=list(range(number))) for number in (24, 7))
    days = "['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun']"
    chart = (
        alt.Chart(alt.NamedData(name="week"))
        .transform_filter("indexof(picked, datum.category) >= 0")
        .transform_calculate(weekday="floor(datum.hour / 24)", of_day="datum.hour % 24")
        .mark_rect()
        .encode(
            x=alt.X(
                "of_day:O",
                title="Hour (UTC)",
                scale=hours,
                axis=alt.Axis(labelAngle=0, labelOverlap=True),
            ),
            y=alt.Y(
                "weekday:O",
                title=None,
                scale=weekdays,
                axis=alt.Axis(labelExpr=f"{days}[datum.value]"),
            ),
            color=alt.Color("sum(streams):Q", scale=alt.Scale(scheme="viridis"), legend=None),
            tooltip=[
                alt.Tooltip("weekday:O", title="Day of the week (0: Monday)"),
                alt.Tooltip("of_day:O", title="Hour (UTC)"),
                *_measures(),
            ],
        )
    )
    columns = {"hour": "Hour of the week", "category": "Category", **MEASURES}
    return Chart("week", "Livestreams by hour of the week in which they began", "week", _finished(chart, 200), columns)


def _live(measure: str, title: str) -> Chart:
    """Return a line over time for the chosen categories together, which ends where a gap begins."""
    alt = _altair()
    chart = (
        alt.Chart(alt.NamedData(name="live"))
        .transform_filter(_CHOSEN)
        .mark_line(clip=True, color=COLOURS[0], point=alt.OverlayMarkDef(size=14, color=COLOURS[0]))
        .encode(
            x=_over_time("moment"),
            y=_summed(measure),
            detail="stretch:N",
            tooltip=[
                alt.Tooltip("moment:T", title="Time", format=_MOMENT),
                alt.Tooltip("sum(viewers):Q", title="Viewers", format=_NUMBER),
                alt.Tooltip("sum(channels):Q", title="Channels", format=_NUMBER),
            ],
        )
    )
    columns = {"moment": "Time", "category": "Category", measure: measure.capitalize()}
    return Chart(f"live_{measure}", title, "live", _finished(chart, _HEIGHT), columns)


def _curves() -> Chart:
    alt = _altair()
    base = alt.Chart(alt.NamedData(name="curves")).encode(
        x=alt.X("hours:Q", title="Hours since first observed", axis=alt.Axis(tickCount=8)),
        y=alt.Y("viewers:Q", title=None),
        color=alt.Color(
            "stream:N",
            sort=None,
            scale=alt.Scale(range=list(COLOURS)),
            legend=alt.Legend(orient="bottom", columns=1, title=None, labelLimit=260),
        ),
        tooltip=[
            alt.Tooltip("stream:N", title="Livestream"),
            alt.Tooltip("moment:T", title="Time", format=_MOMENT),
            alt.Tooltip("viewers:Q", title="Viewers", format=","),
        ],
    )
    line = base.mark_line(point=alt.OverlayMarkDef(size=14)).encode(detail="stretch:N")
    peaks = base.transform_filter("datum.is_peak")
    marks = peaks.mark_point(size=130, strokeWidth=2, shape="triangle-down", yOffset=-10)
    numbers = peaks.mark_text(dy=-24).encode(text=alt.Text("viewers:Q", format=","))
    columns = {"stream": "Livestream", "moment": "Time", "viewers": "Viewers", "is_peak": "Peak"}
    title = "Viewers of the livestreams with the highest peaks"
    return Chart("curves", title, "curves", _finished(line + marks + numbers, 300), columns)


def _runs(measure: str, title: str, unit: str) -> Chart:
    alt = _altair()
    chart = _bars("runs", unit, _IN_PERIOD).encode(
        y=_summed(measure),
        color=alt.Color(
            "outcome:N",
            scale=alt.Scale(domain=list(OUTCOMES), range=list(_OUTCOME_COLOURS)),
            legend=alt.Legend(orient="bottom", columns=3, title=None),
        ),
        tooltip=[
            _time_of_bar(unit),
            alt.Tooltip("outcome:N", title="Outcome"),
            *(alt.Tooltip(f"sum({name}):Q", title=name.capitalize(), format=",") for name in ("runs", "pages")),
        ],
    )
    columns = {"moment": unit.capitalize(), "spider": "Spider", "outcome": "Outcome", measure: title}
    return Chart(measure, f"{title} a {unit}, by how runs ended", "runs", _finished(chart, _HEIGHT), columns)


def _bars(rows: str, unit: str, condition: str) -> Any:
    alt = _altair()
    return (
        alt.Chart(alt.NamedData(name=rows))
        .transform_filter(condition)
        .transform_calculate(bar_end=f"datum.moment + {_LENGTHS[unit]} * 0.94")
        .mark_bar(clip=True)
        .encode(x=_over_time("moment"), x2="bar_end:T")
    )


def _time_of_bar(unit: str) -> Any:
    return _altair().Tooltip("moment:T", title=unit.capitalize(), format=_FORMATS[unit])


def _measures() -> list[Any]:
    return [_altair().Tooltip(f"sum({name}):Q", title=title, format=_NUMBER) for name, title in MEASURES.items()]


def _summed(measure: str) -> Any:
    """Return the axis of a sum; what is counted has no halves."""
    alt = _altair()
    # A minimal step of the ticks is not kept to where the numbers are small.
    label = "datum.label" if measure in {"hours", "viewer_hours"} else "datum.value % 1 ? '' : format(datum.value, ',')"
    return alt.Y(f"sum({measure}):Q", title=None, axis=alt.Axis(labelExpr=label))


def _coloured(categories: Sequence[str]) -> Any:
    # The page's boxes, by which categories are chosen, are the legend.
    alt = _altair()
    scale = alt.Scale(domain=list(categories), range=list(COLOURS[: len(categories)]))
    return alt.Color("category:N", scale=scale, legend=None)


def _over_time(column: str) -> Any:
    """Return the axis of time: the period that was chosen, in UTC."""
    alt = _altair()
    scale = alt.Scale(type="utc", domain={"expr": "[since, until]"})
    return alt.X(f"{column}:T", scale=scale, title=None, axis=alt.Axis(labelExpr=_TIME_LABEL, labelFlush=True))


def _finished(chart: Any, height: int) -> dict[str, Any]:
    """Return the specification of a chart, as wide as the page."""
    alt = _altair()
    parameters = [alt.param(name=name, value=value) for name, value in (("since", 0), ("until", 0), ("picked", []))]
    chart = chart.add_params(*parameters).properties(width="container", height=height)
    # The page says in words what a chart shows, and has its figures as a table.
    chart = chart.configure(aria=False, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    chart = chart.configure_view(stroke=None).configure_legend(labelFontSize=12)
    spec: dict[str, Any] = chart.configure_axis(labelFontSize=12, titleFontSize=12, labelOverlap="greedy").to_dict()
    # The page shows through.
    return {name: value for name, value in spec.items() if name != "$schema"} | {"background": None}
