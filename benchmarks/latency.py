"""How well the waiting for a slow API is used: this project against the plain Scrapy spider of the tutorials.

Both crawl the same history from the bundled mock server, which answers each request after 50 ms, in pages of 100, with
up to 16 requests at a time; they take turns. The plain spider follows one offset after the other and writes the records
as they come. What counts is the ratio of their times in the same run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from parti_scraper.mockserver import MockServer, Options

LATENCY = 0.05
PAGE = 100
CONCURRENCY = 16
PLAIN = """
import scrapy

class Plain(scrapy.Spider):
    name = "plain"
    custom_settings = {"LOG_LEVEL": "ERROR", "CONCURRENT_REQUESTS_PER_DOMAIN": 16, "REMOTE_CONTROL_ENABLED": False}

    async def start(self):
        yield self.page(0)

    def page(self, offset):
        query = f"sort_by_date_desc=true&offset={offset}&limit=100"
        url = f"{self.base_url}/parti_v2/profile/get_livestream_channel_info/recent?{query}"
        return scrapy.Request(url, cb_kwargs={"offset": offset})

    def parse(self, response, offset):
        records = response.json()
        yield from records
        if records:
            yield self.page(offset + len(records))
"""


def main() -> None:
    """Run both in turns and print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, help="records to crawl (default 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    options = parser.parse_args()
    pages = -(-options.events // PAGE)
    times: dict[str, list[float]] = {"this project": [], "plain spider": []}
    with MockServer(Options(events=options.events, latency=LATENCY, speed=0)) as server:
        for _ in range(options.rounds):
            for name, seconds in times.items():
                seconds.append(_timed(name, server))
                print(f"{name:>14}  {seconds[-1]:6.2f} s", flush=True)
    ours, plain = (min(seconds) for seconds in times.values())
    print(
        f"{pages} pages of {PAGE}, {LATENCY * 1000:.0f} ms each, {CONCURRENCY} at a time, the best of {options.rounds}:"
    )
    print(f"  plain spider / this project: {plain / ours:.2f}")
    waiting = pages * LATENCY / CONCURRENCY
    print(f"  this project / (pages x latency / concurrency): {ours / waiting:.2f}, start-up included")


def _timed(name: str, server: MockServer) -> float:
    with tempfile.TemporaryDirectory() as folder:
        scrapy = [sys.executable, "-m", "scrapy"]
        if name == "this project":
            concurrency = [
                f"{setting}={CONCURRENCY}" for setting in ("CONCURRENT_REQUESTS", "CONCURRENT_REQUESTS_PER_DOMAIN")
            ]
            settings = [part for each in ["LOG_LEVEL=ERROR", *concurrency] for part in ("-s", each)]
            command = [*scrapy, "crawl", "recent", *settings]
        else:
            spider = Path(folder, "plain.py")
            spider.write_text(PLAIN, encoding="utf-8")
            outputs = [part for suffix in ("jsonl", "csv") for part in ("-O", f"{folder}/plain.{suffix}")]
            command = [*scrapy, "runspider", str(spider), "-a", f"base_url={server.base_url}", *outputs]
        environment = os.environ | {
            "PARTI_API_BASE_URLS": server.base_url,
            "PARTI_OUTPUT_DIR": folder,
            "PARTI_STATE_DIR": f"{folder}/state",
        }
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
