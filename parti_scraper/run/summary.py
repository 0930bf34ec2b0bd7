"""What `scrapy crawl` prints at the end: how the run ended, how many records there are, and where."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parti_scraper.program import program
from parti_scraper.run.outcome import ExitCode
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from parti_scraper.api.quality import Quality
    from parti_scraper.run.context import Identity, Run
    from parti_scraper.run.datapackage import Feed, File
    from parti_scraper.run.entries import Entry
    from parti_scraper.run.outcome import Counts, Verdict
    from parti_scraper.run.reasons import Reasons

_CATEGORIES_SHOWN = 12
_FIELDS_SHOWN = 10
_REASONS_SHOWN = 5
# Characters of a field's name.
_LONGEST_NAME = 60


def printable(text: str) -> str:
    """Return the text without characters that would move a terminal's cursor or break the line."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


@dataclass(frozen=True, slots=True)
class Left:
    """What a run leaves.

    Attributes:
        files: those in its folder.
        feeds: those elsewhere.
        remarks: what the spider has to say, a line each.
        before: the run that its fields are compared with; None if there is none.
    """

    files: Sequence[File] = ()
    feeds: Sequence[Feed] = ()
    remarks: Sequence[str] = ()
    before: Entry | None = None


def summarize(run: Run, verdict: Verdict, left: Left, seconds: float, *, finished_before: bool = False) -> str:
    """Return the summary of a run, which took so many seconds: a few lines, or one if it could not start.

    Where the run that was named had finished before, nothing was done.
    """
    identity = run.identity
    if verdict.exit_code in {ExitCode.USAGE, ExitCode.NOT_STARTED}:
        return verdict.reason or ""
    begin = f"{identity.spider} {identity.run_id}: "
    if finished_before:
        why = f", {_ending(verdict, truncated=False)}: {verdict.reason}" if verdict.reason else ""
        return printable(f"{begin}finished before{why}; nothing was requested; see {run.folder.path}")
    if verdict.exit_code is ExitCode.INCOMPLETE and not verdict.ended:
        # Nothing could be stored, so there is nothing to count.
        hint = f"; {how_to_finish(identity)}" if run.folder.path.is_dir() else ""
        return printable(f"{begin}NOT COMPLETE: {verdict.reason}{hint}")
    records = run.folder.collection.replace("_", " ")
    ending = _ending(verdict, truncated=run.limit.is_reached)
    lines = [f"{begin}{ending}: {number_of(run.tally.written, records)} in {seconds:.1f} s"]
    if identity.spider != "categories":
        lines += _by_category(run.tally.categories)
    lines.append(_counts(run.counts()))
    lines += _set_aside(run.reasons, run.tally.quarantined)
    lines += _new_fields(run.quality, left.before)
    lines += _fields(run.quality)
    lines += _stored(run, left)
    lines += [f"  {printable(remark)}" for remark in left.remarks]
    if verdict.reason:
        lines.append(f"  {printable(verdict.reason)}")
    if not verdict.ended:
        lines.append(f"  {how_to_finish(identity)}")
    return "\n".join(lines)


def _by_category(categories: Counter[str]) -> list[str]:
    ranking = categories.most_common()
    lines = [f"  {number:>9,}  {printable(name)}" for name, number in ranking[:_CATEGORIES_SHOWN]]
    others = ranking[_CATEGORIES_SHOWN:]
    if others:
        lines.append(f"  {sum(number for _, number in others):>9,}  in other categories ({len(others)})")
    return lines


def _counts(counts: Counts) -> str:
    return (
        f"  {number_of(counts.pages, 'pages')}, {number_of(counts.served, 'records')} served: "
        f"{counts.written:,} written, {counts.duplicate:,} duplicate, {counts.filtered:,} filtered out, "
        f"{counts.quarantined:,} set aside"
        + (f", {counts.dropped:,} dropped by other pipelines" if counts.dropped else "")
    )


def _set_aside(reasons: Reasons, number: int) -> list[str]:
    shown = reasons.most_common(_REASONS_SHOWN)
    lines = [f"  {count:>9,}  set aside: {printable(reason)}" for reason, count in shown]
    others = number - sum(count for _, count in shown)
    # Fewer where a record could not be stored.
    return lines + ([f"  {others:>9,}  set aside for other reasons"] if others > 0 else [])


def _new_fields(quality: Quality, before: Entry | None) -> list[str]:
    """Return a line with the fields that were not unknown, or not unreadable, in the run before."""
    if before is None:
        return []
    unknown = [
        ("", name, number) for name, number in quality.unknown.most_common() if name not in before.unknown_fields
    ]
    unreadable = [
        ("unreadable ", name, number)
        for name, number in quality.unreadable.most_common()
        if name not in before.unreadable_fields
    ]
    new = [
        f"field `{printable(name[:_LONGEST_NAME])}` {how}in {number_of(number, 'records')}"
        for how, name, number in (*unknown, *unreadable)
    ]
    return [f"  new: {_listed(new)}; not so in the run {printable(before.run_id)}"] if new else []


def _fields(quality: Quality) -> list[str]:
    lines = [
        f"  {what}: {_counted(names)}"
        for what, names in (("unknown fields", quality.unknown), ("unreadable fields", quality.unreadable))
        if names
    ]
    vanished = quality.vanished()
    return lines + [f"  fields that no record has any more: {', '.join(vanished)}"] * bool(vanished)


def _counted(names: Counter[str]) -> str:
    return _listed([f"{printable(name[:_LONGEST_NAME])} ({number:,})" for name, number in names.most_common()])


def _listed(fields: Sequence[str]) -> str:
    more = [f"and {len(fields) - _FIELDS_SHOWN} more"] if len(fields) > _FIELDS_SHOWN else []
    return ", ".join([*fields[:_FIELDS_SHOWN], *more])


def _stored(run: Run, left: Left) -> list[str]:
    lines = []
    if run.series is not None:
        lines.append(f"  {run.tally.new:,} new and {run.tally.changed:,} changed since the incremental runs before")
    if run.days is not None and len(run.days.names) > 1:
        # Only the files that were written last are listed.
        lines.append(f"  {run.folder.path}  {len(run.days.names)} days, {number_of(run.tally.written, 'rows')}")
    lines += [
        f"  {file.path}  {number_of(file.rows, 'rows')}, {file.path.stat().st_size:,} bytes" for file in left.files
    ]
    lines += [f"  {printable(feed.uri)}  {number_of(feed.rows, 'rows')}" for feed in left.feeds]
    return lines


def how_to_finish(identity: Identity) -> str:
    """Return what to do about a run that was stopped."""
    if identity.job:
        return f"to finish it: schedule {identity.spider} again with jobid={identity.run_id}"
    words = ["crawl", identity.spider, "-a", f"run_id={identity.run_id}", *identity.places]
    return f"to finish it: {program()} {shlex.join(words)}"


def _ending(verdict: Verdict, *, truncated: bool) -> str:
    if not verdict.ended:
        return "STOPPED"
    if not verdict.complete:
        return "NOT COMPLETE"
    parts = ["complete", *(["cut at max_records"] if truncated else []), *(["DEGRADED"] if verdict.degraded else [])]
    return ", ".join(parts)
