"""The documents name everything that a user or a developer can name, and all that they name exists."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise

import pytest
from scrapy.settings import Settings, default_settings
from scrapy.spiderloader import SpiderLoader

from parti_scraper import settings
from parti_scraper.commands import export
from parti_scraper.dataset.tables import SCHEMA_VERSION, dataset_tables
from parti_scraper.dataset.targets.named import ACCEPTED
from parti_scraper.run.outcome import ExitCode
from parti_scraper.spiders import components
from tests.support import ROOT

PACKAGE = ROOT / "parti_scraper"
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}

_loader = SpiderLoader(Settings({"SPIDER_MODULES": settings.SPIDER_MODULES}))
SPIDERS = {name: _loader.load(name) for name in _loader.list()}
COMMANDS = [
    shlex.split(command) for command in re.findall(r"^(?:\S+=\S+ )?scrapy crawl .+$", README, flags=re.MULTILINE)
]


def table(text: str, header: str) -> dict[str, list[str]]:
    """Return the cells of each row, by the names in backticks in its first cell, of tables with this first header."""
    rows = {}
    for block in re.findall(rf"^\| {header} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        for line in block.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]) or cells[:1], cells)
    return rows


def test_the_readme_has_every_setting_of_the_project_and_no_other() -> None:
    own = {name for name in dir(settings) if name.startswith("PARTI_")}
    documented = table(README, "setting")
    assert own <= documented.keys()
    assert set(re.findall(r"PARTI_[A-Z_]+", README)) == own
    assert {name for name in documented if name not in own and not hasattr(default_settings, name)} == set()


def test_the_defaults_in_the_readme_are_the_settings() -> None:
    of_a_spider = Settings()
    of_a_spider.setmodule(settings)
    components.install(of_a_spider, is_run=True)
    for name, (_, default, *_) in table(README, "setting").items():
        if not name.startswith("PARTI_"):
            assert default == f"`{of_a_spider[name]}`", name


def test_the_readme_has_every_argument_of_every_spider_and_no_other() -> None:
    documented = table(README, "argument")
    expected: dict[str, set[str]] = {}
    for name, spider in SPIDERS.items():
        for argument, _ in spider.arguments_class.help():
            expected.setdefault(argument, set()).add(name)
    found = {
        argument: set(SPIDERS) if spiders == "all" else set(spiders.split(", "))
        for argument, (_, spiders, *_) in documented.items()
    }
    assert found == expected
    assert table(README, "spider").keys() == SPIDERS.keys()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_is_accepted(command: list[str]) -> None:
    spider = SPIDERS[command[command.index("crawl") + 1]]
    given = list(pairwise(command))
    spider.arguments_class.parse(dict(value.split("=", 1) for flag, value in given if flag == "-a"), spider.name, 2e9)
    names = {value.split("=", 1)[0] for flag, value in given if flag == "-s"}
    assert {name for name in names if not hasattr(settings, name) and not hasattr(default_settings, name)} == set()


def test_the_readme_has_every_exit_code_and_no_other() -> None:
    assert table(README, "code").keys() == {str(code.value) for code in ExitCode}


def test_the_documents_have_every_target_of_the_makefile_and_the_readme_no_other() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {
        text: set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)) for text in (README, ARCHITECTURE)
    }
    assert targets <= named[README] | named[ARCHITECTURE]
    assert named[README] <= targets


def test_the_architecture_has_a_paragraph_for_every_folder_and_no_other() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^- \*\*`(\w+)/`\*\*", ARCHITECTURE, flags=re.MULTILINE)) == folders


def test_the_architecture_has_every_stat_and_no_other() -> None:
    stats = {stat for path in MODULES.values() for stat in re.findall(r"[\"'](parti/[\w/]+)", path.read_text("utf-8"))}
    assert table(ARCHITECTURE, "stat").keys() == stats


def test_the_architecture_has_every_direct_dependency_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = sum(project["optional-dependencies"].values(), project["dependencies"])
    named = {re.match(r"`([\w-]+)`", cells[0])[1] for cells in table(ARCHITECTURE, "package").values()}
    assert named == {re.match(r"[\w-]+", requirement)[0] for requirement in required}


def test_the_readme_has_every_command_and_no_other() -> None:
    modules = (PACKAGE / "commands").glob("*.py")
    own = {path.stem for path in modules if "\nclass Command(" in path.read_text(encoding="utf-8")}
    assert {name.split()[1] for name in table(README, "command") if name.startswith("scrapy ")} == own


def test_the_tables_of_the_dataset_are_as_they_are_said_to_be() -> None:
    documented = {name: cells[1:] for name, cells in table(DATA, "table").items()}
    declared = {}
    for name, each in dataset_tables().items():
        added = ", ".join(f"`{column.name}`" for column in each.columns if column.is_added)
        partition = f"{each.partition} of `{each.time}`" if each.partition else ""
        declared[name] = [each.description, ", ".join(f"`{column}`" for column in each.key), added, partition]
    assert documented == declared
    assert table(DATA, "what")["the tables of the dataset"][2] == str(SCHEMA_VERSION)


def test_the_documents_have_every_option_and_target_of_an_export() -> None:
    parser = argparse.ArgumentParser()
    command = export.Command()
    command.settings = Settings()
    command.add_options(parser)
    (group,) = (group for group in parser._action_groups if group.title == "Export")
    options = {option for action in group._group_actions for option in action.option_strings}
    assert {option.split()[0] for option in table(DATA, "option")} == options
    targets = set(re.findall(r"FOLDER/|\.[a-z][a-z.]+|\w+://", ACCEPTED))
    assert {each for each in targets if each not in "".join(table(DATA, "target"))} == set()


def test_the_sources_for_dbt_are_made_of_the_tables() -> None:
    made = subprocess.run(
        [sys.executable, "tools/dbt_sources.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert (ROOT / "docs" / "dbt" / "sources.yml").read_text(encoding="utf-8") == made


DOCUMENTS = ["README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def anchors_of(text: str) -> set[str]:
    """Return the addresses of the sections of a document."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_sections_that_a_document_names_exist(document: str) -> None:
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target.read_text(encoding="utf-8")), link
    files = re.findall(r"[`=]((?:parti_scraper|docs|tests|tools|deploy)/[\w./-]+\w|[\w-]+\.(?:md|toml|txt))\b", text)
    assert {file for file in files if not (ROOT / file).exists()} == set()
