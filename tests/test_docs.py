"""The documents name everything that a user or a developer can name, and all that they name exists."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise

import pytest
from scrapy.commands import ScrapyCommand
from scrapy.settings import Settings, default_settings
from scrapy.spiderloader import SpiderLoader

from parti_scraper import settings
from parti_scraper.api import routes
from parti_scraper.api.registry import SOURCES
from parti_scraper.dataset.tables import SCHEMA_VERSION, dataset_tables
from parti_scraper.dataset.targets.named import ACCEPTED
from parti_scraper.mockserver.options import Flag, switches
from parti_scraper.run.outcome import ExitCode
from parti_scraper.spiders import components
from tests.documents import DOCUMENTS, blocks_of, read, section, table
from tests.support import ROOT

PACKAGE = ROOT / "parti_scraper"
COMMANDS = read("docs/commands.md")
ARCHITECTURE = read("docs/architecture.md")
DATA = read("docs/data.md")
TROUBLESHOOTING = read("docs/troubleshooting.md")
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}

_loader = SpiderLoader(Settings({"SPIDER_MODULES": settings.SPIDER_MODULES}))
SPIDERS = {name: _loader.load(name) for name in _loader.list()}
CRAWLS = [
    shlex.split(command, comments=True)
    for document in DOCUMENTS
    for block in blocks_of(document)
    if block.is_typed
    for command in re.findall(r"^(?:\S+=\S+ )?\S*(?:scrapy|parti) crawl [^|&\n]+", block.code, flags=re.MULTILINE)
]


def commands() -> dict[str, ScrapyCommand]:
    """Return the project's own commands."""
    modules = {path.stem: path.read_text(encoding="utf-8") for path in (PACKAGE / "commands").glob("*.py")}
    own = {}
    for name in (name for name, code in modules.items() if "\nclass Command(" in code):
        own[name] = importlib.import_module(f"parti_scraper.commands.{name}").Command()
        own[name].settings = Settings()
    return own


class Nothing(ScrapyCommand):
    """A command without options of its own."""

    def short_desc(self) -> str:
        return "Do nothing"

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Do nothing."""


def options_of(command: ScrapyCommand) -> set[str]:
    """Return the options that a command's parser takes."""
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_the_documents_have_every_setting_of_the_project_and_no_other() -> None:
    own = {name for name in dir(settings) if name.startswith("PARTI_")}
    documented = table(COMMANDS, "setting")
    assert own <= documented.keys()
    for document in DOCUMENTS:
        assert set(re.findall(r"\bPARTI_(?!TEST_)[A-Z_]+\b", read(document))) <= own, document
    assert {name for name in documented if name not in own and not hasattr(default_settings, name)} == set()


def test_the_defaults_in_the_documents_are_the_settings() -> None:
    of_a_spider = Settings()
    of_a_spider.setmodule(settings)
    components.install(of_a_spider, is_run=True)
    for name, (_, default, *_) in table(COMMANDS, "setting").items():
        if not name.startswith("PARTI_"):
            assert default == f"`{of_a_spider[name]}`", name


def test_the_documents_have_every_argument_of_every_spider_and_no_other() -> None:
    documented = table(COMMANDS, "argument")
    expected: dict[str, set[str]] = {}
    for name, spider in SPIDERS.items():
        for argument, _ in spider.arguments_class.help():
            expected.setdefault(argument, set()).add(name)
    found = {
        argument: set(SPIDERS) if spiders == "all" else set(spiders.split(", "))
        for argument, (_, spiders, *_) in documented.items()
    }
    assert found == expected
    assert table(COMMANDS, "spider").keys() == SPIDERS.keys()


@pytest.mark.parametrize("command", CRAWLS, ids=" ".join)
def test_a_crawl_of_the_documents_is_accepted(command: list[str]) -> None:
    spider = SPIDERS[command[command.index("crawl") + 1]]
    given = list(pairwise(command))
    spider.arguments_class.parse(dict(value.split("=", 1) for flag, value in given if flag == "-a"), spider.name, 2e9)
    names = {value.split("=", 1)[0] for flag, value in given if flag == "-s"}
    assert {name for name in names if not hasattr(settings, name) and not hasattr(default_settings, name)} == set()


