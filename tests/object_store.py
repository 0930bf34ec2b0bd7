"""An object store with the interface of Amazon's S3, in a process of its own: moto's server."""

from __future__ import annotations

import itertools
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

# What nobody must be shown.
SECRET = "w8Zk2Lm5"

# It ends with its input, and so with the process that has started it, even if that is killed.
_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class ObjectStore:
    """An empty bucket.

    Attributes:
        bucket: its name.
        environment: what a process needs to reach it.
    """

    bucket: str
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"s3://{self.bucket}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Return the address of a running S3 server."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, "the server did not start"
        yield address


@pytest.fixture
def object_store(s3_server: str) -> ObjectStore:
    """Return an empty bucket of an S3 server."""
    bucket = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")).close()
    environment = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    return ObjectStore(bucket, environment)
