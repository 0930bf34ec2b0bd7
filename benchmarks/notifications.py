"""How many notifications a second are written: this project against a bare listener of a few lines.

The bundled mock server sends 20,000 notifications at once. The two listeners run in turn; the bare one only parses
each message and writes it as a line of JSON: no checks, no CSV, no ledger. Compare their times in the same run; peak
memory must not grow with the burst.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from parti_scraper.api import routes
from parti_scraper.mockserver import MockServer, Options

BARE = """
import asyncio, json, sys
import aiohttp

async def main(url, path):
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.send_str(sys.argv[3])
        with open(path, "w", buffering=1) as file:
            async for message in socket:
                file.write(json.dumps(json.loads(message.data)) + "\\n")

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def main() -> None:
    """Run both in turn and print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="messages in a burst (default 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="bursts for each (default 3)")
    options = parser.parse_args()
    best: dict[str, tuple[float, int]] = {}
    for _ in range(options.rounds):
        for name in ("this project", "bare listener"):
            seconds, memory = _burst(name, options.messages)
            best[name] = min(best.get(name, (seconds, memory)), (seconds, memory))
            rate = options.messages / seconds
            print(f"{name:>14}  {seconds:6.2f} s  {rate:8,.0f} messages/s  {memory:4} MiB at most", flush=True)
    _, small = _burst("this project", options.messages // 10)
    print(f"{options.messages:,} messages at once, best of {options.rounds}:")
    print(f"  this project / bare listener: {best['this project'][0] / best['bare listener'][0]:.2f}")
    print(f"  memory of this project with a tenth of the burst: {small} MiB, with all: {best['this project'][1]} MiB")


def _burst(name: str, messages: int) -> tuple[float, int]:
    """Return the seconds from the first notification to the last line, and the peak memory in MiB."""
    with MockServer(Options(events=10, live=60, speed=0)) as server, tempfile.TemporaryDirectory() as folder:
        if name == "this project":
            command = [sys.executable, "-m", "scrapy", "crawl", "notifications", "-a", "run_id=burst", "--nolog"]
            pattern = "notifications/burst/*.jsonl"
        else:
            command = [sys.executable, "-c", BARE, server.ws_url, f"{folder}/bare.jsonl", routes.SUBSCRIBE]
            pattern = "bare.jsonl"
        environment = os.environ | {
            "PARTI_API_BASE_URLS": server.base_url,
            "PARTI_WS_URL": server.ws_url,
            "PARTI_OUTPUT_DIR": folder,
            "PARTI_STATE_DIR": f"{folder}/state",
        }
        listener = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        server.world.advance(1)
        while not (paths := list(Path(folder).glob(pattern))) or (name == "this project" and not _lines(paths[0])):
            time.sleep(0.05)
        time.sleep(1)  # until the bare listener has subscribed, which nothing shows
        world, before = server.world, _lines(paths[0])
        begun = world.started_count()
        began = time.perf_counter()
        while world.started_count() - begun < messages:
            world.advance(1_000)
        announced = world.started_count() - begun
        while _lines(paths[0]) - before < announced:
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        status = Path(f"/proc/{listener.pid}/status").read_text(encoding="utf-8")
        listener.terminate()
        listener.wait()
    return seconds, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


if __name__ == "__main__":
    main()
