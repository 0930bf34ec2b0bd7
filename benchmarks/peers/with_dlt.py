"""dlt's REST API source with its offset paginator, into JSON Lines files."""

import os
import sys

import dlt
from dlt.sources.rest_api import rest_api_source

base_url, limit, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"
source = rest_api_source(
    {
        "client": {
            "base_url": f"{base_url}/parti_v2/profile/",
            "paginator": {"type": "offset", "limit": limit, "offset": 0, "total_path": None},
        },
        "resources": [
            {
                "name": "livestreams",
                "primary_key": "event_id",
                "endpoint": {
                    "path": "get_livestream_channel_info/recent",
                    "params": {"sort_by_date_desc": "true"},
                    "data_selector": "$",
                },
            }
        ],
    }
)
pipeline = dlt.pipeline(
    pipeline_name="livestreams",
    pipelines_dir=f"{folder}/pipelines",
    destination=dlt.destinations.filesystem(f"file://{folder}/data"),
    dataset_name="parti",
)
pipeline.run(source, loader_file_format="jsonl")
