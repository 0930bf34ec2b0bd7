"""The thread of the checkpoints, and the files that it syncs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.extensions.worker import Worker
from parti_scraper.feeds.disk import FlushedFiles

Play = Callable[[Worker], Awaitable[Any]]


def played(play: Play) -> list[BaseException]:
    """Run a function with a worker on an event loop; return the reported failures at the end."""
    failures: list[BaseException] = []

    async def main() -> None:
        worker = Worker(failures.append)
        try:
            await play(worker)
            # Reports on the event loop have arrived by now.
            await asyncio.sleep(0.01)
        finally:
            worker.close()

    asyncio.run(main())
    return failures


def open_files() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def fail() -> None:
    """Fail as a disk does."""
    raise OSError("full")


def test_the_event_loop_continues_during_a_job() -> None:
    async def play(worker: Worker) -> None:
        go_on = threading.Event()
        threads: list[int] = []

        def work() -> None:
            threads.append(threading.get_ident())
            go_on.wait()

        worker.begin(work)
        waiting = asyncio.ensure_future(worker.join())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        go_on.set()
        await waiting
        assert threads != [threading.get_ident()]

    assert played(play) == []


@pytest.mark.parametrize("blocks", [True, False])
def test_a_failure_is_reported_and_raised_once(blocks: bool) -> None:
    async def wait(worker: Worker) -> None:
        if blocks:
            worker.settle()
        else:
            await worker.join()

    async def play(worker: Worker) -> None:
        worker.begin(fail)
        with pytest.raises(OSError, match="full"):
            await wait(worker)
        await wait(worker)
        worker.begin(lambda: None)
        await wait(worker)

    assert list(map(str, played(play))) == ["full"]


def test_a_failure_without_a_waiter_is_reported() -> None:
    async def play(worker: Worker) -> None:
        worker.begin(fail)
        await asyncio.sleep(0.05)

    assert list(map(str, played(play))) == ["full"]


def test_a_job_continues_if_its_waiter_is_cancelled() -> None:
    async def play(worker: Worker) -> None:
        go_on, done = threading.Event(), threading.Event()
        worker.begin(lambda: go_on.wait() and done.set())
        waiting = asyncio.ensure_future(worker.join())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        worker.settle()
        assert done.is_set()

    assert played(play) == []


def test_a_file_that_is_closed_before_its_sync_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    path = tmp_path / "file"
    before = open_files()
    flushed = FlushedFiles()
    with path.open("wb") as file:
        file.write(b"line\n")
        file.flush()
        flushed.add_open(file)
    flushed.note({"file": (5, 1)})
    # It gets the number that is now free.
    with (tmp_path / "other").open("wb"):
        flushed.sync()
    assert synced == [path.stat().st_ino]
    assert flushed.sizes == {"file": (5, 1)}
    assert open_files() == before


def test_a_disk_that_fails_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: fail())
    before = open_files()
    flushed = FlushedFiles()
    for name in ("one", "two"):
        with (tmp_path / name).open("wb") as file:
            flushed.add_open(file)
    with pytest.raises(OSError, match="full"):
        flushed.sync()
    assert open_files() == before
