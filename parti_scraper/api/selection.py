"""The filters of a run, applied again to what the server sends: how that filters is not documented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from parti_scraper.api.routes import NAN
from parti_scraper.items import LiveChannel, Livestream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parti_scraper.api.categories import CategoryIndex


@dataclass(frozen=True, slots=True)
class Selection:
    """The filters that the client applies.

    Attributes:
        categories: numbers of the categories asked for; None: any.
        unknown_category: keep records whose category is unknown, since a category that was asked for has no name or is
            not in the categories route.
        since, until: first and last `event_end`, as ISO 8601; None: any.
        credible: first and last `event_end` that can be true; 0 or a year in the future cannot.
        user_id: the channel asked for; None: any.
    """

    categories: frozenset[int] | None = None
    unknown_category: bool = False
    since: str | None = None
    until: str | None = None
    user_id: int | None = None
    credible: tuple[str, str] | None = None

    def takes(self, item: Livestream | LiveChannel) -> bool:
        """Return whether the item was asked for; a field that is null never excludes it."""
        if self.user_id is not None and item.user_id not in {self.user_id, None}:
            return False
        if not self._takes_category(item.category_id):
            return False
        if not isinstance(item, Livestream) or item.event_end is None:
            return True
        # The texts have one format and length, so they sort as the times do.
        is_within = (self.since is None or self.since <= item.event_end) and (
            self.until is None or item.event_end <= self.until
        )
        return is_within or not self.is_credible(item.event_end)

    def is_credible(self, event_end: str) -> bool:
        """Return whether a livestream may have ended then."""
        return self.credible is None or self.credible[0] <= event_end <= self.credible[1]

    def _takes_category(self, category_id: int | None) -> bool:
        if self.categories is None:
            return True
        return self.unknown_category if category_id is None else category_id in self.categories


def select_categories(values: Sequence[str], index: CategoryIndex) -> tuple[frozenset[int] | None, bool]:
    """Return `categories` and `unknown_category` of a `Selection` from the values sent to the server.

    With NaN among them nothing is filtered, since it is not known what the server means by it.
    """
    if not values or NAN in values:
        return None, False
    ids = frozenset(int(value) for value in values)
    return ids, not all(index.has_name(category_id) for category_id in ids)
