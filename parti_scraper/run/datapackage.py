"""The description of a run's files: a Frictionless Data Package, written last, in one step.

See https://datapackage.org. Pure except for reading and writing files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from parti_scraper.api.registry import SOURCES
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE_NAME = "datapackage.json"
QUARANTINE = "quarantine.jsonl"
# Of the spider `site`: the page that it has opened.
SCREENSHOT = "screenshot.png"
# Of the descriptor; the first format does not name its own.
FORMAT_VERSION = 2

_TYPES = {bool: "boolean", dict: "object", int: "integer", str: "string"}
_MEDIA_TYPES = {
    "csv": "text/csv",
    "gz": "application/gzip",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "png": "image/png",
    "xml": "application/xml",
}
_CSV_DIALECT = {
    "delimiter": ",",
    "lineTerminator": "\r\n",
    "quoteChar": '"',
    "doubleQuote": True,
    "skipInitialSpace": False,
}
# Calls and records that were set aside have none: the same page may be requested again.
_PRIMARY_KEYS = {source.item_class: source.key for source in SOURCES}


@dataclass(frozen=True, slots=True)
class File:
    """A file of records, in the folder of the run unless it says otherwise.

    Attributes:
        path: where it is.
        item_class: the kind of its records.
        rows: how many.
        form: its format: jsonl, csv, or another.
        columns: names of its fields, and what they are called in it; None: all, by their own names.
        encoding: of its text; None where it is not text.
        is_table: whether it is plain CSV or JSON Lines, which any reader takes for a table.
        is_elsewhere: whether it is not in the folder of the run; then its path is absolute.
    """

    path: Path
    item_class: type
    rows: int
    form: str = "jsonl"
    columns: Mapping[str, str] | None = None
    encoding: str | None = "utf-8"
    is_table: bool = True
    is_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Feed:
    """Records that were stored outside of the run's folder.

    Attributes:
        uri: where, without credentials.
        format: Scrapy's name of the format.
        rows: how many.
    """

    uri: str
    format: str
    rows: int


def table_schema(item_class: type, columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the Table Schema of a kind of item: name, type and description of each column, and the key."""
    hints = get_type_hints(item_class)
    documented = {column.name: column.metadata["json_schema_extra"] for column in fields(item_class)}
    labels = columns or {name: name for name in documented}
    primary_key = _PRIMARY_KEYS.get(item_class, ())
    key = tuple(name for name in primary_key if name in labels)
    described = []
    for name, label in labels.items():
        about = documented.get(name, {})
        kind = "datetime" if about.get("format") == "date-time" else _table_type(hints.get(name))
        column: dict[str, Any] = {"name": label, "type": kind}
        if about:
            column["description"] = about["description"]
        if name in key:
            column["constraints"] = {"required": True}
        described.append(column)
    schema: dict[str, Any] = {"fields": described, "missingValues": [""]}
    if key and key == primary_key:  # A part of the key is not unique.
        schema["primaryKey"] = [labels[name] for name in key]
    return schema


def describe_all(files: Sequence[File], folder: Path) -> list[dict[str, Any]]:
    """Return the Data Resources of files, which are read side by side: the digests take long. Raises OSError.

    Of files of the same name in several folders, those that follow the first have a number after the resource's name.
    """
    with ThreadPoolExecutor() as threads:
        resources = list(threads.map(partial(describe, folder=folder), files))
    names = {resource["name"] for resource in resources}
    taken: set[str] = set()
    for resource in resources:
        if resource["name"] in taken:
            numbered = (f"{resource['name']}-{number}" for number in itertools.count(2))
            resource["name"] = next(name for name in numbered if name not in names)
            names.add(resource["name"])
        taken.add(resource["name"])
    return resources


def describe(file: File, folder: Path) -> dict[str, Any]:
    """Return the Data Resource of a file, its bytes and SHA-256 read from the disk; paths are relative to the folder.

    Raises:
        OSError: it cannot be read.
    """
    with file.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    size = file.path.stat().st_size
    resource: dict[str, Any] = {
        "name": re.sub(r"[^a-z0-9.]+", "-", f"{file.path.stem}-{file.form}".lower()),
        # An empty file is valid JSON Lines, but no table that Frictionless can read; so is CSV without its header.
        "type": "table" if file.is_table and (file.rows or (file.form == "csv" and size)) else "file",
        # A data package can name a file outside of its folder only by its absolute path, if the reader trusts it.
        "path": str(file.path) if file.is_elsewhere else file.path.relative_to(folder).as_posix(),
        "format": file.form,
        "mediatype": _MEDIA_TYPES.get(file.form, "application/octet-stream"),
        **({"encoding": file.encoding} if file.encoding else {}),
        "bytes": size,
        "hash": f"sha256:{digest}",
    }
    if file.is_table:
        resource |= {"rows": file.rows, "schema": table_schema(file.item_class, file.columns)}
        if file.form == "csv":
            # Otherwise readers guess it, and are misled by free text.
            resource["dialect"] = _CSV_DIALECT
    return resource


def of_day(resource: Mapping[str, Any], day: str) -> dict[str, Any]:
    """Return a Data Resource of the data package of a day as it stands in that of the run."""
    return {**resource, "name": f"{day}-{resource['name']}", "path": f"{day}/{resource['path']}"}


def read(folder: Path) -> dict[str, Any] | None:
    """Return the descriptor of a folder, or None where there is none that can be read.

    Raises:
        UsageError: it is in a format later than this one, of a run that is neither to be continued nor overwritten.
    """
    path = folder / FILE_NAME
    try:
        descriptor = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(descriptor, dict):
        return None
    version = descriptor.get("format_version", 1)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        known = f"version {FORMAT_VERSION} or earlier; another run_id, or a later parti_scraper"
        raise UsageError(f"{path}: of format version {version!r} (accepted: {known})")
    return descriptor


def read_finished(folder: Path) -> dict[str, Any] | None:
    """Do as `read`, but for a run that was sealed: it is unfinished, and whoever names it goes on with it."""
    descriptor = read(folder)
    return None if descriptor is None or is_sealed(descriptor) else descriptor


def is_sealed(descriptor: Mapping[str, Any]) -> bool:
    """Tell whether the run, or the day, was closed for it after it was killed or stopped."""
    return bool(descriptor.get("sealed"))


def is_stopped(descriptor: Mapping[str, Any]) -> bool:
    """Tell whether a signal has ended the run, which may be stopped at any time."""
    return bool(descriptor.get("stopped"))


def is_pruned(descriptor: Mapping[str, Any]) -> bool:
    """Tell whether the record files were removed on purpose."""
    return bool(descriptor.get("pruned"))


def write(folder: Path, descriptor: Mapping[str, Any]) -> Path:
    """Write the descriptor whole or not at all, even if the machine dies. Raises OSError."""
    path = folder / FILE_NAME
    temporary = path.with_suffix(".json.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(descriptor, stream, ensure_ascii=False, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return path


def sync_folder(folder: Path) -> None:
    """Bring the names of the files in a folder to the disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _table_type(hint: Any) -> str:
    """Return the Table Schema type of an annotation such as `int`, `str | None` or `dict[str, Any]`."""
    alternatives = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next((_TYPES[kind] for part in alternatives if (kind := get_origin(part) or part) in _TYPES), "any")
