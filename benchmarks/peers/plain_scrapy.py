"""A spider as in Scrapy's tutorial: it follows the pages and yields the records unchanged."""

import scrapy


class RecentSpider(scrapy.Spider):
    """Follows one offset after the other."""

    name = "plain"
    custom_settings = {  # noqa: RUF012 - as the tutorial has it
        "LOG_LEVEL": "ERROR",
        "CONCURRENT_REQUESTS": 16,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
        "REMOTE_CONTROL_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
    }

    async def start(self):
        """Ask for the first page."""
        yield self.page(0)

    def page(self, offset):
        """Return the request for a page; `url` and `limit` are arguments of the spider."""
        return scrapy.Request(
            f"{self.url}&offset={offset}&limit={self.limit}",
            headers={"Accept": "application/json"},
            cb_kwargs={"offset": offset},
        )

    def parse(self, response, offset):
        """Yield the records, and ask for the next page."""
        records = response.json()
        yield from records
        if records:
            yield self.page(offset + len(records))
