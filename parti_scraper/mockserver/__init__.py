"""A mock of the undocumented API of parti.com on loopback: a deterministic world, with a switch for each open question.

It is written from the API's description, and on purpose shares no code with the collector.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parti_scraper.mockserver.options import Options

if TYPE_CHECKING:
    from parti_scraper.mockserver.app import ReceivedRequest
    from parti_scraper.mockserver.server import MockServer
    from parti_scraper.mockserver.sockets import SentNotification
    from parti_scraper.mockserver.world import World

__all__ = ["MockServer", "Options", "ReceivedRequest", "SentNotification", "World"]

# Imported when first asked for: every `scrapy` command imports this package.
_SERVING = {"MockServer": "server", "ReceivedRequest": "app", "SentNotification": "sockets", "World": "world"}


def __getattr__(name: str) -> Any:
    if name not in _SERVING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SERVING[name]}"), name)
