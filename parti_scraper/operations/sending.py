"""Sends messages through Apprise: to every address at the same time, within a time limit, and without a word of it.

Addresses hold secrets, and Apprise and the libraries below it log them, so nothing of what they say is shown.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

from parti_scraper.dataset.engine import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Libraries that name addresses in their log, also in threads that are not waited for any longer.
_TALKATIVE = ("apprise", "requests", "urllib3", "charset_normalizer", "paho", "slixmpp", "markdown")
# Apprise's addresses that do something on this machine: show it on a screen that nobody looks at, or run a program.
_LOCAL = {"blink1", "dbus", "gio", "glib", "gnome", "kde", "macosx", "qt", "windows"}
_BETWEEN = re.compile(r"[\s,;]+")


class _Silent(logging.NullHandler):
    """Keeps a logger that passes nothing on from printing its warnings."""


def addresses_of(text: str) -> list[str]:
    """Return the addresses of a list, by Apprise's rules; what is no address is among them, to be counted as failed.

    Raises:
        ExtraMissing: Apprise is not installed.
    """
    parse: Any = require("apprise.utils.parse", "operations")
    found = []
    # Line by line, since an address with another word in the line below would not be found.
    for line in text.splitlines():
        end = 0
        for address in parse.parse_urls(line):
            begin = line.index(address, end)
            found += [*_BETWEEN.split(line[end:begin]), address.strip(" ,;\t")]
            end = begin + len(address)
        found += _BETWEEN.split(line[end:])
    return [each for each in found if each]


def send(addresses: Sequence[str], title: str, body: str, seconds: float) -> list[bool]:
    """Send a message to addresses, and return which of them have got it, within so many seconds.

    A server that does not answer is left behind: its thread ends with the process.
    """
    arrived = [False] * len(addresses)

    def deliver(place: int) -> None:
        # Whatever a plugin raises, and its text may hold the address.
        with contextlib.suppress(Exception):
            arrived[place] = _deliver(addresses[place], title, body)

    deadline = time.monotonic() + seconds
    with _silence():
        threads = [threading.Thread(target=deliver, args=(place,), daemon=True) for place in range(len(addresses))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))
    return list(arrived)


def _deliver(address: str, title: str, body: str) -> bool:
    apprise: Any = require("apprise", "operations")
    if address.partition(":")[0].lower() in _LOCAL:
        return False
    # In this thread, and with no limit of its own: Apprise would wait at the end of the process for threads of its own.
    # In memory: otherwise it keeps files, in which addresses and keys are.
    asset = apprise.AppriseAsset(
        app_id="parti_scraper",
        app_desc="parti_scraper",
        async_mode=False,
        interpret_emojis=False,
        pem_autogen=False,
        pgp_autogen=False,
        service_timeout=0,
        storage_mode="memory",
    )
    sender = apprise.Apprise(asset=asset)
    return bool(sender.add(address) and sender.notify(body=body, title=title, body_format=apprise.NotifyFormat.TEXT))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let nothing be logged within the context, and nothing by the libraries that send from now on."""
    for name in _TALKATIVE:
        talkative = logging.getLogger(name)
        talkative.propagate = False
        if not any(isinstance(each, _Silent) for each in talkative.handlers):
            talkative.addHandler(_Silent())
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
