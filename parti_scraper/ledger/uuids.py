"""Who a run is that was begun before runs were given a `run_uuid`."""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid5


def run_uuid_of(spider: str, run_id: str, moment: str) -> str:
    """Return the `run_uuid` of a run that was given none: the same from its data package and from the ledger.

    Args:
        spider: the name of the spider.
        run_id: the name of the run.
        moment: `created` of its data package; where it has none, its start. ISO 8601, UTC, to the second.
    """
    return str(uuid5(NAMESPACE_URL, f"parti:{spider}/{run_id}/{moment}"))
