"""Components as users write them, most of them broken; the tests name them in settings."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import IO, Any


class FailingMiddleware:
    """A spider middleware that fails after the output of a callback."""

    async def process_spider_output(self, response: Any, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for each in result:
            yield each
        raise RuntimeError("the middleware fails")


class FailingPipeline:
    """A pipeline that fails on every record."""

    def process_item(self, item: Any) -> Any:
        raise RuntimeError("the pipeline fails")


class UnclosablePipeline:
    """A pipeline that cannot save what it was given."""

    def process_item(self, item: Any) -> Any:
        return item

    def close_spider(self) -> None:
        raise RuntimeError("the pipeline cannot be closed")


class FailingFilter:
    """An item filter that fails on every record."""

    def __init__(self, feed_options: dict[str, Any] | None) -> None: ...

    def accepts(self, item: Any) -> bool:
        raise RuntimeError("the filter fails")


class EvenFilter:
    """An item filter that takes livestreams of even numbers."""

    def __init__(self, feed_options: dict[str, Any] | None) -> None: ...

    def accepts(self, item: Any) -> bool:
        return bool(item.event_id % 2 == 0)


class FarStorage:
    """A feed storage on another host, as far as anybody can tell."""

    def __init__(self, uri: str, *, feed_options: dict[str, Any] | None = None) -> None: ...

    def open(self, spider: Any) -> IO[bytes]:
        return io.BytesIO()

    def store(self, file: IO[bytes]) -> None: ...
