"""Categories: how they are found by name, and parsed from arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parti_scraper.api.routes import NAN
from parti_scraper.api.times import UnparsableError
from parti_scraper.exceptions import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from parti_scraper.items import Category

# In place of names: every category of the route.
ALL = "all"


class CategoryIndex:
    """Finds a category's number by a name, ignoring case: first by `name`, then by `display_name`.

    Several categories have no `name` (reported), so an empty name finds nothing.
    """

    def __init__(self, categories: Iterable[Category] = ()) -> None:
        self.ids: list[int] = []
        self._by_name: dict[str, int] = {}
        by_display_name: dict[str, int] = {}
        spelled: list[str] = []
        self._named: set[int] = set()
        self._names: list[str] = []
        self._by_id: dict[int, str | None] = {}
        for category in categories:
            self.ids.append(category.category_id)
            spelled += filter(None, (category.name, category.display_name))
            self._names.append(category.name or category.display_name or str(category.category_id))
            self._by_id.setdefault(category.category_id, category.name or category.display_name)
            if category.name:
                self._named.add(category.category_id)
                self._by_name.setdefault(category.name.casefold(), category.category_id)
            if category.display_name:
                by_display_name.setdefault(category.display_name.casefold(), category.category_id)
        self._by_name = by_display_name | self._by_name
        # In their own case too, which is how most records have them.
        self._by_name |= {name: self._by_name[name.casefold()] for name in spelled}

    def find(self, name: str | None) -> int | None:
        """Return the number of the category of this name, or None."""
        if not name:
            return None
        category_id = self._by_name.get(name)
        return self._by_name.get(name.casefold()) if category_id is None else category_id

    def name_of(self, category_id: int | None) -> str | None:
        """Return the `name` of the category of this number, else its `display_name`, or None."""
        return None if category_id is None else self._by_id.get(category_id)

    def names(self) -> list[str]:
        """Return the names that `find` knows, in the order of the route."""
        return list(self._names)

    def has_name(self, category_id: int) -> bool:
        """Return whether records of this category can carry its name."""
        return category_id in self._named


def parse_categories(text: str, _now: float) -> tuple[str, ...]:
    """Split a comma-separated list of names or numbers; NaN is spelled as the site does. Raises UnparsableError."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UnparsableError("an empty name in the list" if len(names) > 1 else "an empty list")
    if ALL in names and len(names) > 1:
        raise UnparsableError(f"`{ALL}` with other names")
    return tuple(NAN if name.casefold() == NAN.casefold() else name for name in names)


def resolve_categories(names: Sequence[str], index: CategoryIndex) -> tuple[str, ...]:
    """Return the values of the `categories` parameter: ids as they are, names as ids, NaN; order and repeats kept.

    `all` gives every category of the route.

    Raises:
        UsageError: a name is not that of a category.
    """
    if tuple(names) == (ALL,):
        return tuple(map(str, index.ids))
    return tuple(_resolve(name, index) for name in names)


def unknown_ids(values: Sequence[str], index: CategoryIndex) -> list[str]:
    """Return the ids among the values that the categories route does not have."""
    return [value for value in values if value != NAN and int(value) not in index.ids]


def _resolve(name: str, index: CategoryIndex) -> str:
    if name == NAN:
        return name
    if name.isascii() and name.isdigit():
        return name.lstrip("0") or "0"
    category_id = index.find(name)
    if category_id is None:
        accepted, hint = ", ".join(index.names()), did_you_mean(name, index.names())
        raise UsageError.of("argument", "categories", "no such category", name, accepted, hint=hint)
    return str(category_id)
