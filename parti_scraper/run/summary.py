"""What `scrapy crawl` says at the end: how it went, how many records of what, and where they are."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from parti_scraper.run.outcome import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from parti_scraper.api.quality import Quality
    from parti_scraper.extensions.recorder import RunRecorder
    from parti_scraper.run.outcome import Counts, Verdict
    from parti_scraper.spiders.base import PartiSpider

_CATEGORIES_SHOWN = 12
_FIELDS_SHOWN = 10
_REASONS_SHOWN = 5
# Characters of a field's name.
_LONGEST_NAME = 60


def printable(text: str) -> str:
    """Return the text without anything that would move a terminal's cursor or break the line."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def summarize(recorder: RunRecorder, verdict: Verdict, seconds: float) -> str:
    """Return the summary of a run, a few lines; of one that could not begin, its one line."""
    spider = recorder.spider
    if verdict.exit_code in {ExitCode.USAGE, ExitCode.NOT_STARTED}:
        return verdict.reason or ""
    begin = f"{spider.name} {spider.run_id}: "
    if recorder.finished_before:
        why = f", {_ending(verdict, truncated=False)}: {verdict.reason}" if verdict.reason else ""
        return printable(f"{begin}finished before{why}; nothing was requested; see {spider.run_dir}")
    if verdict.exit_code is ExitCode.INCOMPLETE and not verdict.ended:
        # It could not be stored, so there is nothing to count.
        hint = f"; {how_to_finish(spider)}" if spider.run_dir.is_dir() else ""
        return printable(f"{begin}NOT COMPLETE: {verdict.reason}{hint}")
    counts = recorder.counts()
    records = spider.collection.replace("_", " ")
    ending = _ending(verdict, truncated=spider.truncated)
    lines = [f"{begin}{ending}: {counts.written:,} {records} in {seconds:.1f} s"]
    ranking = recorder.records_by_category.most_common()
    if spider.name != "categories":
        lines += [f"  {number:>9,}  {printable(name)}" for name, number in ranking[:_CATEGORIES_SHOWN]]
        others = ranking[_CATEGORIES_SHOWN:]
        if others:
            lines.append(f"  {sum(number for _, number in others):>9,}  in other categories ({len(others)})")
    lines.append(
        f"  {counts.pages:,} pages, {counts.served:,} records served: {counts.written:,} written, "
        f"{counts.duplicate:,} duplicate, {counts.filtered:,} not asked for, {counts.quarantined:,} set aside"
        + (f", {counts.dropped:,} dropped by other pipelines" if counts.dropped else "")
    )
    lines += _set_aside(spider.quarantine_path, counts)
    lines += _fields(spider.quality)
    lines += _stored(recorder)
    lines += [f"  {printable(remark)}" for remark in spider.remarks()]
    if verdict.reason:
        lines.append(f"  {printable(verdict.reason)}")
    if not verdict.ended:
        lines.append(f"  {how_to_finish(spider)}")
    return "\n".join(lines)


def _set_aside(quarantine: Path, counts: Counts) -> list[str]:
    """Return the most frequent reasons for which records were set aside."""
    if not counts.quarantined:
        return []
    try:
        with quarantine.open("rb") as lines:
            reasons = Counter(json.loads(line)["reason"] for line in lines)
    except (OSError, ValueError):
        return []
    shown = reasons.most_common(_REASONS_SHOWN)
    return [f"  {number:>9,}  set aside: {printable(reason)}" for reason, number in shown]


def _fields(quality: Quality) -> list[str]:
    """Return which fields are new, cannot be read, or are gone."""
    lines = [
        f"  {what}: {_counted(names)}"
        for what, names in (("unknown fields", quality.unknown), ("unreadable fields", quality.unreadable))
        if names
    ]
    vanished = quality.vanished()
    return lines + [f"  fields that no record has any more: {', '.join(vanished)}"] * bool(vanished)


def _counted(names: Counter[str]) -> str:
    shown = [f"{printable(name[:_LONGEST_NAME])} ({number:,})" for name, number in names.most_common(_FIELDS_SHOWN)]
    more = [f"and {len(names) - _FIELDS_SHOWN} more"] if len(names) > _FIELDS_SHOWN else []
    return ", ".join(shown + more)


def _stored(recorder: RunRecorder) -> list[str]:
    lines = []
    if recorder.spider.series is not None:
        new, changed = recorder.versions()
        lines.append(f"  {new:,} new and {changed:,} changed since the incremental runs before")
    lines += [f"  {file.path}  {file.rows:,} rows, {file.path.stat().st_size:,} bytes" for file in recorder.files]
    lines += [f"  {printable(feed.uri)}  {feed.rows:,} rows" for feed in recorder.feeds]
    return lines


def how_to_finish(spider: PartiSpider) -> str:
    """Return what to do about a run that was stopped."""
    if spider.job:
        return f"to finish it: schedule {spider.name} again with jobid={spider.run_id}"
    return f"to finish it: scrapy crawl {spider.name} -a run_id={spider.run_id}"


def _ending(verdict: Verdict, *, truncated: bool) -> str:
    if not verdict.ended:
        return "STOPPED"
    if not verdict.complete:
        return "NOT COMPLETE"
    parts = ["complete", *(["cut at max_records"] if truncated else []), *(["DEGRADED"] if verdict.degraded else [])]
    return ", ".join(parts)
