"""Print the sources for dbt: every table and column that an export into PostgreSQL makes.

`PYTHONPATH=. python tools/dbt_sources.py > docs/dbt/sources.yml` after a change of the tables.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from parti_scraper.dataset.tables import all_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parti_scraper.dataset.tables import Column, Table

_HEAD = """\
# Sources for dbt: what `scrapy export postgresql://` makes. Copy it into the models of a dbt project.
# Made by tools/dbt_sources.py.
version: 2

sources:
  - name: parti
    schema: parti
    description: "Livestreams of parti.com, brought together by parti_scraper. All times are UTC."
    tables:"""
_TYPES = {
    "BIGINT": "bigint",
    "BOOLEAN": "boolean",
    "DOUBLE": "double precision",
    "TIMESTAMPTZ": "timestamptz",
    "VARCHAR": "text",
}


def sources() -> Iterator[str]:
    """Yield the lines of the file."""
    yield _HEAD
    for table in all_tables().values():
        yield from _of_table(table)


def _of_table(table: Table) -> Iterator[str]:
    key = ", ".join(table.key)
    yield f"      - name: {table.name}"
    yield f"        description: {_text(f'{table.description} Key: {key}.')}"
    yield "        columns:"
    for column in table.columns:
        yield from _of_column(column)


def _of_column(column: Column) -> Iterator[str]:
    yield f"          - name: {column.name}"
    yield f"            description: {_text(column.description)}"
    yield f"            data_type: {_TYPES[column.type]}"


def _text(text: str) -> str:
    """Return a text as YAML takes it, whatever is in it: as JSON."""
    return json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    print("\n".join(sources()))
