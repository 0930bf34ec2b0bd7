"""Data packages as the catalog reads them, those of earlier formats too: from bytes to entries. Pure.

Format 1 has no `format_version`, and less than format 2: what can be told from the rest is filled in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from parti_scraper.api import urls
from parti_scraper.run import datapackage
from parti_scraper.run.entries import (
    KINDS,
    Entry,
    File,
    Snapshot,
    Span,
    Status,
    Window,
    derived_uuid,
    kind_of_file,
)
from parti_scraper.run.outcome import ExitCode, judge_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

# The last one that this code reads.
FORMAT = 2
KILLED = "killed"
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DIGEST = "sha256:"
_NOT_A_LINE = re.compile(r"\s+")

_Number = Annotated[int, msgspec.Meta(ge=0)]


class _UnfitError(Exception):
    """A data package that says what cannot be."""


class _Resource(msgspec.Struct):
    path: str
    format: str = ""
    rows: _Number | None = None
    bytes: _Number | None = None
    hash: str = ""


class _Version(msgspec.Struct):
    format_version: Annotated[int, msgspec.Meta(ge=1)] = 1


class _Descriptor(_Version, kw_only=True):
    """What is read of a data package."""

    spider: str
    run_id: str
    created: str
    arguments: dict[str, Any]
    counts: dict[str, int]
    complete: bool
    resources: list[_Resource]
    host: str | None = None
    window: Window | None = None
    unknown_fields: dict[str, int] = {}
    unreadable_fields: dict[str, int] = {}
    degraded: tuple[str, ...] = ()
    truncated: bool = False
    reason: str | None = None
    # Since format 2:
    run_uuid: str | None = None
    source: str | None = None
    project_version: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    duration_seconds: float | None = None
    exit_code: int | None = None
    retries: _Number | None = None
    rate_limited: _Number | None = None
    day: str | None = None
    days: tuple[str, ...] = ()
    pruned: bool = False
    # They are not kept, and have to be right all the same.
    snapshots: list[Snapshot] = []
    listened: list[Span] = []


# What an entry has by the same name.
_SAME = [name for name in Entry.__struct_fields__ if name in _Descriptor.__struct_fields__]
_descriptors = msgspec.json.Decoder(_Descriptor)
_versions = msgspec.json.Decoder(_Version)
_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def entry_of(body: bytes, location: str, spider: str, name: str, day: str | None = None) -> Entry:
    """Return the entry that a data package makes, whatever its bytes are.

    Args:
        body: the data package.
        location: path of its folder.
        spider: the name of the folder that the run's is in.
        name: of the run's folder.
        day: of the day that the folder is of; None for a run's own.
    """
    known: dict[str, Any] = {"spider": spider, "run_id": name, "day": day}
    try:
        version = _versions.decode(body).format_version
        if version > FORMAT:
            reason = f"made by a later version of this project (format {version}, this one reads up to {FORMAT})"
            return Entry(location, Status.TOO_NEW, reason, format_version=version, **known)
        descriptor = _descriptors.decode(body)
        _check(descriptor, spider, day)
        return _entry(descriptor, location)
    except (*_ERRORS, _UnfitError) as error:
        return unreadable(location, f"{datapackage.FILE_NAME}: {one_line(error)}", known)


def unreadable(location: str, reason: str, known: Mapping[str, Any]) -> Entry:
    """Return the entry of what cannot be read."""
    return Entry(location, Status.UNREADABLE, reason, **known)


def one_line(error: Exception) -> str:
    """Return the text of an error as one line that can be stored."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _NOT_A_LINE.sub(" ", text).encode("utf-8", "replace").decode() or type(error).__name__


def _check(descriptor: _Descriptor, spider: str, day: str | None) -> None:
    """Raise _UnfitError where a data package cannot be of this folder, or names files outside of it."""
    if descriptor.spider != spider:
        raise _UnfitError(f"it is of the spider {descriptor.spider!r}")
    if descriptor.day != day:
        raise _UnfitError(f"it is of the day {descriptor.day!r}")
    if not all(map(DAY.fullmatch, descriptor.days)) or len(set(descriptor.days)) < len(descriptor.days):
        raise _UnfitError("its `days` are no days")
    packages = {f"{each}/{datapackage.FILE_NAME}" for each in descriptor.days}
    for resource in descriptor.resources:
        path = resource.path
        if path not in packages and ("/" in path or "\0" in path or path in {"", ".", ".."}):
            raise _UnfitError(f"it names the file {path!r}, which is not in its folder")


def _entry(descriptor: _Descriptor, location: str) -> Entry:
    each = descriptor
    is_old = each.format_version == 1
    as_it_is = {name: getattr(each, name) for name in _SAME}
    return Entry(
        location,
        _status(each),
        **as_it_is
        | {
            "days": tuple(sorted(each.days)),
            "run_uuid": each.run_uuid or derived_uuid(each.spider, each.run_id, each.created),
            "version": each.project_version,
            "source": each.source or source_of(each.host),
            "ended_at": each.ended_at or each.created,
            "exit_code": _exit_code_of_format_1(each) if is_old else each.exit_code,
            "files": _files(each),
        },
    )


def _status(descriptor: _Descriptor) -> Status:
    """Tell whether it was sealed. A day that was over before its run was killed was not."""
    if descriptor.format_version == 1:
        return Status.FINISHED
    was_killed = descriptor.exit_code is None and descriptor.reason == KILLED
    was_stopped = descriptor.exit_code == ExitCode.STOPPED
    return Status.SEALED if was_killed or was_stopped else Status.FINISHED


def _exit_code_of_format_1(descriptor: _Descriptor) -> int:
    """Return it: who was stopped left no data package."""
    return int(judge_fields(list(descriptor.degraded)).exit_code if descriptor.complete else ExitCode.INCOMPLETE)


def _files(descriptor: _Descriptor) -> tuple[File, ...]:
    """Return the files, but for the data packages of the days."""
    collection = KINDS[descriptor.spider].collection
    return tuple(
        File(
            each.path,
            each.format,
            kind_of_file(each.path, collection),
            each.rows,
            each.bytes,
            each.hash.removeprefix(_DIGEST) if each.hash.startswith(_DIGEST) else None,
        )
        for each in descriptor.resources
        if "/" not in each.path
    )


def source_of(host: str | None) -> str:
    """Return where records of a host are from, as far as its address tells."""
    try:
        return "mock" if host and urls.is_loopback(host) else "parti.com"
    except ValueError:  # It is no address.
        return "parti.com"
