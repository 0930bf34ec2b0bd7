"""Metrics of each spider's last run, in a file for node_exporter's textfile collector."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.dataset.engine import ExtraMissing, require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy.settings import BaseSettings

    from parti_scraper.run.context import Run

# What a run has counted, by the ends of the metrics' names, and what they are.
_COUNTED = {
    "records": "Records that the last run wrote.",
    "pages": "Pages of records that the last run got.",
    "quarantined": "Records that the last run set aside.",
    "retries": "Failures of the last run after which a request was sent again.",
    "rate_limited": "Answers of the last run with status 429.",
}
_SUCCESS = "parti_last_success_timestamp_seconds"
# For everyone to read, whatever the umask: node_exporter is another user.
_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is measured of a run. Moments are Unix seconds.

    Attributes:
        at: when it ended; of one that goes on, now.
        seconds: how long it took.
        exit_code: of `scrapy crawl`; None while it goes on.
        counts: as `counts_of` has them.
        complete, degraded: how it ended: whether everything is there, and whether most records lack a field.
        success: until when everything is known to be there; None: this run says nothing about that.
    """

    at: float
    seconds: float
    exit_code: int | None
    counts: Mapping[str, int] = field(default_factory=dict)
    complete: bool = False
    degraded: bool = False
    success: float | None = None


def counts_of(run: Run) -> dict[str, int]:
    """Return what a run has counted, by the ends of the metrics' names."""
    counts = run.counts()
    of_records = {"records": counts.written, "pages": counts.pages, "quarantined": counts.quarantined}
    return of_records | run.traffic.as_json()


def write_metrics(settings: BaseSettings, spider: str, metrics: Metrics) -> str | None:
    """Write the metrics of a spider, if PARTI_METRICS_DIR says where; return why that cannot be, None if it can."""
    if not settings["PARTI_METRICS_DIR"]:
        return None
    path = Path(settings["PARTI_METRICS_DIR"]) / f"parti_{spider}.prom"
    try:
        _write(path, spider, metrics)
    except ExtraMissing as missing:
        return str(missing)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None


def _write(path: Path, spider: str, metrics: Metrics) -> None:
    """Write the file, whole. Raises OSError, ExtraMissing."""
    client: Any = require("prometheus_client", "operations")
    registry = _registry(client, spider, metrics, _last_success(path, spider))
    # Of another name than `*.prom`, which would be read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        client.write_to_textfile(str(temporary), registry)
        temporary.chmod(_MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _registry(client: Any, spider: str, metrics: Metrics, before: float | None) -> Any:
    registry = client.CollectorRegistry()

    def add(name: str, text: str, value: float) -> None:
        client.Gauge(name, text, ["spider"], registry=registry).labels(spider).set(value)

    add("parti_last_run_timestamp_seconds", "When the last run ended; while it goes on, now.", metrics.at)
    add("parti_last_run_duration_seconds", "How long the last run took.", metrics.seconds)
    if metrics.exit_code is not None:
        add("parti_last_run_exit_code", "Exit code of the last run; missing while it goes on.", metrics.exit_code)
        add("parti_last_run_complete", "Whether the last run got everything; missing likewise.", metrics.complete)
        add("parti_last_run_degraded", "Whether most of its records lack a field; missing likewise.", metrics.degraded)
    for name, text in _COUNTED.items():
        add(f"parti_last_run_{name}", text, metrics.counts.get(name, 0))
    # A moment that is to come was noted by a clock that was wrong, and would hide that nothing succeeds.
    known = [each for each in (before, metrics.success) if each is not None and each <= metrics.at]
    if known:
        add(_SUCCESS, "Until when everything is known to be there.", max(known))
    return registry


def _last_success(path: Path, spider: str) -> float | None:
    """Return the last success by the file as it is; None if it is not there, damaged, or of something else."""
    parser: Any = require("prometheus_client.parser", "operations")
    # The parser raises errors of several kinds.
    with contextlib.suppress(Exception):
        for family in parser.text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for sample in family.samples:
                if sample.name == _SUCCESS and sample.labels.get("spider") == spider and math.isfinite(sample.value):
                    return float(sample.value)
    return None
