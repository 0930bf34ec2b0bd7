"""Usage errors: one line that says what is accepted, and nothing is started.

The arguments of the spiders are in `test_spiders`, each with its line; here is the rest of the command line.
"""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from parti_scraper import settings
from parti_scraper.commands.crawl import Command
from parti_scraper.run.outcome import ExitCode
from tests.support import ROOT, SCRAPY, STILL, Scrapy, Serve, environment_of
from tests.usage_errors import SPIDERS

ALL = f"accepted: {', '.join(sorted(SPIDERS))}"
NUMBER = "(accepted: a number)"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ((), f"the spider is missing ({ALL})"),
        (("recent", "live"), f"one spider at a time, not 2 ({ALL})"),
        (("recnet",), f"unknown spider: 'recnet' ({ALL}); did you mean `recent`?"),
        (
            ("recent", "--sinse=7d"),
            "unknown option: '--sinse=7d' (accepted: see scrapy crawl --help); did you mean `since`?",
        ),
        (("recent", "--nonsense"), "unknown option: '--nonsense' (accepted: see scrapy crawl --help)"),
        (("recent", "sinse=7d"), "not an option: 'sinse=7d' (accepted: -a sinse=7d); did you mean `since`?"),
        (("live", "-a", "limit"), "argument `limit`: without a value: 'limit' (accepted: -a limit=VALUE)"),
        (
            ("recent", "-a", "incremental"),
            "argument `incremental`: without a value: 'incremental' (accepted: -a incremental=true)",
        ),
        (("recent", "-a", "since", "7d"), "argument `since`: without a value: 'since' (accepted: -a since=7d)"),
        (("recent", "since=7d"), "not an option: 'since=7d' (accepted: -a since=7d)"),
        (("since=7d", "recent"), "not an option: 'since=7d' (accepted: -a since=7d)"),
        (("recent", "incremental"), "not an option: 'incremental' (accepted: -a incremental=true)"),
        (("recent", "--since=7d"), "not an option: '--since=7d' (accepted: -a since=7d)"),
        (("recent", "--since", "7d"), "not an option: '--since' (accepted: -a since=7d)"),
        (("live", "--max-records=5"), "not an option: '--max-records=5' (accepted: -a max_records=5)"),
        (("recent", "LOG_LEVEL=DEBUG"), "not an option: 'LOG_LEVEL=DEBUG' (accepted: -s LOG_LEVEL=DEBUG)"),
        (("recent", "-s", "since=7d"), "setting `since`: not a setting: '7d' (accepted: -a since=7d)"),
        (("recent", "-since=7d"), "setting `ince`: not a setting: '7d' (accepted: a name in capital letters)"),
        (("recent", "-s", "FEEDS={x"), "setting `FEEDS`: not a JSON object: '{x' (accepted: such as {\"name\": 1})"),
        (("recent", "-a"), "scrapy crawl: argument -a: expected one argument"),
        (
            ("live", "-s", "PARTI_INCREMENTAL_OVERLAP=2days"),
            (
                "setting `PARTI_INCREMENTAL_OVERLAP`: not a length of time: '2days' "
                "(accepted: seconds, or 90s, 5m, 24h, 7d, 2w); did you mean `2d`?"
            ),
        ),
        (("live", "-s", "LOG_LEVEL"), "Invalid -s value, use -s NAME=VALUE"),
        (("categories", "-s", "DOWNLOAD_DELAY=abc"), f"setting `DOWNLOAD_DELAY`: not a number: 'abc' {NUMBER}"),
        (
            ("recent", "-s", "ROBOTSTXT_OBEY=maybe"),
            "setting `ROBOTSTXT_OBEY`: not true or false: 'maybe' (accepted: True, False, 1, 0)",
        ),
        (
            ("recent", "-L", "loud"),
            (
                "setting `LOG_LEVEL`: not a level: 'loud' "
                "(accepted: CRITICAL, FATAL, ERROR, WARN, WARNING, INFO, DEBUG, NOTSET)"
            ),
        ),
        (
            ("recent", "-L", "debgu"),
            (
                "setting `LOG_LEVEL`: not a level: 'debgu' "
                "(accepted: CRITICAL, FATAL, ERROR, WARN, WARNING, INFO, DEBUG, NOTSET); did you mean `DEBUG`?"
            ),
        ),
        (
            ("recent", "-s", "PARTI_BATCHING=ture"),
            "setting `PARTI_BATCHING`: neither true nor false: 'ture' (accepted: true, false); did you mean `true`?",
        ),
        (
            ("recent", "-s", "PARTI_TRANSPORT=brwser"),
            (
                "setting `PARTI_TRANSPORT`: not one of the choices: 'brwser' "
                "(accepted: http, browser); did you mean `browser`?"
            ),
        ),
        (
            ("recent", "-s", "PARTI_API_BASE_URLS=nonsense"),
            (
                "setting `PARTI_API_BASE_URLS`: not a scheme and host: 'nonsense' "
                "(accepted: comma-separated, such as https://api-backend.parti.com)"
            ),
        ),
        (
            ("recent", "-s", "PARTI_TRANSPORT=fax"),
            "setting `PARTI_TRANSPORT`: not one of the choices: 'fax' (accepted: http, browser)",
        ),
        (
            ("site", "-s", "PARTI_SITE_URL=parti.com"),
            "setting `PARTI_SITE_URL`: not a scheme and host: 'parti.com' (accepted: such as https://parti.com)",
        ),
    ],
)
def test_a_wrong_command_is_one_line_and_nothing_is_started(
    scrapy: Scrapy, output: Path, typed: tuple[str, ...], line: str
) -> None:
    run = scrapy("crawl", *typed)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", line + "\n")
    assert not output.exists()


