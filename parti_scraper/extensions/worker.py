"""A thread for what would keep the event loop waiting for the disk."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


class Worker:
    """Does one thing at a time in a thread of its own, while the event loop goes on.

    A process that ends waits for it; one that is killed does not.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        """Prepare the thread, which is started with the first thing to do.

        Args:
            failed: is called on the event loop with the exception of what failed.
        """
        self._failed = failed
        self._executor = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None
        self._done: asyncio.Future[None] | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Begin to do something; what was begun before has been waited for, see `join` and `settle`."""
        assert self._work is None  # noqa: S101 - or what it raised might be lost
        self._work = self._executor.submit(work)
        self._done = asyncio.wrap_future(self._work)
        self._done.add_done_callback(self._report)

    async def join(self) -> None:
        """Wait until all is done, while the event loop goes on; raises once what it raised."""
        if self._work is not None and self._done is not None:
            await asyncio.wait({self._done})
        self.settle()

    def settle(self) -> None:
        """Wait until all is done, and let the event loop wait too; raises once what it raised."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """End the thread, once all is done."""
        self._executor.shutdown()

    def _report(self, work: asyncio.Future[None]) -> None:
        if (error := work.exception()) is not None:
            self._failed(error)
