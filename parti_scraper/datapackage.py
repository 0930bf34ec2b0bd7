"""The description of a run's files: a Frictionless Data Package, written last, in one step.

See https://datapackage.org. Pure but for reading and writing files.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, fields
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from parti_scraper.items import Category, LiveChannel, Livestream, RejectedRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME = "datapackage.json"

_TYPES = {bool: "boolean", dict: "object", int: "integer", str: "string"}
_MEDIA_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl"}
_PRIMARY_KEYS: dict[type, list[str]] = {
    Category: ["category_id"],
    Livestream: ["event_id"],
    LiveChannel: ["snapshot_id", "user_id"],
    RejectedRecord: ["url", "position"],
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of records."""

    path: Path
    item_class: type
    rows: int


def table_schema(item_class: type) -> dict[str, Any]:
    """Return the Table Schema of a kind of item: name, type and description of each column, and the key."""
    key = _PRIMARY_KEYS[item_class]
    hints = get_type_hints(item_class)
    columns = []
    for column in fields(item_class):
        documented = column.metadata["json_schema_extra"]
        described = {
            "name": column.name,
            "type": "datetime" if documented.get("format") == "date-time" else _table_type(hints[column.name]),
            "description": documented["description"],
        }
        if column.name in key:
            described["constraints"] = {"required": True}
        columns.append(described)
    return {"fields": columns, "primaryKey": key, "missingValues": [""]}


def describe(file: File) -> dict[str, Any]:
    """Return the Data Resource of a file, its bytes and SHA-256 read from the disk."""
    suffix = file.path.suffix.removeprefix(".")
    with file.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "name": f"{file.path.stem.replace('_', '-')}-{suffix}",
        "type": "table",
        "path": file.path.name,
        "format": suffix,
        "mediatype": _MEDIA_TYPES[suffix],
        "encoding": "utf-8",
        "bytes": file.path.stat().st_size,
        "hash": f"sha256:{digest}",
        "rows": file.rows,
        "schema": table_schema(file.item_class),
    }


def write(folder: Path, descriptor: Mapping[str, Any]) -> Path:
    """Write the descriptor so that it is there whole or not at all, even if the machine dies.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / FILE_NAME
    temporary = path.with_suffix(".json.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(descriptor, stream, ensure_ascii=False, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _sync_folder(folder)
    return path


def _sync_folder(folder: Path) -> None:
    # The new name is on disk only once the folder is.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _table_type(hint: Any) -> str:
    """Return the Table Schema type of an annotation such as `int`, `str | None` or `dict[str, Any]`."""
    alternatives = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next((_TYPES[kind] for part in alternatives if (kind := get_origin(part) or part) in _TYPES), "any")