def test_the_documents_have_every_exit_code_and_no_other() -> None:
    assert table(section("docs/commands.md", "Exit codes"), "code").keys() == {str(code.value) for code in ExitCode}
    named = {code: name for code, (_, name, *_) in table(TROUBLESHOOTING, "code").items()}
    assert named == {str(code.value): f"`{code.name}`" for code in ExitCode}


def test_each_message_of_the_troubleshooting_is_one_that_the_project_has() -> None:
    places = (*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.*"))
    # Texts that are written in several parts are joined.
    code = "".join(re.sub(r'"\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in places)
    messages = table(TROUBLESHOOTING, "message")
    assert len(messages) > 50
    # Of shells, of the operating system, of HTTP, and of Scrapy.
    others = {
        "Forbidden by robots.txt",
        "HTTP 401",
        "HTTP 404",
        "scrapy: command not found",
        "No space left on device",
        "shutdown",
        "closespider_",
        "memusage_exceeded",
    }
    parts = {part.strip(" ()") for message in messages for part in re.split(r"…|[()]|: (?=No space)", message)}
    # What is shorter says nothing.
    assert {part for part in parts if len(part) > 5 and part not in code} - others == set()


def test_the_documents_have_every_target_of_the_makefile_and_no_other() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    typed = [block.code for document in DOCUMENTS for block in blocks_of(document) if block.is_typed]
    texts = ["`".join(re.findall(r"`make [a-z-]+", read(document))) for document in DOCUMENTS]
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", "\n".join([*typed, *texts]), flags=re.MULTILINE)) == targets
    assert table(read("CONTRIBUTING.md"), "command").keys() == {f"make {target}" for target in targets}


def test_the_page_on_the_api_has_every_host_route_parameter_and_field() -> None:
    page = read("docs/api.md")
    assert list(table(page, "host")) == [*routes.BASE_URLS, *routes.WS_URLS]
    known = [source.route for source in SOURCES if source.route.path]
    paths = {f"GET {route.path.removeprefix(routes.PROFILE)}" for route in known}
    assert paths <= table(page, "route").keys()
    words = set(re.findall(r"\w+", page))
    assert {name for route in known for name in route.always | route.sometimes} <= words
    assert {name for source in SOURCES for name in source.record_class.__struct_fields__} <= words


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


def test_the_documents_have_every_command_and_no_other() -> None:
    assert {name.split()[1] for name in table(COMMANDS, "command") if name.startswith("scrapy ")} == commands().keys()


@pytest.mark.parametrize("name", commands())
def test_the_documents_have_every_option_of_a_command_and_no_other(name: str) -> None:
    nothing = Nothing()
    nothing.settings = Settings()
    common = options_of(nothing)
    shared = table(section("docs/commands.md", "Options of every command"), "option")
    assert {option.split()[0] for option in shared} == common
    documented = table(section("docs/commands.md", f"scrapy {name}"), "option")
    assert {option.split()[0] for option in documented} == options_of(commands()[name]) - common


def test_the_documents_have_every_switch_of_the_mock_server_as_it_is() -> None:
    documented = table(section("docs/commands.md", "scrapy mockserver"), "option")
    del documented["--port N"]
    declared = {}
    for switch in switches():
        is_flag = isinstance(switch.kind, Flag)
        accepted, default = ("", "") if is_flag else (switch.kind.accepted, str(switch.default))
        declared[f"--{switch.name}"] = [f"`--{switch.name}`", accepted, default, switch.explanation]
    assert documented == declared


def test_the_tables_of_the_dataset_are_as_they_are_said_to_be() -> None:
    documented = {name: cells[1:] for name, cells in table(DATA, "table").items()}
    declared = {}
    for name, each in dataset_tables().items():
        added = ", ".join(f"`{column.name}`" for column in each.columns if column.is_added)
        partition = f"{each.partition} of `{each.time}`" if each.partition else ""
        declared[name] = [each.description, ", ".join(f"`{column}`" for column in each.key), added, partition]
    assert documented == declared
    assert table(DATA, "what")["the tables of the dataset"][2] == str(SCHEMA_VERSION)


def test_the_documents_have_every_target_of_an_export() -> None:
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


def anchors_of(text: str) -> set[str]:
    """Return the addresses of the sections of a document."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
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
