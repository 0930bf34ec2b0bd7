"""Brings a target up to date with all runs: the one entry to the dataset for commands and programs."""

from __future__ import annotations

import itertools
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from parti_scraper import __version__
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.dataset.derivation import Derivation, Derived
from parti_scraper.dataset.earlier import open_earlier
from parti_scraper.dataset.facts import Facts, digest_of, name_of
from parti_scraper.dataset.plan import LeftOut, Loaded, Plan, make_plan
from parti_scraper.dataset.reading import Reading, read_runs
from parti_scraper.dataset.scratch import scratch_folder
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.staging import Staging
from parti_scraper.dataset.tables import LOADED, SCHEMA_VERSION, record_tables, with_sources
from parti_scraper.dataset.targets.base import Changes, Load, Meta, Outdated
from parti_scraper.dataset.targets.written import WrittenTarget
from parti_scraper.exceptions import UsageError
from parti_scraper.network.source import REAL
from parti_scraper.run.entries import CatalogError
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.dataset.coverage import Interval
    from parti_scraper.dataset.earlier import Earlier
    from parti_scraper.dataset.plan import Key
    from parti_scraper.dataset.targets.base import Session, Target
    from parti_scraper.dataset.targets.postgres_address import Address
    from parti_scraper.run.entries import Entry

# How often an export is tried where others keep changing the target: of eight at the same time, some began seven times.
_ATTEMPTS = 20
# How many times as long as it took it waits at most before it begins again.
_PATIENCE = 2


