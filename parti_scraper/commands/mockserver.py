"""`scrapy mockserver`: the mock of the Parti API on loopback, until it is stopped."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
import threading
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from parti_scraper import mockserver
from parti_scraper.commands import report_in_one_line
from parti_scraper.exceptions import did_you_mean
from parti_scraper.mockserver.options import Flag, OptionError, Options, refuse, switches
from parti_scraper.program import program
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from parti_scraper.mockserver import MockServer

_DEFAULT_PORT = 8765


class Command(ScrapyCommand):
    """Serves the mock of the API; its switches are the fields of `Options`."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        return "[--port N] [switches]"

    def short_desc(self) -> str:
        return "Serve a mock of the Parti API on this machine"

    def long_desc(self) -> str:
        return (
            "Serve a mock of the Parti API on 127.0.0.1, for demonstrations, tests and development. The data are made "
            "up, and the same for the same --seed and --now. Every open question of the API is a switch."
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        # Scrapy's own underlines a line of help that ends with a colon, as a heading.
        parser.formatter_class = argparse.HelpFormatter
        # A switch whose name is cut off may be a slip for another one.
        parser.allow_abbrev = False
        report_in_one_line(parser, "mockserver")
        group = parser.add_argument_group(title="Mock server")
        group.add_argument("--port", metavar="N", help=f"port on 127.0.0.1; 0: any free one (default: {_DEFAULT_PORT})")
        for switch in switches():
            # The values stay texts here: `Options` parses them and reports errors.
            if isinstance(switch.kind, Flag):
                group.add_argument(f"--{switch.name}", action="store_true", default=None, help=switch.explanation)
            else:
                default = f" (default: {switch.default})" if switch.default != "" else ""
                metavar = switch.kind.metavar
                group.add_argument(f"--{switch.name}", metavar=metavar, help=switch.explanation + default)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if args:
            known = ["--port", *(f"--{switch.name}" for switch in switches())]
            hint = did_you_mean(args[0].partition("=")[0], known)
            raise UsageError(f"unknown switch or argument: {' '.join(args)}{hint}", print_help=False)
        try:
            port = _port(opts.port)
            options = Options.parse(
                {switch.field: text for switch in switches() if (text := getattr(opts, switch.field)) is not None}
            )
        except OptionError as error:
            raise UsageError(f"{error}{did_you_mean(error.value, error.choices)}", print_help=False) from None
        self.exitcode = serve(options, port)


def serve(options: Options, port: int) -> int:
    """Serve until a signal comes. Returns the exit code."""
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    # This imports aiohttp, which Scrapy must not load just to list the commands.
    server = mockserver.MockServer(options, port=port)
    try:
        server.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} is in use: stop what uses it, or choose another with --port (0: any free one)"
        else:
            text = f"port {port} cannot be used: {error.strerror}; choose another with --port (0: any free one)"
        print(f"{program()} mockserver: {text}", file=sys.stderr)
        return 1
    try:
        print(_greeting(server, options), flush=True)
        stop.wait()
    finally:
        server.stop()
    return 0


def _port(text: str | None) -> int:
    if text is None:
        return _DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65_535):
        refuse("port", "not a port", text, "0 to 65535")
    return int(text)


def _greeting(server: MockServer, options: Options) -> str:
    return (
        f"Parti API mock server: {server.base_url}  (seed {options.seed}, "
        f"{number_of(options.events, 'ended livestreams')}, {options.live} live; stop with Ctrl-C)\n"
        f"Use it: PARTI_API_BASE_URLS={server.base_url} PARTI_WS_URL={server.ws_url} "
        f"PARTI_SITE_URL={server.base_url} {program()} crawl recent"
    )
