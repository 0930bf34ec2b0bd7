"""A place in an object store as the place of an export: Amazon's S3 and what has its interface, Google's, Azure's.

Nothing can be locked there. Instead, the data package is written on the condition that it is still the one that was
read; where another export was faster, this one begins again. So nothing that either has loaded is lost.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from parti_scraper.dataset.engine import TargetError, require
from parti_scraper.dataset.scratch import scratch_folder
from parti_scraper.dataset.targets.base import Outdated
from parti_scraper.dataset.targets.folder import is_published
from parti_scraper.dataset.targets.parts import foreign
from parti_scraper.exceptions import UsageError, quoted
from parti_scraper.redact import is_secret_name, redact_text
from parti_scraper.run.datapackage import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# By the scheme of the address: the class of obstore, what it calls the bucket, and where credentials come from.
_STORES = {
    "s3": ("S3Store", "bucket", "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
    "gs": ("GCSStore", "bucket", "GOOGLE_APPLICATION_CREDENTIALS"),
    "az": ("AzureStore", "container_name", "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY"),
}
SCHEMES = tuple(_STORES)
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# Of an object that tells whether conditions are honoured.
_PROBE = ".export-"
# Files that are younger are kept: another export may be about to name them.
GRACE = timedelta(hours=1)
# A store that sends nothing for so long is given up.
_PATIENCE = timedelta(seconds=15)
# For one request with a file, or a piece of one.
_TO_SEND = timedelta(minutes=5)
_SENT_AT_ONCE = 4
_CHUNK = 8 << 20
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"(?:status code:|↳\S*) (\d{3})\b")
_NO_CREDENTIALS = re.compile(r"Missing\w*(Key|Account)|169\.254\.|metadata\.google")
_OTHER_REGION = "the bucket is in another region (AWS_REGION)"
_REASONS = {
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "ContainerNotFound": "there is no such container",
    "NoSuchBucket": "there is no such bucket",
    "PermanentRedirect": _OTHER_REGION,
}


class _Missing(TargetError):  # noqa: N818 - it says what is wrong
    """There is no such object."""


class ObjectStore:
    """A place in an object store; see `parts.Store`."""

    def __init__(self, url: str, scratch: Path | None = None, manifest: str = FILE_NAME) -> None:
        """Prepare; nothing is asked yet. Raises UsageError.

        Args:
            url: such as `s3://bucket/prefix/`.
            scratch: a folder for temporary files; None: the system's.
            manifest: the name of the file by which exports describe themselves.
        """
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        is_path = not prefix or {"", ".", ".."}.isdisjoint(prefix.split("/"))
        if not parts.netloc or {"@", ":"} & {*parts.netloc} or not is_path or {"?", "#"} & {*url}:
            raise UsageError.of("argument", "TARGET", "not a place", url, f"such as {parts.scheme}://BUCKET/PREFIX/")
        self._scheme, self._bucket, self._prefix = parts.scheme, parts.netloc, prefix
        self._manifest = manifest
        self._endpoint = _endpoint() if parts.scheme == "s3" else None
        self._scratch = scratch or Path(tempfile.gettempdir()) / "parti_scraper"
        self._parent = self._scratch
        # Of obstore; they read the credentials from the environment. Requests for data show progress, others do not.
        self._asking: Any = None
        self._sending: Any = None
        self._version: dict[str, str] | None = None
        self._honours_conditions: bool | None = None
        self._young: set[str] = set()
        self.shown = f"{url.rstrip('/')}/"
        self.uri = f"{parts.scheme}://{self._bucket}/{quote(prefix)}".rstrip("/")

    @contextmanager
    def open(self) -> Iterator[None]:
        with scratch_folder(self._parent) as folder:
            self._scratch = folder
            with self._told():
                self._asking, self._sending = self._connect(read_timeout=_PATIENCE), self._connect(timeout=_TO_SEND)
            if self.read_manifest() is None:
                self._check()
            yield

    def _connect(self, **timeouts: timedelta) -> Any:
        class_name, bucket, _ = _STORES[self._scheme]
        config = {bucket: self._bucket} | ({"endpoint": self._endpoint} if self._endpoint else {})
        is_plain = (self._endpoint or "").startswith("http:")
        client = {"allow_http": is_plain, "connect_timeout": timedelta(seconds=5), "timeout": timedelta(hours=1)}
        backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2}
        return getattr(require("obstore.store", "s3"), class_name)(
            prefix=self._prefix or None,
            config=config,
            client_options=client | timeouts,
            retry_config={"max_retries": 8, "retry_timeout": _PATIENCE, "backoff": backoff},
        )

    def _check(self) -> None:
        """Raise UsageError if there is something else in the place."""
        with self._told():
            found = _obstore().list_with_delimiter(self._asking)
        names = [each["path"] for each in found["objects"]] + list(found["common_prefixes"])
        others = foreign((each for each in names if not each.startswith(_PROBE)), self._manifest)
        if others:
            accepted = "a new or empty place, or an earlier export"
            raise UsageError.of("argument", "TARGET", f"it holds {quoted(others[0])}", self.shown, accepted)

    def scratch(self) -> Path:
        return self._scratch

    def read_manifest(self) -> bytes | None:
        self._version = None
        with suppress(_Missing), self._told():
            found = _obstore().get(self._asking, self._manifest)
            self._version = _version_of(found.meta)
            return bytes(found.bytes())
        return None

    def local(self, name: str) -> str:
        to = self._scratch / "read" / name
        if not to.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            with self._told_if_outdated():
                self._download(name, to)
        return str(to)

    def _download(self, name: str, to: Path) -> None:
        """Write a file to the disk. Raises TargetError."""
        with self._told():
            chunks = _obstore().get(self._asking, name).stream(min_chunk_size=_CHUNK)
            with to.open("wb") as stream:
                for chunk in chunks:
                    stream.write(chunk)

    def put(self, path: Path, name: str) -> None:
        with self._told():
            _obstore().put(self._sending, name, path, max_concurrency=_SENT_AT_ONCE)
        path.unlink()

    def publish(self, name: str, public: str) -> None:
        with self._told_if_outdated(), self._told():
            _obstore().copy(self._sending, name, public)

    def write(self, public: str, content: bytes) -> None:
        with self._told():
            _obstore().put(self._sending, public, content)

    def write_manifest(self, content: bytes) -> None:
        if not self._is_conditional():
            self.write(self._manifest, content)
            return
        with self._told():
            written = self._put_if(self._manifest, content, "create" if self._version is None else self._version)
        if written is None:
            # Or this very content is there, and the answer was lost on the way.
            if self.read_manifest() != content:
                raise self._outdated()
            return
        self._version = written

    def sizes(self) -> Mapping[str, int]:
        oldest = datetime.now(UTC) - GRACE
        sizes = {}
        self._young = set()
        with self._told():
            for each in (each for some in _obstore().list(self._asking) for each in some):
                sizes[each["path"]] = each["size"]
                if each["last_modified"] > oldest and not is_published(each["path"]):
                    self._young.add(each["path"])
        return sizes

    def remove(self, names: Sequence[str]) -> None:
        old = [each for each in names if each not in self._young]
        # If another export has deleted some of them, the next one deletes what is left.
        with suppress(_Missing), self._told():
            if old:
                _obstore().delete(self._sending, old)

    @property
    def options(self) -> Mapping[str, str]:
        options = {"connect_timeout": "5s", "timeout": f"{_TO_SEND.seconds}s", "retry_timeout": f"{_PATIENCE.seconds}s"}
        if self._endpoint:
            options |= {"endpoint": self._endpoint, "allow_http": str(self._endpoint.startswith("http:")).lower()}
        return options

    # Conditions:

    def _is_conditional(self) -> bool:
        """Tell whether the store honours the conditions of writing, and say so if not."""
        if self._honours_conditions is None:
            # Amazon, Google and Azure do; of other stores, some pass over them in silence.
            self._honours_conditions = not self._endpoint or self._try_conditions()
            if not self._honours_conditions:
                print(
                    f"{self.shown}: this store does not honour conditional writes: of two exports into it at the same "
                    "time, one may be lost",
                    file=sys.stderr,
                )
        return self._honours_conditions

    def _try_conditions(self) -> bool:
        """Write an object in ways that must be refused."""
        name = f"{_PROBE}{secrets.token_hex(8)}"
        with self._told():
            try:
                first = self._put_if(name, b"1", "create")
                if not first or self._put_if(name, b"2", "create") is not None:
                    return False
                _obstore().put(self._sending, name, b"3")
                return self._put_if(name, b"4", first) is None
            finally:
                _obstore().delete(self._sending, [name])

    def _put_if(self, name: str, content: bytes, condition: str | dict[str, str]) -> dict[str, str] | None:
        """Write a small object on a condition; return its version, or None if the condition is not met."""
        errors = require("obstore.exceptions", "s3")
        try:
            with self._told():
                return _version_of(_obstore().put(self._sending, name, content, mode=condition))
        except (errors.AlreadyExistsError, errors.PreconditionError, _Missing):
            return None

    @contextmanager
    def _told_if_outdated(self) -> Iterator[None]:
        """Raise Outdated if an object does not exist because another export has deleted it."""
        try:
            yield
        except _Missing:
            version = self._version
            self.read_manifest()
            if self._version != version:
                raise self._outdated() from None
            raise

    def _outdated(self) -> Outdated:
        return Outdated(f"{self.shown}: another export has changed it; run it again")

    # Errors:

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line what is wrong, without secrets. Conditions that are not met are left as they are."""
        errors = require("obstore.exceptions", "s3")
        try:
            yield
        except (errors.AlreadyExistsError, errors.PreconditionError):
            raise
        except (errors.BaseError, FileNotFoundError) as error:
            is_missing = isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error)
            raise (_Missing if is_missing else TargetError)(f"{self.shown}: {self.reason(error)}") from None

    def reason(self, error: Exception) -> str:
        text = str(error)
        code, status = _CODE.search(text), _STATUS.search(text)
        if code and code[1] in _REASONS:
            return _REASONS[code[1]]
        if isinstance(error, FileNotFoundError):
            return "an object that should be there does not exist"
        credentials = _STORES[self._scheme][2]
        if _NO_CREDENTIALS.search(text):
            return f"no credentials (accepted: {credentials} in the environment)"
        shown = code[1] if code else f"status {status[1]}" if status else ""
        if status and status[1] in {"401", "403"}:
            return f"access denied ({shown}; credentials: {credentials} in the environment)"
        if status:
            return f"the store answers with an error ({shown})"
        if "error sending request" in text or "timed out" in text:
            return f"{self._endpoint or 'the store'} cannot be reached"
        line = text.partition("\n")[0]
        return "it cannot be read or written" if _has_secret(line) else redact_text(line)


def _obstore() -> Any:
    return require("obstore", "s3")


def _version_of(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells a version of an object from others."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name]}


def _endpoint() -> str | None:
    """Return the address of a store that is not Amazon's. Raises UsageError."""
    name = next((each for each in _ENDPOINTS if os.environ.get(each)), None)
    if name is None:
        return None
    url = os.environ[name].strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[\w.:\[\]-]+", parts.netloc) or parts.query:
        raise UsageError.of("setting", name, "not the address of a store", url, "such as https://s3.example.com")
    return url


def _has_secret(text: str) -> bool:
    """Tell whether a text has the value of one of the environment's secrets."""
    return any(value and is_secret_name(name) and value in text for name, value in os.environ.items())