class Progress(Protocol):
    """Is told how far an export is."""

    def begin(self, what: str, total: int = 0) -> None:
        """Begin a step of so many bytes; 0: unknown."""

    def advance(self, size: int) -> None:
        """Note that so many bytes are done."""


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int = 0) -> None:
        """Do nothing."""

    def advance(self, size: int) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be exported.

    Attributes:
        entries: of the catalog; iterated more than once.
        scratch: a folder for temporary files, in the state folder.
        selection: which tables and rows.
        source: `mock` or `parti.com`; None: what there is, real data if there are both.
        rebuild: whether the target is to be filled anew.
        now: Unix seconds.
        earlier: exports that are read too, as in `Inputs`.
    """

    entries: Iterable[Entry]
    scratch: Path
    selection: Selection = field(default_factory=Selection)
    source: str | None = None
    rebuild: bool = False
    now: float = field(default_factory=time.time)
    earlier: Sequence[Address | str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What was exported.

    Attributes:
        tables: what was done to each table; none if nothing was new.
        left_out: runs that are not in the target, and why.
        files: how many files of runs were loaded.
        source: where the data come from.
        exports: how many earlier exports were loaded.
    """

    tables: Mapping[str, Changes]
    left_out: tuple[LeftOut, ...]
    files: int
    source: str | None
    exports: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out that should be there."""
        return not any(each.is_wrong for each in self.left_out)


def export(target: Target, what: Export, progress: Progress) -> Report:
    """Bring a target up to date.

    Raises:
        UsageError: the target holds something else.
        TargetError: the target, or the folder for temporary files, cannot be read or written.
        ExtraMissing: a package is not installed.
    """
    for _ in range(_ATTEMPTS - 1):
        began = time.monotonic()
        with suppress(Outdated):
            return _export(target, what, progress)
        # If all that were overtaken began again at once, all but one would be overtaken again.
        progress.begin("waiting for other exports")
        took = time.monotonic() - began
        time.sleep(_PATIENCE * took * random.random())  # noqa: S311
    return _export(target, what, progress)


def _export(target: Target, what: Export, progress: Progress) -> Report:
    with target.open() as session:
        return _Exporter(target, session, what, progress).export()


class _Exporter:
    """One export into one target."""

    def __init__(self, target: Target, session: Session, what: Export, progress: Progress) -> None:
        self._target, self._session, self._what, self._progress = target, session, what, progress
        self._meta = session.meta
        self._selection = self._select()
        # In this order they are written and named.
        self._wanted = tuple(self._selection.tables or target.default_tables())
        # Those that others follow from are read, too.
        self._all = with_sources(self._wanted)
        self._tables = [table for table in self._all if table.name in record_tables()]
        self._loaded = self._wanted + self._kept_too()
        lacks_sources = any(table.name not in self._loaded for table in self._all)
        self._rebuilds = what.rebuild or self._selection.has_filters or (self._meta is not None and lacks_sources)

    def _kept_too(self) -> tuple[str, ...]:
        """Return the tables that the target needs beside those that are wanted, so that what it holds can stay."""
        is_kept = not isinstance(self._target, WrittenTarget) and not self._selection.has_filters
        needed = with_sources(["livestreams"]) if is_kept and "livestreams" in self._wanted else []
        return tuple(table.name for table in needed if table.name not in self._wanted)

    def export(self) -> Report:
        self._progress.begin("looking for runs")
        known = {} if self._rebuilds else self._session.loaded()
        with (
            open_earlier(self._what.earlier, self._what.scratch, self._tables, known) as earlier,
            # Even if nothing is new, for what a killed export has left.
            scratch_folder(self._what.scratch) as folder,
        ):
            return self._export(self._plan(earlier), earlier, folder)

    def _export(self, plan: Plan, earlier: Earlier, folder: Path) -> Report:
        left_out = (*plan.left_out, *earlier.left_out)
        is_new = self._meta is None or self._rebuilds
        if not plan.runs and not earlier.count and not is_new:
            return Report({}, left_out, 0, plan.source)
        with Staging(folder, [*self._tables, LOADED]) as staging:
            reading = self._read(plan, staging)
            files = len(reading.loaded)
            spans = self._read_accounts(reading, staging)
            if not reading.loaded and not earlier.count and not is_new:
                return Report({}, (*left_out, *reading.left_out), 0, plan.source)
            staging.remove_files(reading.replaced, _mixed(reading, earlier.known))
            loaded = earlier.load(staging) | reading.loaded
            changes = self._load(staging, loaded, plan, spans)
        return Report(changes, (*left_out, *reading.left_out), files, plan.source, earlier.count)

    def _select(self) -> Selection:
        """Return what the target is to hold. Raises UsageError if it holds something else."""
        wanted = self._what.selection
        if self._meta is None or self._what.rebuild:
            return wanted
        held = Selection.from_json(self._meta.selection)
        if wanted not in {Selection(), held}:
            raise UsageError(
                f"{self._target.shown} holds another selection: {_shown(held)} "
                f"(accepted: no options of a selection, the same ones, or --rebuild)"
            )
        return held

    def _plan(self, earlier: Earlier) -> Plan:
        """Return what is to be loaded, also of earlier exports. Raises UsageError."""
        source = self._what.source or (REAL if earlier.source == REAL else None)
        plan = self._plan_runs(earlier.known, source)
        earlier.keep(plan.source or source or earlier.source)
        plan = replace(plan, source=plan.source or earlier.source)
        held = None if self._meta is None or self._what.rebuild else self._meta.source
        if held and plan.source and held != plan.source:
            raise UsageError(
                f"{self._target.shown} holds data of {held}, and these are of {plan.source} "
                f"(accepted: another target, --source {held}, or --rebuild)"
            )
        self._check_pruned(plan)
        return plan

    def _check_pruned(self, plan: Plan) -> None:
        """Raise UsageError if the target is to be emptied, and may alone hold records whose files were removed."""
        if not self._rebuilds or not plan.pruned or self._meta is None:
            return
        held = {run for run, _ in self._session.loaded()}
        folders = [folder for folder, run in plan.pruned.items() if run in held]
        if folders:
            raise UsageError(
                f"{self._target.shown} may alone hold the records of {number_of(len(folders), 'runs')} that `prune` "
                f"has removed, such as {folders[0]} "
                "(accepted: a new target; --from takes over what this one has)"
            )

    def _plan_runs(self, known: Mapping[Key, Loaded], source: str | None) -> Plan:
        return make_plan(self._what.entries, {table.records for table in self._tables}, known, source)

    def _read(self, plan: Plan, staging: Staging) -> Reading:
        total = sum(part.bytes for parts in plan.runs.values() for part in parts)
        self._progress.begin("reading runs", total)
        return read_runs(plan.runs, staging, self._tables, self._progress.advance)

    def _read_accounts(self, reading: Reading, staging: Staging) -> list[tuple[str, Interval]]:
        """Load what is said of runs. Returns when those of `notifications` were connected."""
        now, accounts = timestamp_to_iso(self._what.now), dict(reading.accounts)
        facts = Facts()
        for entry in self._what.entries if accounts else ():
            part = accounts.get((entry.run_uuid or "", name_of(entry)))
            if part is None or part.folder != entry.location or digest_of(entry) != part.sha256:
                continue
            try:
                facts.add(entry, now)
            except CatalogError as error:
                reading.left_out.append(LeftOut(entry.location, str(error)))
                continue
            del accounts[part.key]
            reading.loaded[part.key] = Loaded(part.bytes, 1, part.sha256)
        for name, rows in facts.rows.items():
            if name in {table.name for table in self._tables}:
                staging.add(name, rows)
        return facts.spans

    def _load(
        self, staging: Staging, loaded: Mapping[Key, Loaded], plan: Plan, spans: list[tuple[str, Interval]]
    ) -> Mapping[str, Changes]:
        now = timestamp_to_iso(self._what.now)
        staging.add(
            LOADED.records,
            [(*key, each.bytes, each.rows, each.sha256, now) for key, each in loaded.items()],
        )
        ready = self._derive(staging, spans)
        self._progress.begin(f"writing {self._target.shown}")
        gone = {each.rows.table.name: each.gone for each in ready if each.gone}
        rows = [*(each.rows for each in ready), staging.rows(LOADED)]
        source = plan.source or (self._meta.source if self._meta else None)
        meta = Meta(self._selection.as_json(), source, __version__, now)
        changes = self._session.load(Load(staging, rows, meta, self._rebuilds, gone))
        return {name: changes[name] for name in self._wanted}

    def _derive(self, staging: Staging, spans: list[tuple[str, Interval]]) -> list[Derived]:
        """Return the rows of all tables that are loaded, also of those that follow from others."""
        self._progress.begin("working out what follows")
        holds = self._meta is not None and not self._rebuilds
        derivation = Derivation(
            staging,
            self._all,
            partial(self._session.fetch, staging=staging) if holds else None,
            everything=holds and self._meta is not None and self._meta.schema_version < SCHEMA_VERSION,
            spans=spans,
        )
        ready = {each.rows.table.name: each for each in derivation.derive()}
        return [self._select_rows(ready[name], staging) for name in self._loaded]

    def _select_rows(self, each: Derived, staging: Staging) -> Derived:
        """Return the rows of a table that are wanted, if there are filters."""
        condition = self._selection.condition(each.rows.table, self._what.now)
        return each if condition == "true" else replace(each, rows=staging.filtered(each.rows, condition))


def _mixed(reading: Reading, known: Mapping[Key, Loaded]) -> set[str]:
    """Return the runs of which files were read again that have files of days and, of the first version, others."""
    runs = {run for run, _ in reading.replaced}
    files = [key for key in itertools.chain(known, reading.loaded) if key[0] in runs]
    return {run for run, file in files if "/" in file} & {run for run, file in files if "/" not in file}


def _shown(selection: Selection) -> str:
    """Return a selection as it would be typed."""
    typed = [f"--table {table}" for table in selection.tables or ()]
    filters = {name: value for name, value in selection.as_json().items() if name != "tables"}
    typed += [f"--{name.replace('_', '-')} {value}" for name, value in filters.items()]
    return " ".join(typed) or "everything"
