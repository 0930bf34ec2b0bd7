"""The comparison in the documents is the one that its benchmark prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import completeness
from tests.documents import section


def test_the_comparison_in_the_documents_has_the_rows_that_are_printed() -> None:
    lines = [line for line in section("docs/performance.md", "Compared with dlt").splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(completeness.ROWS)


def test_docstrings_comments_and_blank_lines_are_not_lines_of_code(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        '"""Two\n\nlines."""\n\n# Why.\nNAMES = [\n    "a",  # one\n]\n\n\ndef f():\n    """No code."""\n'
    )
    assert completeness.lines_of_code(script) == 4


@pytest.mark.parametrize(
    ("gone", "missing", "said"),
    [
        (set(), {1, 2}, "2 of 3"),
        ({1}, set(), "1 of 3"),
        ({1}, {2, 7}, "2 of 3, 1 wrongly"),
        (set(), None, "not yet"),
    ],
)
def test_deletions_are_noticed_if_rows_are_marked_or_gone(gone: set[int], missing: set[int] | None, said: str) -> None:
    assert completeness.noticed({1, 2, 3}, gone, missing) == said
