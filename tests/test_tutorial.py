"""docs/tutorial.md, typed as it is written, and compared with what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import openpyxl
import pytest

from parti_scraper.mockserver import MockServer, Options
from tests.cloned import Clone
from tests.support import ROOT

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# What is different each time, where it is shown, and what is printed instead.
CHANGING = re.compile(r"(?P<run>20\d{6}T\d{6}Z(?:-[0-9a-f]{10})?)|(?P<took>\bin [\d.]+ s\b)|(?P<left_out>…)")
LIKE = {"run": r"20\d{6}T\d{6}Z(?:-[0-9a-f]{10})?", "took": r"in [\d.]+ s", "left_out": ".*"}
MARK = "--- the next block ---"


class Step(NamedTuple):
    """What is typed, and what the page shows of what is printed then; None: nothing."""

    typed: str
    shown: str | None


def steps() -> list[Step]:
    """Return what is to be typed."""
    blocks = re.findall(r"^(<!-- not run: .+ -->\n)?```(\w+)\n((?:(?!```).*\n)*)```$", TUTORIAL, flags=re.MULTILINE)
    assert len(blocks) == TUTORIAL.count("```") / 2
    found: list[Step] = []
    for note, language, code in blocks:
        if language == "sh" and not note:
            found.append(Step(code, None))
        elif language == "text":
            assert found[-1].shown is None
            found[-1] = found[-1]._replace(shown=code)
        else:
            assert note or language == "crontab"
    return found


def pattern_of(shown: str) -> str:
    """Return a regular expression for what is shown: `…` is anything in a line, or any lines if it is all of one."""
    lines = ["(?:.*\n)*" if line == "…" else _line(line) + "\n" for line in shown.splitlines()]
    return "".join(lines)


def _line(text: str) -> str:
    parts, end = [], 0
    for match in CHANGING.finditer(text):
        parts += [re.escape(text[end : match.start()]), LIKE[match.lastgroup or ""]]
        end = match.end()
    return "".join((*parts, re.escape(text[end:])))


@pytest.fixture(scope="module")
def server() -> Iterator[MockServer]:
    """Return the server of the second terminal."""
    (started,) = re.findall(r"^\.venv/bin/parti mockserver --now (\S+)$", TUTORIAL, flags=re.MULTILINE)
    with MockServer(Options(now=started)) as server:
        yield server


def test_what_the_tutorial_types_works_and_prints_what_it_shows(tmp_path: Path, server: MockServer) -> None:
    clone = Clone(tmp_path / "clone", server)
    # In one shell, as on a terminal.
    script = "".join(f"echo '{MARK}'\n{step.typed}" for step in steps())
    done = clone.type(f"exec 2>&1\n{script}")
    assert done.returncode == 0, done.stdout
    _, *printed = done.stdout.split(f"{MARK}\n")
    for step, text in zip(steps(), printed, strict=True):
        if step.shown is not None:
            assert re.fullmatch(pattern_of(step.shown), text.rstrip("\n") + "\n"), f"{step.typed}\n{text}"
        else:
            assert text == "", step.typed
    made = clone.folder / "tutorial"
    assert (made / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert b"</html>" in (made / "report.html").read_bytes()
    sheet = openpyxl.load_workbook(made / "october.xlsx")["livestreams"]
    assert sheet.max_row == 1 + 52


def test_the_lines_for_cron_print_nothing_if_all_is_well(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```crontab\n(.*?)^```$", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
    setting, *lines = block.splitlines()
    with MockServer(Options(events=50, years=0.1)) as server:
        clone = Clone(tmp_path / "clone", server)
        (clone.folder / "output").mkdir()
        clone.environment.update([setting.split("=", 1)])
        for line in lines:
            command = re.sub(r"^(?:\S+ ){5} *", "", line).replace("/home/you/parti_scraper", str(clone.folder))
            done = clone.type(command)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), line
    assert (clone.folder / "dataset" / "datapackage.json").exists()
    assert (clone.folder / "output" / "health.txt").read_text(encoding="utf-8").startswith("healthy: recent good ")


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        ("a 1\n", "a 1\n", True),
        ("a 1\n", "a 2\n", False),
        ("a … c\n", "a b b c\n", True),
        ("a … c\n", "a\nc\n", False),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\n…\n", "b\na\n", False),
        ("run 20261128T083732Z-c1cef51d19 in 0.5 s\n", "run 20270101T000000Z-0123456789 in 12 s\n", True),
        ("run 20261128T083732Z-c1cef51d19: 52\n", "run 20270101T000000Z-0123456789: 53\n", False),
    ],
)
def test_what_is_shown_is_compared_but_for_what_changes(shown: str, printed: str, fits: bool) -> None:
    assert bool(re.fullmatch(pattern_of(shown), printed)) is fits
