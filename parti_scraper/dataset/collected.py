"""What the runs of a catalog have looked at, which `coverage` is worked out of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from parti_scraper.api.routes import FIRST_TS
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.dataset.coverage import (
    LIVESTREAMS,
    Bounds,
    Interval,
    Proof,
    Series,
    coverage_of,
    interval_of,
    is_elsewhere,
    listened,
    looked,
    proof_of,
    proved,
)
from parti_scraper.dataset.plan import LeftOut, readable_files
from parti_scraper.items import LiveChannel, LiveNotification
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.run.entries import CatalogError, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parti_scraper.dataset.coverage import Coverage
    from parti_scraper.run.entries import Entry

_NOTIFICATIONS = Series(LiveNotification.collection)
_LIVE = Series(LiveChannel.collection)
# In place of the `run_uuid` of runs with one snapshot each.
_SINGLE = ""


@dataclass(slots=True)
class Collected:
    """What runs of one source have looked at.

    Attributes:
        has_records: whether one of them has any.
        proofs: what runs of `recent` prove.
        spans: when runs of `notifications` were connected.
        moments: when runs of `live` took complete snapshots, by series and run.
        left_out: runs that are not in it, and why.
    """

    has_records: bool = False
    proofs: list[Proof] = field(default_factory=list)
    spans: list[Interval] = field(default_factory=list)
    moments: dict[Series, dict[str, list[int]]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    # The folder of a run with days whose records were stored elsewhere.
    _elsewhere: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the runs have looked at nothing."""
        return not (self.proofs or self.spans or self.moments)

    def add(self, entry: Entry) -> None:
        """Take a run, or a day of one; days follow their run."""
        self.has_records = self.has_records or bool(readable_files(entry))
        if proof := proof_of(entry):
            self.proofs.append(proof)
        if entry.spider in {"live", "notifications"}:
            try:
                self._observe(entry)
            except CatalogError as error:
                self.left_out.append(LeftOut(entry.location, str(error)))

    def _observe(self, entry: Entry) -> None:
        """Take a run that watches what is live. Raises CatalogError."""
        if is_elsewhere(entry):
            self._elsewhere = entry.location
        if self._elsewhere and f"{entry.location}/".startswith(f"{self._elsewhere}/"):
            return
        if entry.status is Status.UNFINISHED:
            if entry.day is None:
                reason = "not over, so it is not known what it has observed since its last whole day"
                self.left_out.append(LeftOut(entry.location, reason, is_wrong=False))
        elif entry.spider == "notifications":
            spans = () if entry.days else entry.listened()
            self.spans += filter(None, (interval_of(each.since, each.until) for each in spans))
        elif entry.day:
            whole = [(each.started_at, each.ended_at) for each in entry.snapshots() if each.complete]
            self._add_moments(entry, entry.run_uuid or entry.location, whole)
        elif entry.complete and not (entry.truncated or entry.days or "interval" in entry.arguments):
            # The data packages of a hundred thousand of them are not opened for it.
            ended_at = entry.ended_at or ""
            self._add_moments(entry, _SINGLE, [(entry.started_at or ended_at, ended_at)])

    def _add_moments(self, entry: Entry, run: str, snapshots: Iterable[tuple[str, str]]) -> None:
        moments = [interval.since for times in snapshots if (interval := interval_of(*times))]
        if moments:
            series = Series.of(LiveChannel.collection, entry.arguments)
            self.moments.setdefault(series, defaultdict(list))[run] += moments

    def coverages(self, bounds: Bounds, since: int | None = None) -> list[Coverage]:
        """Return what is proved and what is missing, unfiltered livestreams first.

        Args:
            bounds: what is looked at.
            since: from when on unfiltered livestreams are looked at where the bounds do not tell; None: as far as the
                runs reach.
        """
        livestreams = proved(self.proofs)
        unfiltered = livestreams.pop(LIVESTREAMS)
        latest = bounds.now if bounds.until is None else bounds.until
        wanted = replace(bounds, since=since) if bounds.since is None else bounds
        whole = Interval(min(FIRST_TS, latest), latest)
        live = {series: looked(moments) for series, moments in self.moments.items()}
        snapshots = live.pop(_LIVE, [])
        found = [
            coverage_of(LIVESTREAMS, unfiltered, wanted, otherwise=whole),
            *(coverage_of(series, livestreams[series], bounds, unfiltered) for series in sorted(livestreams)),
            coverage_of(_LIVE, snapshots, bounds) if snapshots else None,
            *(coverage_of(series, live[series], bounds, snapshots) for series in sorted(live)),
            coverage_of(_NOTIFICATIONS, listened(self.spans), bounds) if self.spans else None,
        ]
        return [each for each in found if each]


def collect(entries: Iterable[Entry], now: int, source: str | None = None) -> tuple[str, Collected]:
    """Return what runs of one source have looked at, and which source that is.

    Args:
        entries: of the catalog.
        now: Unix seconds.
        source: where their data must come from; None: as for an export, parti.com, or else a mock server if there are
            only made-up data.
    """
    by_source: dict[str, Collected] = {}
    left_out: list[LeftOut] = []
    present = timestamp_to_iso(now)
    for entry in entries:
        status = entry.status
        if status is Status.UNREADABLE or status is Status.TOO_NEW:
            left_out.append(LeftOut(entry.location, entry.reason or status))
        elif (entry.started_at or "") > present:
            left_out.append(LeftOut(entry.location, "began in the future, by the clock of the machine"))
        elif status is not Status.FOREIGN:
            if (of_source := by_source.get(entry.source or REAL)) is None:
                of_source = by_source[entry.source or REAL] = Collected()
            of_source.add(entry)
    if source is None:
        there = [name for name, each in by_source.items() if each.has_records]
        there = there or [name for name, each in by_source.items() if not each.is_empty]
        source = REAL if REAL in there or not there else MOCK
    collected = by_source.get(source, Collected())
    collected.left_out += left_out
    return source, collected
