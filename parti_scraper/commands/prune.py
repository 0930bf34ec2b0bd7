"""`scrapy prune`: gets rid of record files that were exported."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy.commands import ScrapyCommand

from parti_scraper.api.times import LENGTHS, parse_length
from parti_scraper.commands.base import Reading
from parti_scraper.commands.export import Line
from parti_scraper.commands.inputs import left_out_lines
from parti_scraper.dataset.export import Silent
from parti_scraper.dataset.inputs import Inputs
from parti_scraper.dataset.plan import LeftOut
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.tables import dataset_tables
from parti_scraper.dataset.targets.delta import FILE_NAME as MANIFEST
from parti_scraper.dataset.targets.delta import PREFIX, is_delta
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.dataset.targets.written import WrittenTarget
from parti_scraper.exceptions import UsageError
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.operations.prune import Terms, removals
from parti_scraper.operations.removal import Account, Work, forget, remove_all
from parti_scraper.program import program
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.catalog_cache import FILE_NAME as CACHE_NAME
from parti_scraper.run.datapackage import FILE_NAME
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.run.outcome import ExitCode
from parti_scraper.secret_settings import secret_from
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from parti_scraper.dataset.export import Progress
    from parti_scraper.dataset.targets.base import Meta, Target
    from parti_scraper.operations.removal import Removed
    from parti_scraper.redact import Secret
    from parti_scraper.run.entries import Entry

_TO = "--exported-to"
_ACCEPTED = "a folder or a database with everything, as `export` makes it without --table and filters"


class Command(Reading, ScrapyCommand):
    """Removes record files that were exported."""

    name = "prune"
    stopped = "stopped; the next prune does the rest"

    def syntax(self) -> str:
        return f"--older-than AGE {_TO} TARGET [options]"

    def short_desc(self) -> str:
        return "Remove record files that are old and exported"

    def long_desc(self) -> str:
        return (
            "Remove the record files of runs, and of days of runs, that ended so long ago, and of which TARGET has "
            "every record. Their data packages stay, and say so. What goes on is never touched. The exit code is 4 if "
            "something old stays because TARGET lacks it, or because a file is damaged, else 0."
        )

    def options(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--older-than", dest="age", metavar="AGE", help="how long ago they ended at least: 90d, 12w")
        group.add_argument(_TO, dest="target", metavar="TARGET", help=f"where they were exported to: {_ACCEPTED}")
        group.add_argument("--dry-run", action="store_true", help="only say what would be removed")
        where = "folder of runs; repeatable (default: PARTI_OUTPUT_DIR)"
        group.add_argument("--from", dest="inputs", metavar="DIR", action="append", help=where)
        group.add_argument("--quiet", action="store_true", help="print errors only")

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        now = time.time()
        before = now - _age(opts.age)
        settings = self.settings
        database_url = secret_from(settings, "PARTI_DATABASE_URL")
        inputs = _inputs(opts.inputs, output_dir(settings, {}), database_url)
        state = state_dir(settings, {})
        target = _target(opts.target, database_url, state / "export")
        inputs.check_apart(opts.target, database_url)
        with Ledger.existing(state) as ledger, target.open() as session:
            meta = _check_whole(session.meta, target.shown)
            catalog = Catalog(inputs.runs, state / CACHE_NAME, ledger)
            terms = Terms(now, before, target.shown, meta.source, session.loaded())
            work = Work(session, target.shown, state / "export", now, opts.dry_run)
            progress = Silent() if opts.quiet else Line()
            account = Pruning(catalog, terms, work, ledger, progress).prune()
        _print(account, opts, terms)
        return ExitCode.INCOMPLETE if any(each.is_wrong for each in account.kept) else ExitCode.COMPLETE


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is needed to prune.

    Attributes:
        catalog: the runs.
        terms: what may go.
        work: how it goes.
        ledger: what runs have done; None where there is none.
        progress: is told how far it is.
    """

    catalog: Catalog
    terms: Terms
    work: Work
    ledger: Ledger | None
    progress: Progress

    def prune(self) -> Account:
        """Remove what may go, and let the ledger forget it. Raises TargetError, LedgerError."""
        account = Account()
        self.progress.begin("looking for runs")
        going = []
        entries = list(self.catalog)
        for each in removals(entries, self.terms, self._described, os.path.lexists):
            if isinstance(each, LeftOut):
                account.kept.append(each)
            else:
                going.append(each)
        pruned = [each.folder for each in entries if each.pruned and each.day is None]
        total = sum(part.bytes for each in going for candidate in each.candidates for part in candidate.parts)
        self.progress.begin("comparing runs with the target", total)
        remove_all(going, self.work, account, self.progress.advance)
        self.progress.begin("")
        if self.ledger and not self.work.dry_run:
            forget(self.ledger, [*pruned, *account.pruned])
            self.ledger.forget_failed_starts(self.terms.before)
        return account

    def _described(self, run: Entry) -> Collection[str]:
        """Return the days of a run that it has left and described, by its last checkpoint. Raises LedgerError."""
        known = self.ledger.find(run.folder) if self.ledger else None
        noted = self.ledger.last_checkpoint(known.id) if self.ledger and known else None
        days: Mapping[str, Any] = noted.progress.get("days", {}) if noted else {}
        return frozenset(days.get("described", ()))


