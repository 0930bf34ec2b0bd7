"""A thread for work that would make the event loop wait for the disk."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


class Worker:
    """Does one thing at a time in a thread of its own, while the event loop continues.

    A process waits for it when it ends, unless it is killed.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        """Prepare the thread; `failed` is called on the event loop with an exception of the work."""
        self._failed = failed
        self._executor = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None
        self._done: asyncio.Future[None] | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Start some work; the work before must have been waited for, see `join` and `settle`."""
        assert self._work is None  # noqa: S101 - or its exception might be lost
        self._work = self._executor.submit(work)
        self._done = asyncio.wrap_future(self._work)
        self._done.add_done_callback(self._report)

    async def join(self) -> None:
        """Wait for the work while the event loop continues; raises its exception, once."""
        if self._work is not None and self._done is not None:
            await asyncio.wait({self._done})
        self.settle()

    def settle(self) -> None:
        """Wait for the work, and block the event loop; raises its exception, once."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """End the thread, after its work."""
        self._executor.shutdown()

    def _report(self, work: asyncio.Future[None]) -> None:
        if (error := work.exception()) is not None:
            self._failed(error)
