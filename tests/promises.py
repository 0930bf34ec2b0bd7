"""What docs/data.md promises to stay, as it is now: `python -m tests.promises` prints it, for `tests/golden/`."""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

from scrapy.settings import Settings

from parti_scraper import settings
from parti_scraper.dataset.tables import dataset_tables
from parti_scraper.run.outcome import ExitCode
from tests.usage_errors import SPIDERS

COMMANDS = (
    "coverage",
    "crawl",
    "export",
    "health",
    "jobs",
    "mockserver",
    "prune",
    "report",
    "runs",
    "spiders",
    "version",
)


def options_of(name: str) -> set[str]:
    """Return the options of a command that are the project's, or Scrapy's for all commands."""
    command = importlib.import_module(f"parti_scraper.commands.{name}").Command()
    command.settings = Settings()
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command.add_options(parser)
    return {option for action in parser._actions for option in action.option_strings}


def what_there_is() -> dict[str, Any]:
    """Return lists of names: commands with their options, arguments of spiders, settings, exit codes, and tables."""
    return {
        "commands": {name: sorted(options_of(name)) for name in COMMANDS},
        "spiders": {name: sorted(name for name, _ in arguments.help()) for name, arguments in SPIDERS.items()},
        "settings": sorted(name for name in dir(settings) if name.startswith("PARTI_")),
        "exit_codes": sorted(f"{code.value} {code.name}" for code in ExitCode),
        "columns": {
            name: [f"{column.name} {column.type}" for column in each.columns] for name, each in dataset_tables().items()
        },
        "keys": {name: ", ".join(each.key) for name, each in dataset_tables().items()},
    }


if __name__ == "__main__":
    print(json.dumps(what_there_is(), indent=1))
