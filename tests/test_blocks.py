"""Every block of commands in the documents is run as it is written, or says why not.

Those without a note are run here against the mock server, those of a document one after the other, in a folder that is
as a clone after `make setup`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from parti_scraper.mockserver import MockServer, Options
from tests.cloned import Clone
from tests.documents import DOCUMENTS, blocks_of, runs, whole_run_by

# What goes on until Ctrl-C, or for a day.
ENDLESS = re.compile(r"(?:scrapy|parti) (?:mockserver|crawl notifications(?!.*duration=)|.* duration=24h)")

# By document, the lines that are run here.
LINES = {
    document: [
        line for block in blocks_of(document) if block.is_typed and not block.note for line in block.code.splitlines()
    ]
    for document in DOCUMENTS
    if not whole_run_by(document)
}


@pytest.fixture(scope="module")
def server() -> Iterator[MockServer]:
    """Return a server with a history of some weeks, since most commands want the last days."""
    with MockServer(Options(events=400, years=0.15, live=20)) as server:
        yield server


@pytest.fixture
def clone(tmp_path: Path, server: MockServer) -> Clone:
    """Return a folder as after `make setup`."""
    return Clone(tmp_path / "clone", server)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_block_is_run_or_says_why_not(document: str) -> None:
    whole = whole_run_by(document)
    assert not whole or runs(whole, document)
    for block in blocks_of(document):
        # What nobody knows how to run would be passed over.
        assert block.language, block
        assert not block.note or block.is_not_run or runs(block.run_by, document), block


@pytest.mark.parametrize("document", [document for document, lines in LINES.items() if lines])
def test_the_blocks_of_a_document_work_as_they_are_written(document: str, clone: Clone) -> None:
    for line in LINES[document]:
        done = clone.type(line, is_endless=bool(ENDLESS.search(line)))
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_the_line_for_cron_prints_nothing_if_all_is_well(clone: Clone) -> None:
    (line,) = (block.code for block in blocks_of("docs/operations.md") if block.run_by == "tests/test_blocks.py")
    command = re.sub(r"^(?:\S+ ){5} *", "", line).replace("/srv/parti_scraper", str(clone.folder))
    (clone.folder / "output").mkdir()
    done = clone.type(command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(clone.folder.glob("output/recent/*/livestreams.csv"))
    failed = clone.type(command.replace("crawl recent", "crawl nothing"))
    assert (failed.returncode, failed.stdout.count("unknown spider"), failed.stderr) == (2, 1, "")
