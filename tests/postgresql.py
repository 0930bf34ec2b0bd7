"""A real PostgreSQL: each pytest process has a cluster of its own, each test that asks for one an empty database."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.processes import descendants
from tools.postgresql import Cluster, find_programs, temporary_cluster

ROLE = "parti"
# What nobody must be shown. It is the same in an address as outside of one; the password around it is not.
SECRET = "7Qx9vT"
PASSWORD = f"{SECRET}/@"

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """Return a running cluster."""
    if (programs := find_programs()) is None:
        pytest.skip("there is no PostgreSQL")
    with cluster_of(programs) as cluster:
        yield cluster


@contextmanager
def cluster_of(programs: Path) -> Iterator[Cluster]:
    """Make a cluster that has the role."""
    with temporary_cluster(programs) as cluster:
        cluster.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        yield cluster


@contextmanager
def empty_database(cluster: Cluster) -> Iterator[str]:
    """Make a database, and return its address, with the password; its owner is a role without other rights."""
    name = f"test_{next(_numbers)}"
    cluster.execute(f"CREATE DATABASE {name} OWNER {ROLE}")
    try:
        yield f"postgresql://{ROLE}:{quote(PASSWORD, safe='')}@127.0.0.1:{cluster.port}/{name}"
    finally:
        cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """Freeze all processes of a cluster: who asks it has a connection, and no answer."""
    postmaster = int((cluster.folder / "data" / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    # First the one that starts others.
    os.kill(postmaster, signal.SIGSTOP)
    backends = list(descendants(postmaster))
    for process in backends:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in (*backends, postmaster):
            os.kill(process, signal.SIGCONT)


@pytest.fixture
def postgres_url(postgresql: Cluster) -> Iterator[str]:
    """Return the address of an empty database."""
    with empty_database(postgresql) as address:
        yield address
