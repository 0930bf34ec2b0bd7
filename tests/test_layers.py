"""The layers of docs/architecture.md: which folder may import from which."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "parti_scraper"
COMMANDS = [path.stem for path in (PACKAGE / "commands").glob("*.py")]

# A folder imports only from those before it; the files beside the folders come first, except for the settings.
FOLDERS = (
    "api",
    "plan",
    "ledger",
    "network",
    "run",
    "browser",
    "feeds",
    "spiders",
    "extensions",
    "dataset",
    "report",
    "operations",
    "jobs",
    "commands",
)
# Folders and modules without Scrapy, network, files and clock.
PURE = (
    "api",
    "plan",
    "exceptions",
    "items",
    "redact",
    "dataset.coverage",
    "network.addresses",
    "network.backoff",
    "network.fills",
    "network.hosts",
    "network.listener",
    "jobs.shards",
    "operations.content",
    "operations.endings",
    "operations.findings",
    "operations.health",
    "operations.prune",
    "operations.watched",
    "run.arguments",
    "run.outcome",
    "run.parsers",
)
FORBIDDEN = {"scrapy", "twisted", "aiohttp", "asyncio", "socket", "time", "os", "requests", "urllib.request"}


def layer_of(module: str) -> int:
    """Return the layer of a module of the package, from 0."""
    head = module.split(".", maxsplit=1)[0]
    return len(FOLDERS) if head == "settings" else FOLDERS.index(head) if head in FOLDERS else -1


def is_pure(module: str) -> bool:
    """Return whether a module is one of the pure ones, or in a folder of them."""
    return f"{module}.".startswith(tuple(f"{each}." for each in PURE))


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, also those for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            head = f"{node.module}." if node.module else ""
            found |= {node.module or ""} | {head + alias.name for alias in node.names}
    return found


def of_the_package(path: Path) -> set[str]:
    """Return the modules of the package that a file imports."""
    own = {name.removeprefix("parti_scraper.") for name in imports(path) if name.startswith("parti_scraper.")}
    return own & MODULES.keys()


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


OWN = {module: of_the_package(path) for module, path in MODULES.items()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_its_own_folder_and_those_before_it(module: str) -> None:
    if module.startswith(("mockserver.", "commands.")):
        return
    assert {name for name in OWN[module] if layer_of(name) > layer_of(module)} == set()


def test_there_are_no_import_cycles() -> None:
    left = {module: set(names) for module, names in OWN.items()}
    while free := {module for module, names in left.items() if not names & left.keys()}:
        left = {module: names for module, names in left.items() if module not in free}
    assert left == {}


@pytest.mark.parametrize("module", [each for each in sorted(MODULES) if is_pure(each)])
def test_the_pure_modules_use_no_scrapy_no_network_and_no_clock(module: str) -> None:
    found = imports(MODULES[module])
    assert {name for name in found if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN} == set()


def test_the_mock_server_imports_nothing_of_the_collector() -> None:
    for module, path in MODULES.items():
        if module.startswith("mockserver."):
            foreign = {name for name in imports(path) if name.startswith("parti_scraper.") and "mockserver" not in name}
            assert foreign == set(), module


def texts(path: Path) -> list[str]:
    """Return the texts of a file that are not docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A docstring is a statement.
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in described]
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_is_to_be_typed_begins_with_the_program_that_was_called(module: str) -> None:
    # In files that stay, the program of the documents is meant, in backticks.
    fixed = re.compile(r"(?<!`)\b(scrapy|parti) (" + "|".join(COMMANDS) + r")\b")
    assert [text for text in texts(MODULES[module]) if fixed.search(text)] == []


def test_no_test_file_imports_another_or_conftest() -> None:
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        parts = {part for name in imports(path) for part in name.split(".")}
        assert {part for part in parts if part.startswith("test_") or part == "conftest"} == set(), path
