"""`parti` and `python -m parti_scraper`: the commands of `scrapy`, for this project, from any folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.program import MODULE, PARTI, program

if TYPE_CHECKING:
    from scrapy.commands import ScrapyCommand


def main() -> None:
    """Run the command that was typed."""
    sys.argv[0] = MODULE if Path(sys.argv[0]).name == "__main__.py" else PARTI
    # Whatever scrapy.cfg is in the working folder, or above it: that of another project perhaps.
    os.environ["SCRAPY_SETTINGS_MODULE"] = "parti_scraper.settings"
    if sys.argv[1:] == ["--version"]:
        sys.argv[1:] = ["version"]
    # Not before the settings are named.
    from scrapy import cmdline  # noqa: PLC0415
    from scrapy.utils.project import get_project_settings  # noqa: PLC0415

    class Parser(cmdline.ScrapyArgumentParser):
        """Scrapy's parser of a command's options, whose usage names this program."""

        def __init__(self, *, usage: str, **options: Any) -> None:
            super().__init__(usage=usage.replace("scrapy", program(), 1), **options)

    cmdline.ScrapyArgumentParser = Parser  # type: ignore[misc, assignment]
    # As Scrapy finds the command; of a word that is none, `commands.unknown` says what to type.
    if all(word.startswith("-") for word in sys.argv[1:]):
        print(_overview(cmdline._get_commands_dict(get_project_settings(), inproject=True)))  # noqa: SLF001
        sys.exit()
    cmdline.execute()


def _overview(commands: dict[str, ScrapyCommand]) -> str:
    """Return what the commands are, the project's own first."""
    lines = [f"usage: {program()} COMMAND ...", "       of each command: -h; of the program: --version"]
    for title, is_own in (("Commands", True), ("Commands of Scrapy", False)):
        lines += ["", f"{title}:"]
        lines += [
            f"  {name:<13}{command.short_desc()}"
            for name, command in sorted(commands.items())
            if type(command).__module__.startswith("parti_scraper.") is is_own
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
