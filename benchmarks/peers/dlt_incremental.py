"""Ended livestreams with dlt's REST API source, merged into DuckDB; each run fetches what is new.

Written as with its documentation, and with more care in three places:

- The window ends when the run starts, so that livestreams that end meanwhile do not move the pages.
- Pages go on by the records received: dlt's own paginator goes on by `limit`, also if the server sends fewer.
- Each run looks two days back for livestreams that were added late or changed, as the default of parti_scraper.

Requests that fail are sent again by dlt, with growing waits. Deleted livestreams stay: dlt's strategy `scd2` would
retire them, but only if each run fetched everything, and it would retire what a crawl has lost, too.
"""

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

import dlt
from dlt.sources.helpers.rest_client.paginators import OffsetPaginator
from dlt.sources.rest_api import rest_api_source

SITE_BEGAN = 1_627_948_800
TWO_DAYS = 2 * 86_400
ROUTE = "get_livestream_channel_info/recent"


class ReceivedOffset(OffsetPaginator):
    """Counts the records received, and stops at an empty page."""

    def update_state(self, response, data=None):
        self.value_step = len(data or ())
        super().update_state(response, data)


def readable(record):
    """Give the record times as times."""
    for name in ("event_start", "event_end"):
        seconds = record.get(f"{name}_ts")
        record[name] = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return record


def livestreams(base_url, limit):
    """Return the source: the livestreams that ended since the last run, minus two days."""
    return rest_api_source(
        {
            "client": {
                "base_url": f"{base_url}/parti_v2/profile/",
                "paginator": ReceivedOffset(limit=limit, total_path=None, stop_after_empty_page=True),
            },
            "resources": [
                {
                    "name": "livestreams",
                    "primary_key": "event_id",
                    "write_disposition": {"disposition": "merge", "strategy": "upsert"},
                    "columns": {
                        "event_id": {"data_type": "bigint", "nullable": False},
                        "total_viewers": {"data_type": "bigint"},
                        "event_start": {"data_type": "timestamp"},
                        "event_end": {"data_type": "timestamp"},
                    },
                    "processing_steps": [{"map": readable}],
                    "endpoint": {
                        "path": ROUTE,
                        "data_selector": "$",
                        "params": {"sort_by_date_desc": "true", "to_ts": int(time.time())},
                        "incremental": {
                            "cursor_path": "event_end_ts",
                            "start_param": "from_ts",
                            "initial_value": SITE_BEGAN,
                            "lag": TWO_DAYS,
                            "on_cursor_value_missing": "include",
                        },
                    },
                }
            ],
        }
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    dlt.config["runtime.dlthub_telemetry"] = False
    dlt.config["runtime.log_level"] = "WARNING"
    pipeline = dlt.pipeline(
        pipeline_name="livestreams",
        pipelines_dir=str(options.folder / "pipelines"),
        destination=dlt.destinations.duckdb(str(options.folder / "livestreams.duckdb")),
        dataset_name="parti",
    )
    # What a run that was killed has left is loaded first.
    if pipeline.has_pending_data:
        pipeline.run()
    print(pipeline.run(livestreams(options.base_url, options.limit)))


if __name__ == "__main__":
    main()
