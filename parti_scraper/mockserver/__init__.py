"""A mock of the undocumented API of parti.com on loopback: a deterministic world, and every open question a switch.

It is an independent reading of the API's description and shares no code with the collector on purpose.
"""

from parti_scraper.mockserver.app import ReceivedRequest
from parti_scraper.mockserver.options import Options
from parti_scraper.mockserver.server import MockServer
from parti_scraper.mockserver.sockets import SentNotification
from parti_scraper.mockserver.world import World

__all__ = ["MockServer", "Options", "ReceivedRequest", "SentNotification", "World"]