SETTINGS = ", ".join(sorted(name for name in dir(settings) if name.startswith("PARTI_")))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("PARTI_OUTPUTDIR", "PARTI_OUTPUT_DIR"), ("PARTI_RETRY_PATIENT", "PARTI_RETRY_PATIENCE")],
)
def test_an_unknown_setting_of_the_project_is_refused(scrapy: Scrapy, typed: str, meant: str) -> None:
    run = scrapy("crawl", "recent", "-s", f"{typed}=5")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"setting `{typed}`: not known: '5' (accepted: {SETTINGS}); did you mean `{meant}`?\n"


def test_an_unknown_variable_of_the_environment_is_a_warning(scrapy: Scrapy, serve: Serve) -> None:
    run = scrapy("crawl", "categories", "-L", "WARNING", server=serve(**STILL), env={"PARTI_OUTPUTDIR": "x"})
    assert run.returncode == 0
    warnings = [line for line in run.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(
        "The environment variable PARTI_OUTPUTDIR is not known and has no effect; did you mean `PARTI_OUTPUT_DIR`?"
    )


def test_a_setting_similar_to_one_of_scrapys_is_a_warning(scrapy: Scrapy, serve: Serve) -> None:
    typed = ("-s", "DOWNLOAD_DELEY=5", "-s", "MY_OWN=1", "-L", "WARNING")
    run = scrapy("crawl", "categories", *typed, server=serve(**STILL))
    assert run.returncode == 0
    (warning,) = [line for line in run.stderr.splitlines() if "WARNING" in line]
    assert warning.endswith(
        "Neither Scrapy nor the project knows the setting DOWNLOAD_DELEY; did you mean `DOWNLOAD_DELAY`?"
    )


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("lats", "; did you mean `last`?"),
        ("LAST", "; did you mean `last`?"),
        ("20261127T214500Z-0a1b2c3d4f", "; did you mean `20261127T214500Z-0a1b2c3d4e`?"),
        ("20261126T214500Z-abcdef0123", ""),
        ("last-week", ""),
    ],
)
def test_a_run_id_similar_to_one_that_resumes_a_run_is_a_warning(
    scrapy: Scrapy, serve: Serve, output: Path, typed: str, hint: str
) -> None:
    for name, is_finished in (("20261127T214500Z-0a1b2c3d4e", False), ("20261126T214500Z-abcdef0124", True)):
        folder = output / "categories" / name
        folder.mkdir(parents=True)
        if is_finished:
            (folder / "datapackage.json").write_text("{}", encoding="utf-8")
    run = scrapy("crawl", "categories", "-a", f"run_id={typed}", "-L", "WARNING", server=serve(**STILL))
    assert run.returncode == 0
    warnings = [line.partition("WARNING: ")[2] for line in run.stderr.splitlines() if "WARNING" in line]
    assert warnings == ([f"The run_id `{typed}` begins a new run{hint}"] if hint else [])


