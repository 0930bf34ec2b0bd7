"""How records become bytes, many at a time: JSON Lines, and CSV without formulas; and the run's own storage."""

from __future__ import annotations

import contextlib
import json
import os
import re
import string
from dataclasses import fields
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, get_args

import msgspec
from scrapy import exporters

from parti_scraper.items import Item
from parti_scraper.run.context import present_run, run_of
from parti_scraper.run.cutting import whole_records
from parti_scraper.signals import send_storage_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from io import BytesIO

    from scrapy import Spider
    from scrapy.crawler import Crawler
    from scrapy.item import Field

    from parti_scraper.run.context import RunFolder

# What spreadsheets take for the start of a formula, full-width forms included, and the white space that some of
# them pass over in front of it (OWASP, "CSV Injection").
_FORMULA_STARTS = tuple("=+-@＝＋－＠")
_CONTROL_STARTS = ("\t", "\r", "\n")

# What most texts begin with.
_HARMLESS_STARTS = frozenset(["", *string.ascii_letters, *string.digits])
# Any other start, in a whole column, each of whose cells follows a line break.
_NOT_HARMLESS = re.compile(r"\n[^A-Za-z0-9\n]").search
_CONSTANTS = {None: "", False: "false", True: "true"}
_EMPTY = {dict: "{}", list: "[]"}

# Scrapy's names of the formats in which a file that is cut off after a record is still valid.
LINE_FORMATS = {"csv": "csv", "jsonlines": "jsonl", "jsonl": "jsonl", "jl": "jsonl"}


def harmless(text: str) -> str:
    """Return the text with an apostrophe in front where a spreadsheet would take it for a formula.

    NUL, which CSV readers treat differently, becomes U+FFFD.
    """
    text = text.replace("\0", "\ufffd")
    if text.startswith(_CONTROL_STARTS) or text.lstrip().startswith(_FORMULA_STARTS):
        return "'" + text
    return text


def encode_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


_ITEM_TYPES = frozenset(get_args(Item))
_JSON = msgspec.json.Encoder()


def are_plain(items: Sequence[Any]) -> bool:
    """Tell whether all are records as the spiders yield them; a pipeline may have replaced them."""
    return set(map(type, items)) <= _ITEM_TYPES


class JsonLinesItemExporter(exporters.JsonLinesItemExporter):
    """Scrapy's, but faster, and without blanks between the parts of a line."""

    def __init__(self, file: BytesIO, **kwargs: Any) -> None:
        super().__init__(file, **{"separators": (",", ":")} | kwargs)
        has_options = bool(kwargs.keys() - {"encoding", "fields_to_export", "indent"})
        # A subclass may write records in another way.
        is_this = type(self) is JsonLinesItemExporter
        self._is_plain = is_this and self.encoding == "utf-8" and self.fields_to_export is None and not has_options

    def export_item(self, item: Any) -> None:
        self.export_items((item,))

    def export_items(self, items: Sequence[Any]) -> None:
        if self._is_plain and are_plain(items):
            self.file.write(_JSON.encode_lines(items))
            return
        for item in items:
            super().export_item(item)


class CsvItemExporter(exporters.CsvItemExporter):
    """Scrapy's, but faster, with a header even without records, objects as JSON, and no formulas."""

    @classmethod
    def from_crawler(cls, crawler: Crawler, file: BytesIO, **kwargs: Any) -> Self:
        """Take the columns from the spider's items where the user names none."""
        run = run_of(crawler)
        if run is not None and not kwargs.get("fields_to_export"):
            kwargs["fields_to_export"] = [field.name for field in fields(run.folder.item_class)]
        if run is not None and run.folder.appends and file.seekable() and file.tell():
            kwargs["include_headers_line"] = False
        return cls(file, **kwargs)

    def start_exporting(self) -> None:
        """Write the header if the columns are known, and the file does not have one already."""
        appends = self.stream.seekable() and self.stream.buffer.tell() > 0
        if self.fields_to_export and self._headers_not_written and not appends:
            self._headers_not_written = False
            self._write_headers_and_set_fields_to_export(None)

    def finish_exporting(self) -> None:
        """Detach the file; an error is ignored, since the storage gets it again when it closes the file."""
        with contextlib.suppress(OSError):
            super().finish_exporting()

    def export_item(self, item: Any) -> None:
        self.export_items((item,))

    def export_items(self, items: Sequence[Any]) -> None:
        readers = self._readers_of(items)
        if not readers:
            for item in items:
                super().export_item(item)
            return
        if self._headers_not_written:
            self._headers_not_written = False
            self._write_headers_and_set_fields_to_export(items[0])
        columns = [_column(list(map(read, items))) for read in readers]
        self.stream.write("\r\n".join([*map(",".join, zip(*columns, strict=True)), ""]))

    def _readers_of(self, items: Sequence[Any]) -> tuple[Callable[[Any], Any], ...]:
        """Return a reader for each column; none where the records are not as the spiders yield them."""
        names = tuple(self.fields_to_export or ())
        item_class, *others = set(map(type, items))
        # With options such as another delimiter, Scrapy writes the rows, and so may a subclass.
        if others or item_class not in _ITEM_TYPES or not names or self._kwargs or type(self) is not CsvItemExporter:
            return ()
        return _readers(item_class, names)

    def serialize_field(self, field: Mapping[str, Any] | Field, name: str, value: Any) -> Any:
        return _cell(super().serialize_field(field, name, value))


