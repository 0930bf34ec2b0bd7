"""The spider `categories`: the list of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parti_scraper.items import Category
from parti_scraper.run.arguments import CategoriesArguments
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parti_scraper.api.pages import NormalizedPage


class CategoriesSpider(PartiSpider):
    """Collects the categories of livestreams."""

    name = "categories"
    arguments_class = CategoriesArguments
    item_class = Category
    collection = Category.collection

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        self.count(page)
        yield from page.items
        yield from page.rejected
