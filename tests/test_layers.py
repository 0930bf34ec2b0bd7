"""The layers of docs/architecture.md: a module imports only from its own layer or below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "parti_scraper"

# From the bottom: the pure core; Scrapy components; what is typed.
CORE = {
    "api",
    "arguments",
    "backoff",
    "drift",
    "exceptions",
    "identities",
    "hosts",
    "items",
    "listener",
    "normalize",
    "outcome",
    "paging",
    "parsing",
    "quality",
    "reading",
    "redact",
    "schedule",
    "selection",
}
FORBIDDEN_IN_CORE = {"scrapy", "twisted", "aiohttp", "asyncio", "socket", "time", "os", "requests", "urllib.request"}


def layer_of(module: str) -> int:
    """Return the layer of a module of the package, from 0."""
    head = module.split(".", maxsplit=1)[0]
    return 0 if head in CORE else 2 if head == "commands" else 1


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, those for type checking alone included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_from_its_own_layer_or_below(module: str) -> None:
    own = {
        name.removeprefix("parti_scraper.") for name in imports(MODULES[module]) if name.startswith("parti_scraper.")
    }
    own = {name for name in own if name.split(".")[0] in {known.split(".")[0] for known in MODULES}}
    assert {name for name in own if layer_of(name) > layer_of(module)} == set()


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_knows_no_scrapy_no_network_and_no_clock(module: str) -> None:
    found = imports(MODULES[module])
    assert {name for name in found if name in FORBIDDEN_IN_CORE or name.split(".")[0] in FORBIDDEN_IN_CORE} == set()


def test_the_mock_server_is_an_independent_reading_of_the_contract() -> None:
    for module, path in MODULES.items():
        if module.startswith("mockserver."):
            foreign = {name for name in imports(path) if name.startswith("parti_scraper.") and "mockserver" not in name}
            assert foreign == set(), module
