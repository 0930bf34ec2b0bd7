"""`parti` and `python -m parti_scraper`: the commands of `scrapy`, for this project, from any folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from parti_scraper.program import MODULE, PARTI, discard_output, program


def main() -> None:
    """Run the command that was typed."""
    try:
        _run()
    except KeyboardInterrupt:  # While modules are loaded; commands handle it themselves.
        sys.exit(3)  # `ExitCode.STOPPED`, of a later layer.


def _run() -> None:
    from scrapy import cmdline  # noqa: PLC0415 - it takes a second, in which there may be a Ctrl-C

    from parti_scraper.scrapy_internals import name_in_usage  # noqa: PLC0415 - likewise

    sys.argv[0] = MODULE if Path(sys.argv[0]).name == "__main__.py" else PARTI
    # The working folder may belong to another project, whose scrapy.cfg names other settings.
    os.environ["SCRAPY_SETTINGS_MODULE"] = "parti_scraper.settings"
    if sys.argv[1:] == ["--version"]:
        sys.argv[1:] = ["version"]
    if sys.argv[1:] == ["help"] or all(word.startswith("-") for word in sys.argv[1:]):
        try:
            print(_overview(), flush=True)
        except BrokenPipeError:
            discard_output()
        sys.exit()
    name_in_usage(program())
    cmdline.execute()


def _overview() -> str:
    """Return the list of commands, the project's own first."""
    from scrapy.utils.project import get_project_settings  # noqa: PLC0415 - see `_run`

    from parti_scraper.scrapy_internals import commands  # noqa: PLC0415 - likewise

    name = program()
    lines = [f"usage: {name} COMMAND ...", "", f"{name} COMMAND -h prints the help of a command."]
    known = sorted(commands(get_project_settings(), inproject=True).items())
    for title, is_own in (("Commands", True), ("Commands of Scrapy", False)):
        lines += ["", f"{title}:"]
        lines += [
            f"  {name:<13}{command.short_desc()}"
            for name, command in known
            if type(command).__module__.startswith("parti_scraper.") is is_own
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
