"""One run of a spider: the object that whoever takes part in it is handed."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from parti_scraper.api.quality import Quality
from parti_scraper.api.registry import specified_of
from parti_scraper.api.selection import Selection
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.network.source import Source
from parti_scraper.network.traffic import Traffic
from parti_scraper.run.problems import Problems
from parti_scraper.run.rejected import RejectedMarks
from parti_scraper.run.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from pathlib import Path

    from parti_scraper.items import Item
    from parti_scraper.ledger.ledger import Ledger, RunRecord
    from parti_scraper.network.hosts import Hosts
    from parti_scraper.run.arguments import Arguments
    from parti_scraper.run.outcome import Counts


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is called, and what was asked for.

    Attributes:
        spider: the name of the spider.
        run_id: the name of the run, and of its folder.
        arguments: what was typed, parsed.
        raw_arguments: as typed, without what is about the run itself.
        started_at: when it was begun, in Unix seconds; of a run that is finished later, when that was.
        job: scrapyd's id of the job; None on the command line.
    """

    spider: str
    run_id: str
    arguments: Arguments
    raw_arguments: Mapping[str, str]
    started_at: float
    job: str | None = None


class RunFolder:
    """The folder of a run, and what is to be written into it.

    Attributes:
        path: where it is.
        collection: the stem of the names of the record files.
        item_class: the kind of the records.
        suffix: what distinguishes the record files written now from those before, where the run rotates them.
        is_resumed: whether its files are gone on with.
    """

    def __init__(
        self,
        path: Path,
        collection: str,
        item_class: type[Item],
        suffix_for: Callable[[Any], str] | None = None,
        suffix: str = "",
    ) -> None:
        """Describe the folder.

        Args:
            path: where it is.
            collection: the stem of the names of the record files.
            item_class: the kind of the records.
            suffix_for: returns the suffix of the files that a record belongs into; None: they are not rotated.
            suffix: the one to begin with.
        """
        self.path = path
        self.collection = collection
        self.item_class = item_class
        self.suffix = suffix
        self.is_resumed = False
        self._suffix_for = suffix_for

    @property
    def quarantine(self) -> Path:
        """Where records are set aside."""
        return self.path / "quarantine.jsonl"

    @property
    def appends(self) -> bool:
        """Whether files that are there already are gone on with."""
        return self.is_resumed or bool(self.suffix)

    def file_suffix_for(self, item: Any) -> str:
        """Return the suffix of the files that a record belongs into."""
        return self.suffix if self._suffix_for is None else self._suffix_for(item)

    def rotate(self, suffix: str) -> None:
        self.suffix = suffix

    def resume(self) -> None:
        self.is_resumed = True


@dataclass(frozen=True, slots=True)
class SeriesPlace:
    """The place of a run among incremental runs with the same filters.

    Attributes:
        id: the series, of the ledger.
        next_since: where the next run starts after this one, in Unix seconds; None: where it did before.
        versions_since: from when on that run knows the versions of what was written, in Unix seconds.
    """

    id: int
    next_since: int | None
    versions_since: int | None


class Seen(Protocol):
    """Identities of the records that were written; of the snapshot at hand where there are snapshots."""

    def __contains__(self, identity: Hashable, /) -> bool: ...

    def add(self, identity: Hashable, /) -> None:
        """Remember an identity."""

    def clear(self) -> None:
        """Forget all."""


class RecordLimit:
    """The argument `max_records`: how many records are to be written, and whether they were."""

    def __init__(self, most: int | None) -> None:
        """Begin with none written; `most` is None where all are wanted."""
        self.most = most
        self._taken = 0

    @property
    def is_reached(self) -> bool:
        return self._taken == self.most

    def take(self) -> bool:
        """Tell whether one more record is wanted, and count it."""
        if self.is_reached:
            return False
        self._taken += 1
        return True

    def restore(self, taken: int) -> None:
        self._taken = taken