def _age(text: str | None) -> float:
    """Return an age that was typed, in seconds. Raises UsageError."""
    if text is None:
        raise UsageError(f"option `--older-than` is missing (accepted: {LENGTHS})")
    return parse_length("option", "--older-than", text)


def _inputs(texts: Sequence[str] | None, default: Path, database_url: Secret | None) -> Inputs:
    """Return the folders of runs. Raises UsageError."""
    inputs = Inputs.parse(texts, database_url) if texts else Inputs([default], ())
    inputs.check_only_runs()
    return inputs


def _target(text: str | None, database_url: Secret | None, scratch: Path) -> Target:
    """Return the target that was typed, which is there and may hold everything. Raises UsageError, ExtraMissing."""
    if text is None:
        raise UsageError(f"option `{_TO}` is missing (accepted: {_ACCEPTED})")
    target = target_of(text, database_url, scratch)
    if isinstance(target, WrittenTarget):
        raise UsageError.of("option", _TO, "a file that each export writes anew", text, _ACCEPTED)
    path, name = Path(text.removeprefix(PREFIX)), MANIFEST if is_delta(text) else FILE_NAME
    # To open it would make it.
    is_there = "://" in text or ((path / name).is_file() if path.is_dir() else path.is_file())
    if not is_there:
        raise UsageError.of("option", _TO, "no export is there", text, _ACCEPTED)
    return target


def _check_whole(meta: Meta | None, shown: str) -> Meta:
    """Return what a target knows of itself, if it holds everything. Raises UsageError."""
    if meta is None:
        raise UsageError.of("option", _TO, "no export is there", shown, _ACCEPTED)
    held = Selection.from_json(meta.selection)
    if held.has_filters or not {*(held.tables or dataset_tables())} >= {*dataset_tables()}:
        raise UsageError.of("option", _TO, "it holds a selection", shown, _ACCEPTED)
    return meta


def _print(account: Account, opts: argparse.Namespace, terms: Terms) -> None:
    """Print what was removed, and what was kept; if nothing but errors is wanted, only what should not have been."""
    if not opts.quiet:
        print("\n".join(_removed_lines(account.removed, is_dry=opts.dry_run)))
    kept = [each for each in account.kept if each.is_wrong or not opts.quiet]
    lines = [*left_out_lines(kept, "kept")]
    if any(each.reason == terms.not_held for each in kept):
        lines.append(f"  next: {program()} export {shlex.quote(opts.target)}")
    if lines:
        print("\n".join(lines), file=sys.stderr if opts.quiet else sys.stdout)


def _removed_lines(removed: Mapping[str, Removed], *, is_dry: bool) -> Iterator[str]:
    """Yield the lines that say what was removed, or would be."""
    if not removed:
        yield "nothing to remove"
        return
    yield "would be removed:" if is_dry else "removed:"
    width = max(map(len, removed))
    for spider, each in sorted(removed.items()):
        days = f" ({number_of(each.days, 'days')})" if each.days else ""
        counted = f"{number_of(each.runs, 'runs')}{days}, {number_of(each.files, 'files')}"
        yield f"  {spider:<{width}}  {counted}, {number_of(each.bytes, 'bytes')}"