COMMANDS = (
    "bench, check, coverage, crawl, edit, export, fetch, genspider, health, jobs, list, mockserver, parse, prune, "
    "report, runs, runspider, settings, shell, spiders, startproject, version, view"
)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (("recent",), "; did you mean `scrapy crawl recent`?"),
        (("live", "-a", "limit=5"), "; did you mean `scrapy crawl live`?"),
        (("recnet",), "; did you mean `scrapy crawl recent`?"),
        (("crwl", "recent"), "; did you mean `crawl`?"),
        (("nonsense",), ""),
    ],
)
def test_an_unknown_command_is_one_line(scrapy: Scrapy, typed: tuple[str, ...], hint: str) -> None:
    run = scrapy(*typed)
    line = f"unknown command: {typed[0]!r} (accepted: {COMMANDS}){hint}\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", line)


def test_outside_of_a_project_scrapy_says_in_one_line_what_to_type(tmp_path: Path) -> None:
    # As with an installed package: Scrapy finds the command by the entry point.
    metadata = tmp_path / "installed" / "parti_scraper-0.dist-info"
    metadata.mkdir(parents=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (name, place), *_ = project["entry-points"]["scrapy.commands"].items()
    (metadata / "entry_points.txt").write_text(f"[scrapy.commands]\n{name} = {place}\n", encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: parti_scraper\nVersion: 0\n", encoding="utf-8")
    env = environment_of(tmp_path / "output", None, {"PYTHONPATH": f"{metadata.parent}:{ROOT}"})

    def scrapy(folder: Path, *typed: str) -> tuple[int, str, str]:
        command = [*SCRAPY, *typed]
        run = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False)
        return run.returncode, run.stdout, run.stderr

    accepted = "`scrapy crawl` in the project's folder, or `parti crawl` in any"
    nowhere = "no scrapy.cfg here or in a folder above"
    assert scrapy(tmp_path, "crawl", "recnet") == (2, "", f"{nowhere} (accepted: {accepted})\n")
    assert scrapy(ROOT, "crawl", "recnet") == (2, "", f"unknown spider: 'recnet' ({ALL}); did you mean `recent`?\n")
    line = f"unknown command: 'recent', and {nowhere} (accepted: {accepted.replace(' crawl', '')})\n"
    assert scrapy(tmp_path, "recent") == (2, "", line)
    # Another project of the same environment, whose errors are Scrapy's.
    other = tmp_path / "other"
    other.mkdir()
    (other / "scrapy.cfg").write_text("[settings]\ndefault = other_settings\n", encoding="utf-8")
    (other / "other_settings.py").write_text("BOT_NAME = 'other'\n", encoding="utf-8")
    code, printed, _ = scrapy(other, "recent")
    assert (code, printed.count("Unknown command: recent")) == (2, 1)


FORMATS = "json, jsonlines, jsonl, jl, csv, xml, marshal, pickle"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            ("-O", "t-%(nosuch)s.jsonl"),
            "`t-%(nosuch)s.jsonl`: unknown name in it: 'nosuch' (accepted: such as %(name)s, %(run_id)s, %(time)s)",
        ),
        (
            ("-o", "%(run_id)d.csv"),
            (
                "`%(run_id)d.csv`: its name cannot be filled in (%d format: a real number is required, not str): "
                "'%(run_id)d.csv' (accepted: such as %(name)s)"
            ),
        ),
        (
            ("-O", "far://me:secret@host/x.jsonl"),
            "`far://host/x.jsonl`: unknown scheme: 'far' (accepted: file, ftp, ftps, gs, s3, stdout, run)",
        ),
        (
            ("-s", 'FEEDS={"x.ndjson": {}}'),
            f"`x.ndjson`: unknown format: 'ndjson' (accepted: {FORMATS}); did you mean `json`?",
        ),
        (("-O", "x.jsnl"), f"`x.jsnl`: unknown format: 'jsnl' (accepted: {FORMATS}); did you mean `jsonl`?"),
        (("-o", "-:csw"), f"`-:csw`: unknown format: 'csw' (accepted: {FORMATS}); did you mean `csv`?"),
        (("-o", "ftp://me:secret@host/x"), f"`ftp://host/x`: unknown format: '' (accepted: {FORMATS})"),
        (
            ("-O", "%(run_di)s.jsonl"),
            (
                "`%(run_di)s.jsonl`: unknown name in it: 'run_di' "
                "(accepted: such as %(name)s, %(run_id)s, %(time)s); did you mean `run_id`?"
            ),
        ),
        (
            ("-s", 'FEEDS={"x.csv": "csv"}'),
            '`x.csv`: its options are no object: \'csv\' (accepted: such as {"format": "csv"})',
        ),
        (
            ("-s", 'FEEDS={"x.csv": {"batch_item_count": 7}}'),
            (
                "`x.csv`: batches of 7 records would have the same name: 'x.csv' "
                "(accepted: a name with %(batch_id)d or %(batch_time)s)"
            ),
        ),
        (
            ("-s", "FEED_EXPORT_BATCH_ITEM_COUNT=5", "-O", "x.csv"),
            (
                "`x.csv`: batches of 5 records would have the same name: 'x.csv' "
                "(accepted: a name with %(batch_id)d or %(batch_time)s)"
            ),
        ),
    ],
)
def test_a_feed_that_cannot_be_set_up_is_one_line_and_nothing_is_started(
    scrapy: Scrapy, output: Path, typed: tuple[str, ...], line: str
) -> None:
    run = scrapy("crawl", "recent", *typed)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"feed {line}\n")
    assert not output.exists()


