"""The documents, and the blocks of commands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT

# From the project's folder.
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"(?:^ *<!-- (.+) -->\n)?^( *)```(\w*)\n((?:.*\n)*?)\2```$", flags=re.MULTILINE)
_SHELLS = {"sh", "bash", "shell", "console"}


class Block(NamedTuple):
    """A block of a document.

    Attributes:
        language: its name after the backticks.
        code: without the indent.
        note: the HTML comment in the line above; empty if there is none.
    """

    language: str
    code: str
    note: str

    @property
    def is_typed(self) -> bool:
        """Whether it is commands for a shell."""
        return self.language in _SHELLS

    @property
    def run_by(self) -> str:
        """The test that runs it, as its note says; empty if it does not."""
        return self.note.partition("run by ")[2] if self.note.startswith("run by ") else ""

    @property
    def is_not_run(self) -> bool:
        """Whether its note says why no test runs it."""
        return bool(re.match(r"not run: \S", self.note))


def read(document: str) -> str:
    """Return the text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks_of(document: str) -> list[Block]:
    """Return the blocks of a document, in its order."""
    return [
        Block(language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE), note)
        for note, indent, language, code in _BLOCK.findall(read(document))
    ]


def section(document: str, title: str) -> str:
    """Return the text of a section, up to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", read(document), flags=re.MULTILINE)
    assert found, title
    rest = read(document)[found.end() :]
    return re.split(rf"^#{{1,{len(found[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str, header: str) -> dict[str, list[str]]:
    """Return the cells of each row, by the names in backticks in its first cell, of tables with this first header."""
    rows = {}
    for block in re.findall(rf"^\| {header} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        for line in block.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]) or cells[:1], cells)
    return rows


def whole_run_by(document: str) -> str:
    """Return the test that runs all blocks of a document, as its first line says; empty if it does not."""
    found = re.match(r"<!-- blocks run by (\S+) -->\n", read(document))
    return found[1] if found else ""


def runs(test: str, document: str) -> bool:
    """Return whether a test exists and names the document that it is said to run."""
    path = ROOT / test
    return path.is_file() and Path(document).name in path.read_text(encoding="utf-8")
