"""One run of a spider: the object that spider, pipelines and extensions share."""

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
        started_at: when it was first started, in Unix seconds.
        job: scrapyd's id of the job; None on the command line.
    """

    spider: str
    run_id: str
    arguments: Arguments
    raw_arguments: Mapping[str, str]
    started_at: float
    job: str | None = None


class RunFolder:
    """The folder of a run, and what is written into it.

    Attributes:
        path: where it is.
        collection: the stem of the names of the record files.
        item_class: the kind of the records.
        suffix: what distinguishes the record files written now from earlier ones, where the run rotates them.
        is_resumed: whether it continues the files of an earlier session.
    """

    def __init__(
        self,
        path: Path,
        collection: str,
        item_class: type[Item],
        suffix_for: Callable[[Any], str] | None = None,
        suffix: str = "",
    ) -> None:
        """Describe the folder; `suffix_for` returns the suffix for a record, and is None where files do not rotate."""
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
        """Whether existing files are continued."""
        return self.is_resumed or bool(self.suffix)

    def file_suffix_for(self, item: Any) -> str:
        """Return the suffix of the files that a record belongs in."""
        return self.suffix if self._suffix_for is None else self._suffix_for(item)

    def rotate(self, suffix: str) -> None:
        self.suffix = suffix

    def resume(self) -> None:
        self.is_resumed = True


@dataclass(frozen=True, slots=True)
class SeriesPlace:
    """The place of a run among incremental runs with the same filters.

    Attributes:
        id: the series in the ledger.
        next_since: where the run after this one starts, in Unix seconds; None: this run does not change it.
        versions_since: from when on that run needs the versions that were written, in Unix seconds.
    """

    id: int
    next_since: int | None
    versions_since: int | None


class Seen(Protocol):
    """Identities of the records that were written; with snapshots, of the current one."""

    def __contains__(self, identity: Hashable, /) -> bool: ...

    def add(self, identity: Hashable, /) -> None:
        """Remember an identity."""

    def clear(self) -> None:
        """Forget all."""


class RecordLimit:
    """The argument `max_records`, and how many records were written."""

    def __init__(self, most: int | None) -> None:
        """Start with none written; `most` is None where all are wanted."""
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
    """One run, made of parts that each own a subject; it decides nothing itself.

    Attributes:
        identity: what it is called, and what was asked for.
        folder: where its files are.
        ledger: what runs have done.
        previous: the unfinished run that this one resumes, from the ledger.
        hosts: which host of the API is asked.
        window: the window of time that it collects, in Unix seconds; None where there is none.
        series: its place among incremental runs; None where it is not incremental.
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
        previous: RunRecord | None = None,
    ) -> None:
        """Compose the run; nothing is read or written yet."""
        self.identity = identity
        self.folder = folder
        self.ledger = ledger
        self.hosts = hosts
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
        """Return how far the run has come, without the spider's own part, as JSON takes it."""
        return {
            "failovers": self.hosts.failovers,
            "hosts": self.hosts.as_json(time.monotonic()),
            "quality": self.quality.as_json(),
        }

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Resume from there; called before anything is requested."""
        # Earlier versions had no hosts and no quality.
        self.hosts.restore(progress.get("hosts"), time.monotonic(), progress["failovers"])
        if "quality" in progress:
            self.quality.restore(progress["quality"])


def run_of(crawler: Any) -> Run | None:
    """Return the run of a crawler; None where there is none, as in `scrapy shell`."""
    run = getattr(crawler.spider, "run", None)
    return run if isinstance(run, Run) else None


def present_run(crawler: Any) -> Run:
    """Return the run of a crawler, for a component that is used only where there is one."""
    run = run_of(crawler)
    assert run is not None  # noqa: S101 - `scrapy shell` builds such components too, and does not use them
    return run


def default_run_id(job: str | None, now: float) -> str:
    """Return the default name of a run: from scrapyd's id of the job, or from the time in Unix seconds."""
    if job:
        return re.sub(r"[^A-Za-z0-9._-]", "_", job, flags=re.ASCII).lstrip("._-")[:100] or default_run_id(None, now)
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