def test_the_name_of_a_feed_may_have_attributes_of_the_spider(scrapy: Scrapy, serve: Serve, tmp_path: Path) -> None:
    feed = tmp_path / "%(name)s %(run_id)s 100% %(batch_id)d.jsonl"
    typed = ("-a", "run_id=run", "-s", "FEED_EXPORT_BATCH_ITEM_COUNT=200", "-O", str(feed))
    assert scrapy("crawl", "recent", *typed, server=serve(**STILL)).returncode == 0
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "recent run 100% 1.jsonl",
        "recent run 100% 2.jsonl",
    ]


def test_a_log_that_cannot_be_written_is_one_line_and_nothing_is_started(scrapy: Scrapy, output: Path) -> None:
    run = scrapy("crawl", "recent", "--logfile", "/dev/null/log")
    assert (run.returncode, run.stderr) == (1, "/dev/null/log cannot be written: Not a directory\n")
    assert not output.exists()


def test_a_component_that_cannot_be_loaded_is_one_line_without_a_traceback(scrapy: Scrapy, output: Path) -> None:
    run = scrapy("crawl", "recent", "-L", "WARNING", "-s", 'ITEM_PIPELINES={"nowhere.Pipeline": 1}')
    assert run.returncode == 1
    assert run.stderr == "The spider could not be started: ModuleNotFoundError: No module named 'nowhere'\n"
    assert not output.exists()


def test_lengths_of_time_in_settings_may_have_a_unit(scrapy: Scrapy, serve: Serve) -> None:
    lengths = {"PARTI_RETRY_PATIENCE": "2m", "PARTI_RETRY_DELAY": "0", "PARTI_INCREMENTAL_OVERLAP": "1w"}
    typed = [word for name, text in lengths.items() for word in ("-s", f"{name}={text}")]
    assert scrapy("crawl", "categories", *typed, server=serve(**STILL)).returncode == 0


def test_a_wrong_category_does_not_change_existing_files(scrapy: Scrapy, serve: Serve, tmp_path: Path) -> None:
    feed = tmp_path / "yesterday.csv"
    feed.write_text("records\n", encoding="utf-8")
    command = ("crawl", "recent", "-a", "categories=Gamin", "-O", str(feed), "-L", "ERROR")
    run = scrapy(*command, server=serve(**STILL))
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", feed.name]
    assert feed.read_text(encoding="utf-8") == "records\n"


def test_the_help_has_every_argument_of_every_spider_and_the_exit_codes(scrapy: Scrapy) -> None:
    run = scrapy("crawl", "--help")
    assert (run.returncode, run.stderr) == (0, "")
    text = " ".join(run.stdout.split())
    assert "Exit codes: 0 complete, 1 not started, 2 usage, 3 stopped, 4 incomplete." in text
    for name, arguments in SPIDERS.items():
        group = text[text.index(f"spider {name}:") :]
        assert all(f"-a {argument}=VALUE" in group for argument, _ in arguments.help())
    assert "Attributes:" not in text
    assert all(str(code.value) in Command().long_desc() for code in ExitCode)


def test_the_spiders_are_described_to_a_reader_that_has_enough(output: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*SCRAPY, "spiders"]
    run = subprocess.run(
        command, cwd=ROOT, env=environment_of(output, None), stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, b"")


def test_scrapys_own_commands_work(scrapy: Scrapy) -> None:
    listed = scrapy("list")
    assert (listed.returncode, listed.stdout.split(), listed.stderr) == (0, sorted(SPIDERS), "")
    assert scrapy("check").returncode == 0
