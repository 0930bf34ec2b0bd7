"""A PostgreSQL that goes with the process that started it, for tests and the demo of several machines."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Nothing of it has to survive a crash of the machine.
# Not synchronous_commit=off: what is committed must outlive a crash of the server, which tests bring about.
_FAST = "-c fsync=off -c full_page_writes=off"


class Cluster:
    """A running PostgreSQL on 127.0.0.1.

    Attributes:
        port: its port.
        folder: what it writes.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        """Make and start it.

        Args:
            programs: the folder of its programs.
            folder: an empty folder for all that it writes.
        """
        self._programs = programs
        self.folder = folder
        # As root it does not run.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _unprivileged_user()
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
        self._run(
            *("initdb", "--pgdata=data", "--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"),
            *("--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"),
        )
        # Its input ends with this process, even if that is killed. Ctrl-C does not reach it.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; exec "$0" stop --silent --pgdata=data --mode=fast', programs / "pg_ctl"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._user,
        )
        try:
            self.port = self._start()
        except BaseException:
            self.close()
            raise

    def execute(self, statement: str) -> None:
        """Have a statement executed by its administrator."""
        self._run("psql", f"--host={self.folder}", f"--port={self.port}", "--username=postgres", "-c", statement)

    def restart(self) -> None:
        """Let it crash, and start it again."""
        options = ("--silent", "--pgdata=data", "--mode=immediate", f"--log={self.port}.log")
        self._run("pg_ctl", "restart", "--wait", *options)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it as an administrator does, and start it again at the end of the block."""
        self._run("pg_ctl", "stop", "--silent", "--pgdata=data", "--mode=fast")
        # Bound and not listening: nobody else gets the port meanwhile.
        with closing(socket.socket()) as kept:
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind(("127.0.0.1", self.port))
            try:
                yield
            finally:
                self._serve(self.port)

    def close(self) -> None:
        """Stop it."""
        self._guard.communicate()

    def _serve(self, port: int) -> None:
        options = ("--wait", "--silent", "--pgdata=data", f"--log={port}.log", f"--options={self._options(port)}")
        self._run("pg_ctl", "start", *options)

    def _start(self) -> int:
        """Start it, and return its port."""
        while True:
            with closing(socket.create_server(("127.0.0.1", 0))) as free:
                port = int(free.getsockname()[1])
            log = self.folder / f"{port}.log"
            try:
                self._serve(port)
            except RuntimeError as error:
                said = log.read_text(encoding="utf-8")
                # Another process may have taken the port meanwhile.
                if "Address already in use" not in said:
                    raise RuntimeError(said) from error
            else:
                return port

    def _options(self, port: int) -> str:
        return f"-p {port} -h 127.0.0.1 -k {self.folder} {_FAST}"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            # Without what psql and others would take from PGHOST and the like.
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
            **self._user,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, which Debian has outside of PATH; None: it is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: int(path.parent.name), default=None)


@contextmanager
def temporary_cluster(programs: Path) -> Iterator[Cluster]:
    """Have a cluster run until the end of the block, in a folder that goes with it."""
    # Of its own, below that of the system: others are often for one user alone.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder, closing(Cluster(programs, Path(folder))) as it:
        yield it
