"""Settings -> a listening socket -> uvicorn, in this process or, with several workers, in theirs.

| signal | what happens |
|---|---|
| SIGTERM, SIGINT | accept no more, finish what has begun within `shutdown_grace_s`, exit 0; twice: at once |
| SIGHUP | read configuration and bundle again and swap them in; refused as a whole when anything is wrong |
| SIGUSR2 | rolling restart: a successor takes over the listening socket, then as for SIGTERM |

The listening socket may also come from outside, by systemd's protocol (`LISTEN_FDS`), so that connections
queue while nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from proxy.app import UpshiftApp
from proxy.connection import Connection, connection_class
from proxy.live import LiveApp, Running, load_scorers
from proxy.settings import Settings, load_settings, read_secret
from routing.errors import SettingsError

_log = logging.getLogger("upshift")
LISTEN_FD = "UPSHIFT_LISTEN_FD"  # a listening socket passed on by a predecessor or the supervisor
READY_FD = "UPSHIFT_READY_FD"  # where a successor or worker says that it serves
SUPERVISOR_PID = "UPSHIFT_SUPERVISOR_PID"
_SYSTEMD_FIRST_FD = 3
_BACKLOG = 4096
_POLL_S = 0.02
_CANCEL_S = 2.0  # what a cancelled request may take to say so
_SUCCESSOR_S = 120.0
Reread = Callable[[], Settings]


class Server(uvicorn.Server):
    """uvicorn with our signals, a shutdown that loses nothing, and a successor."""

    def __init__(self, live: LiveApp, settings: Settings, reread: Reread | None = None) -> None:
        """`reread` gives the settings anew on SIGHUP; None: SIGHUP only reloads the bundle."""
        server = settings.server
        super().__init__(
            uvicorn.Config(
                live,
                host=server.host,
                port=server.port,
                log_level=_log.getEffectiveLevel(),
                log_config=None,
                access_log=False,
                loop="uvloop",
                http=connection_class(server),
                lifespan="on",
                timeout_keep_alive=75,
                server_header=False,
                proxy_headers=False,  # `proxy.door` looks at them itself
                backlog=_BACKLOG,
                ws="none",
            )
        )
        self.live = live
        self._settings = settings
        self._reread = reread or (lambda: settings)
        self._listening: list[socket.socket] = []
        self._chores: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._listening = list(sockets or ())
        await super().startup(sockets=sockets)
        _tell_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more; let requests end; after the grace cancel them, and cut what is still there."""
        self.live.drain()
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._settled(self._settings.server.shutdown_grace_s or None):
            _log.warning("%d requests are cut off: the grace is over", len(self.server_state.tasks))
            for task in list(self.server_state.tasks):
                task.cancel()
            await self._settled(_CANCEL_S)
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.abort()
        await self.lifespan.shutdown()

    async def reload(self) -> bool:
        """What SIGHUP does."""
        return await self.live.reload(self._reread)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again at the end, and so never exit with 0."""
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], object]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: lambda: self._begin(self.reload()),
            signal.SIGUSR2: lambda: self._begin(self._hand_over()),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    def _begin(self, chore: object) -> None:
        assert asyncio.iscoroutine(chore)
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _settled(self, within_s: float | None) -> bool:
        """Whether all connections and requests have ended in time."""
        state = self.server_state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        return not (state.connections or state.tasks)

    async def _hand_over(self) -> None:
        """Start a successor on the same listening socket; stop when it serves, go on when it fails."""
        if SUPERVISOR_PID in os.environ:  # the supervisor replaces its workers itself
            return
        heard, said = os.pipe()
        os.set_blocking(heard, False)
        listen = self._listening[0].fileno()
        child = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds, once in a process's life
            sys.orig_argv,
            pass_fds=(listen, said),
            env={**os.environ, LISTEN_FD: str(listen), READY_FD: str(said)},
        )
        os.close(said)
        try:
            if await hear_ready(heard, _SUCCESSOR_S):
                _log.info("process %d has taken over", child.pid)
                self.should_exit = True
                return
        finally:
            os.close(heard)
        _log.error("the successor did not start; this process goes on")
        child.kill()
        await asyncio.to_thread(child.wait)


async def hear_ready(fd: int, timeout_s: float) -> bool:
    """Whether the process at the other end of a pipe says that it serves; its end is a no."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        if not heard.done():
            heard.set_result(os.read(fd, 16))

    loop.add_reader(fd, read)
    try:
        async with asyncio.timeout(timeout_s):
            return bool(await heard)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)


def _tell_ready() -> None:
    fd = os.environ.pop(READY_FD, "")
    os.environ.pop(LISTEN_FD, None)
    if fd:
        os.write(int(fd), b"ready\n")
        os.close(int(fd))


def open_socket(settings: Settings) -> socket.socket:
    """The listening socket: passed on, systemd's, or a new one. Raises `SettingsError`."""
    server = settings.server
    if passed := os.environ.get(LISTEN_FD):
        return socket.socket(fileno=int(passed))
    own = os.environ.get("LISTEN_PID", str(os.getpid())) == str(os.getpid())
    if own and int(os.environ.get("LISTEN_FDS") or 0) >= 1:
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
        return socket.socket(fileno=_SYSTEMD_FIRST_FD)
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((server.host, server.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"server.host, server.port: cannot listen on {server.host}:{server.port}: {error.strerror}"
        ) from error
    return listening


def build_app(settings: Settings) -> UpshiftApp:
    """Backends over HTTP, the bundle, and the application over them. Raises `UpshiftError`."""
    return Running(settings, load_scorers(settings)).app


def serve(settings: Settings, reread: Reread | None = None) -> int:
    """Run until SIGTERM or Ctrl-C; the exit status. Raises `UpshiftError`."""
    listening = open_socket(settings)
    host, port = listening.getsockname()[:2]
    if settings.server.workers > 1:
        from proxy.supervisor import Supervisor

        return asyncio.run(Supervisor(settings, listening, reread).run())
    live = LiveApp(settings)
    _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    Server(live, settings, reread).run([listening])
    return 0


def request_reload() -> None:
    """Ask this server for a reload, all of its workers included: what an admin endpoint calls."""
    os.kill(int(os.environ.get(SUPERVISOR_PID) or os.getpid()), signal.SIGHUP)


def check_exposure(settings: Settings, insecure: bool) -> None:
    """A host other than loopback without any key is refused. Raises `SettingsError`."""
    host = settings.server.host
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not loopback and not insecure and not read_secret(settings.auth.keys_env):
        raise SettingsError(
            f"server.host is {host} and no API key is set: anyone who reaches it could use your backends; "
            f"set {settings.auth.keys_env}, listen on 127.0.0.1, or pass --insecure"
        )


def settings_of_file(path: Path) -> Settings:
    """What the supervisor wrote for its workers. Raises `SettingsError`."""
    try:
        return Settings.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error


__all__ = ["build_app", "check_exposure", "load_settings", "serve"]