# Exporters that take many records at a time.
BULK_EXPORTERS = (CsvItemExporter, JsonLinesItemExporter)


def _column(values: Sequence[Any]) -> Sequence[str]:
    """Return the cells of a column as they stand in the file, checking all of them at once where possible.

    Python's own writer checks each character, which takes as long as all the rest of a record.
    """
    try:
        together = "\n".join(["", *values])
    except TypeError:
        types = set(map(type, values)) - {type(None)}
        if types <= {int}:
            return ["" if value is None else str(value) for value in values]
        if types <= {bool}:
            return [_CONSTANTS[value] for value in values]
        if types == {dict} and not any(values):
            return [_EMPTY[dict] if value is not None else "" for value in values]
        values = [value or "" for value in values] if types == {str} else list(map(_text, values))
        together = "\n".join(["", *values])
        if types != {str}:
            return _quoted(values, together)
    if _NOT_HARMLESS(together) or together.count("\n") > len(values):
        values = [value if value[:1] in _HARMLESS_STARTS else harmless(value) for value in values]
    return _quoted(values, together)


def _quoted(cells: Sequence[str], together: str) -> Sequence[str]:
    """Return the cells, in quotes where needed (RFC 4180), and without NUL, which readers treat differently."""
    if "\0" in together:
        cells = [cell.replace("\0", "\ufffd") for cell in cells]
    if '"' in together or "\r" in together or together.count("\n") > len(cells):
        return [
            '"' + cell.replace('"', '""') + '"' if "," in cell or '"' in cell or "\n" in cell or "\r" in cell else cell
            for cell in cells
        ]
    if "," in together:
        return [f'"{cell}"' if "," in cell else cell for cell in cells]
    return cells


def _text(value: Any) -> str:
    return "" if value is None else str(_cell(value))


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, bool):
        return _CONSTANTS[value]
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False) if value else _EMPTY[type(value)]
    return value


@cache
def _readers(item_class: type[Any], names: tuple[str, ...]) -> tuple[Callable[[Any], Any], ...]:
    known = {column.name for column in fields(item_class)}
    # With one column, Scrapy's writer puts empty cells in quotes, since readers skip empty lines.
    return tuple(map(attrgetter, names)) if known.issuperset(names) and len(names) > 1 else ()


def close_on_disk(file: IO[bytes], form: str, *, is_torn: bool = False) -> None:
    """Close a file of records, of a format by Scrapy's name, once it is on disk.

    A torn file, of which an earlier write has failed, is cut to whole records.

    Raises:
        OSError: not all could be written; the file was cut to whole records.
    """
    try:
        with file:
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        is_torn = True
        raise
    finally:
        if is_torn and form in LINE_FORMATS:
            with Path(file.name).open("r+b") as cut_off:
                cut_off.truncate(max(whole_records(cut_off, quoted=form == "csv"), default=0))


class RunFeedStorage:
    """Stores feeds in the folder of the run: the scheme `run:` of `FEEDS`.

    Attributes:
        is_torn: whether writing has failed, so that the last record may be cut off.
    """

    def __init__(self, crawler: Crawler, uri: str, *, feed_options: dict[str, Any] | None = None) -> None:
        self._crawler = crawler
        # The name alone: all files are directly in the folder, with the data package that describes them.
        self._name = Path(uri.removeprefix("run:"))
        # Set once the file is open: later ones may be those of another day.
        self._path: Path | None = None
        self._format: str = (feed_options or {}).get("format", "")
        self.is_torn = False

    @classmethod
    def from_crawler(cls, crawler: Crawler, uri: str, *, feed_options: dict[str, Any] | None = None) -> Self:
        return cls(crawler, uri, feed_options=feed_options)

    @cached_property
    def _folder(self) -> RunFolder:
        # Not before it is used: `scrapy shell` builds storages without a spider.
        return present_run(self._crawler).folder

    @property
    def path(self) -> Path:
        """Where the file is: of a run with days, in the folder of the day on which it was opened."""
        return self._path or self._folder.current / self._name

    def open(self, spider: Spider) -> IO[bytes]:
        """Open the file: empty, except for a run that is resumed."""
        self._path = self.path
        self._folder.make_current()
        return self._path.open("ab" if self._folder.appends else "wb")

    def mark_torn(self) -> None:
        """Note that a part of a record may have been written."""
        self.is_torn = True

    def store(self, file: IO[bytes]) -> None:
        """Close the file once it is on disk, so that the data package, written later, cannot be there without it."""
        try:
            close_on_disk(file, self._format, is_torn=self.is_torn)
        except OSError as error:
            # Not raised: Scrapy would only log a traceback.
            send_storage_failed(self._crawler, file.name, error)
