"""A PostgreSQL server of the test's own, on loopback and in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_USER = "postgres"  # the server refuses to run as root


def find_binary(name: str) -> str | None:
    """On the path, or where Debian keeps it."""
    found = shutil.which(name)
    if found:
        return found
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(versions[-1]) if versions else None


def why_not() -> str:
    """Why no server can be started here; '' when one can."""
    if not find_binary("initdb") or not find_binary("postgres"):
        return "no PostgreSQL binaries (initdb, postgres)"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_USER)
        except KeyError:
            return f"running as root and there is no user {_USER}"
    return ""


class PostgresServer:
    """Start, stop, kill and start again; the data stay."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._data = folder / "data"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", _USER, "--no-sync", "-E", "UTF8")

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Until it takes connections (after a crash it accepts some time before that)."""
        import psycopg

        options = [
            "-D",
            str(self._data),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-k",
            str(self._folder),
            "-F",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_binary("postgres") or "", *options], stdout=log, stderr=log, cwd=self._folder,
                start_new_session=True, **_as_user(),
            )  # fmt: skip
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
                return
            time.sleep(0.05)
        raise RuntimeError((self._folder / "log").read_text())

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: fast shutdown; SIGQUIT: at once, as in a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [find_binary(name) or "", *arguments],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **_as_user(),
        )


def _as_user() -> dict[str, str]:
    return {"user": _USER} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that runs, and is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="upshift-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, _USER)
        server = PostgresServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
