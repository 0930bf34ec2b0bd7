"""crawlee's HTTP crawler: it pushes the records of each page to a dataset, and exports it as JSON at the end."""

import asyncio
import json
import sys

from crawlee import ConcurrencySettings
from crawlee.crawlers import HttpCrawler, HttpCrawlingContext
from crawlee.storage_clients import MemoryStorageClient

url, limit, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]


async def main() -> None:
    """Crawl all pages."""
    crawler = HttpCrawler(
        storage_client=MemoryStorageClient(),
        concurrency_settings=ConcurrencySettings(desired_concurrency=16, max_concurrency=16),
        configure_logging=False,
    )

    @crawler.router.default_handler
    async def handle(context: HttpCrawlingContext) -> None:
        records = json.loads(await context.http_response.read())
        if records:
            await context.push_data(records)
            offset = int(context.request.url.rpartition("=")[2]) + len(records)
            await context.add_requests([f"{url}&limit={limit}&offset={offset}"])

    await crawler.run([f"{url}&limit={limit}&offset=0"])
    await crawler.export_data(f"{folder}/livestreams.json")


asyncio.run(main())
