"""What is promised from version 1.0.0 on is still there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.promises import COMMANDS, what_there_is
from tests.support import ROOT

PROMISED = json.loads((ROOT / "tests" / "golden" / "promises-1.json").read_text(encoding="utf-8"))


def missing(promised: Any, found: Any, where: str = "") -> list[str]:
    """Return what of a promise is not found."""
    if isinstance(promised, dict):
        absent = [f"{where}{name}" for name in promised.keys() - found.keys()]
        return absent + [
            each
            for name in promised.keys() & found.keys()
            for each in missing(promised[name], found[name], f"{where}{name}: ")
        ]
    if isinstance(promised, list):
        return [f"{where}{each}" for each in promised if each not in found]
    return [] if promised == found else [f"{where}{promised}"]


@pytest.mark.parametrize("what", PROMISED)
def test_nothing_is_missing_that_was_promised(what: str) -> None:
    assert missing(PROMISED[what], what_there_is()[what]) == []


def test_what_is_missing_is_found() -> None:
    promised = {"gone": [], "stays": ["a", "b"], "key": {"x": "1", "y": "2"}}
    found = {"stays": ["b", "c"], "key": {"x": "1", "y": "3"}, "new": []}
    assert sorted(missing(promised, found)) == ["gone", "key: y: 2", "stays: a"]


def test_the_document_promises_every_command() -> None:
    (row,) = re.findall(r"^\| commands \| (.+) \|$", (ROOT / "docs" / "data.md").read_text("utf-8"), re.MULTILINE)
    assert set(COMMANDS) <= set(re.findall(r"`(\w+)`", row))