class Run:
    """One run, made of parts that each own a subject; the spider, the pipelines and the extensions share it.

    It has more than a dozen parts since it is the one place to find them; it decides nothing itself.

    Attributes:
        identity: what it is called, and what was asked for.
        folder: where its files are.
        ledger: what runs have done.
        previous: the run as the ledger has it, where this one is to finish it.
        hosts: which host of the API is asked.
        source: where its data come from.
        traffic: what it has cost.
        window: the window of time that it is about, in Unix seconds, frozen; None where there is none.
        series: its place among incremental runs; None where it is none of them.
        selection: the filters that the client applies.
        limit: how many records are wanted.
        seen: identities of the records that were written.
        rejected: marks of the records that were set aside.
        tally: what became of the records.
        quality: what is wrong with single fields of records.
        problems: what went wrong.
    """

    def __init__(
        self,
        identity: Identity,
        folder: RunFolder,
        ledger: Ledger,
        hosts: Hosts,
        seen: Seen,
        *,
        source: Source | None = None,
        previous: RunRecord | None = None,
    ) -> None:
        """Compose the run; nothing is read or written yet.

        Args:
            identity: what it is called, and what was asked for.
            folder: where its files are.
            ledger: what runs have done.
            hosts: which host of the API is asked.
            seen: what remembers the records that were written.
            source: where its data come from; None: that is not known before the first answer.
            previous: the run as the ledger has it, where this one is to finish it.
        """
        self.identity = identity
        self.folder = folder
        self.ledger = ledger
        self.hosts = hosts
        self.source = source or Source()
        self.traffic = Traffic()
        self.previous = previous
        self.window: tuple[int, int] | None = None
        self.series: SeriesPlace | None = None
        self.selection = Selection()
        self.limit = RecordLimit(getattr(identity.arguments, "max_records", None))
        self.seen = seen
        self.rejected = RejectedMarks()
        self.tally = Tally()
        self.quality = Quality(specified_of(folder.item_class))
        self.problems = Problems()

    def freeze_window(self, since: int, until: int) -> None:
        self.window = (since, until)

    def join(self, series: SeriesPlace) -> None:
        self.series = series

    def select(self, selection: Selection) -> None:
        """Set the filters that the client applies, once the categories are known."""
        self.selection = selection

    def window_as_json(self) -> dict[str, str] | None:
        if self.window is None:
            return None
        since, until = self.window
        return {"since": timestamp_to_iso(since), "until": timestamp_to_iso(until)}

    def counts(self) -> Counts:
        return self.tally.counts(len(self.quality.unknown))

    def progress(self) -> dict[str, Any]:
        """Return how far the run has come but for the spider's own account, as JSON takes it."""
        return {
            "failovers": self.hosts.failovers,
            "hosts": self.hosts.as_json(time.monotonic()),
            "quality": self.quality.as_json(),
            "source": self.source.as_json(),
            "traffic": self.traffic.as_json(),
        }

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Go on from there; called before anything is requested. Raises UsageError where data would be mixed."""
        # Earlier versions had no hosts, no quality, no source and no traffic.
        self.source.restore(progress.get("source"), (progress.get("hosts") or {}).get("served", []))
        self.traffic.restore(progress.get("traffic", {}))
        self.hosts.restore(progress.get("hosts"), time.monotonic(), progress["failovers"])
        if "quality" in progress:
            self.quality.restore(progress["quality"])


def run_of(crawler: Any) -> Run | None:
    """Return the run that a crawler is about; None where there is none, as in `scrapy shell`."""
    run = getattr(crawler.spider, "run", None)
    return run if isinstance(run, Run) else None


def present_run(crawler: Any) -> Run:
    """Return the run that a crawler is about, for a component that is used only where there is one."""
    run = run_of(crawler)
    assert run is not None  # noqa: S101 - `scrapy shell` builds such components too, and does not use them
    return run


def default_run_id(job: str | None, now: float) -> str:
    """Return the name of a run that none was typed for: after scrapyd's job, or the moment.

    Args:
        job: scrapyd's id of the job.
        now: Unix seconds.
    """
    if job:
        return re.sub(r"[^A-Za-z0-9._-]", "_", job, flags=re.ASCII).lstrip("._-")[:100] or default_run_id(None, now)
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
