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
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from proxy.app import UpshiftApp
from proxy.auth import has_client_keys
from proxy.connection import Connection, connection_class
from proxy.heap import settle_heap
from proxy.live import LiveApp, Running, load_scorers
from proxy.settings import ServerSettings, Settings, load_settings
from proxy.usage import USAGE_DIR
from routing.errors import SettingsError

_log = logging.getLogger("upshift")
LISTEN_FD = "UPSHIFT_LISTEN_FD"  # a listening socket passed on by a predecessor or the supervisor
READY_FD = "UPSHIFT_READY_FD"  # where a successor or worker says that it serves
COLD_START = "UPSHIFT_COLD_START"  # set for a worker while nobody else serves
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
                **_tls(server),
            )
        )
        self.live = live
        self._settings = settings
        self._reread = reread or (lambda: settings)
        live.on_reload = self._reload_all
        live.on_failure = self._stop
        self.handed_over = False
        self._listening: list[socket.socket] = []
        self._chores: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._listening = list(sockets or ())
        await super().startup(sockets=sockets)
        self._begin(self._tell_when_ready())

    async def _tell_when_ready(self) -> None:
        await self.live.loaded()
        if self.live.failure is None:
            self.settle()
            _tell_ready()

    def settle(self) -> None:
        """Everything is loaded."""
        settle_heap()

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
        reloaded = await self.live.reload(self._reread)
        if reloaded:
            self._begin(self._settle_again())
        return reloaded

    async def _settle_again(self) -> None:
        await self.live.retired()
        self.settle()

    async def _reload_all(self) -> bool | None:
        """What the admin endpoint does: here, or by the supervisor for all workers (None: nobody waits)."""
        if supervisor := os.environ.get(SUPERVISOR_PID):
            os.kill(int(supervisor), signal.SIGHUP)
            return None
        return await self.reload()

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
        listen = [each.fileno() for each in self._listening]
        child = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds, once in a process's life
            sys.orig_argv,
            pass_fds=(*listen, said),
            env={**os.environ, LISTEN_FD: ",".join(map(str, listen)), READY_FD: str(said)},
        )
        os.close(said)
        try:
            if await hear_ready(heard, _SUCCESSOR_S):
                _log.info("process %d has taken over", child.pid)
                self.should_exit = self.handed_over = True
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


def raise_file_limit() -> None:
    """As many files as the system allows: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # the soft limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_sockets(settings: Settings) -> list[socket.socket]:
    """The listening socket, and the admin port's where there is one: passed on, systemd's, or new.

    Raises `SettingsError`.
    """
    server = settings.server
    if passed := os.environ.get(LISTEN_FD):
        return [socket.socket(fileno=int(fd)) for fd in passed.split(",")]
    sockets = [_systemd_socket() or _bind("server.host, server.port", server.host, server.port)]
    if server.admin_port:
        name = "server.admin_host, server.admin_port"
        sockets.append(_bind(name, server.admin_host, server.admin_port))
    return sockets


def _systemd_socket() -> socket.socket | None:
    own = os.environ.get("LISTEN_PID", str(os.getpid())) == str(os.getpid())
    if not own or int(os.environ.get("LISTEN_FDS") or 0) < 1:
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return socket.socket(fileno=_SYSTEMD_FIRST_FD)


def _bind(name: str, host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise SettingsError(f"{name}: cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


def _tls(server: ServerSettings) -> dict[str, Any]:
    """uvicorn's options. Raises `SettingsError` for files that cannot be used."""
    if server.tls_cert is None:
        return {}
    try:  # tried here, so that the message names the setting
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.tls_cert, server.tls_key)
        if server.tls_client_ca is not None:
            context.load_verify_locations(server.tls_client_ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"server.tls_cert, tls_key, tls_client_ca: cannot be used: {error}") from error
    return {
        "ssl_certfile": server.tls_cert,
        "ssl_keyfile": server.tls_key,
        "ssl_ca_certs": server.tls_client_ca,
        "ssl_cert_reqs": ssl.CERT_NONE if server.tls_client_ca is None else ssl.CERT_REQUIRED,
    }


def build_app(settings: Settings) -> UpshiftApp:
    """Backends over HTTP, the bundle, and the application over them. Raises `UpshiftError`."""
    return Running(settings, load_scorers(settings)).app


def serve(settings: Settings, reread: Reread | None = None) -> int:
    """Run until SIGTERM or Ctrl-C; the exit status. Raises `UpshiftError`."""
    raise_file_limit()
    sockets = open_sockets(settings)
    host, port = sockets[0].getsockname()[:2]
    if settings.server.workers > 1:
        from proxy.supervisor import Supervisor

        return asyncio.run(Supervisor(settings, sockets, reread).run())
    with _usage_folder(settings) as keep:
        live = LiveApp(settings, at_once=READY_FD not in os.environ)  # a successor has somebody who serves
        scheme = "http" if settings.server.tls_cert is None else "https"
        _log.info("listening on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
        server = Server(live, settings, reread)
        server.run(sockets)
        if server.handed_over:
            keep()
    if live.failure is not None:
        raise live.failure
    return 0


@contextlib.contextmanager
def _usage_folder(settings: Settings) -> Iterator[Callable[[], object]]:
    """Where keys' use is counted when no folder is configured: gone with the last process, so that a
    successor counts on. Gives what keeps it."""
    if settings.auth.usage_dir is not None or USAGE_DIR in os.environ:
        yield lambda: None
        return
    with contextlib.ExitStack() as stack:
        os.environ[USAGE_DIR] = stack.enter_context(tempfile.TemporaryDirectory(prefix="upshift-usage-"))
        yield stack.pop_all


def check_exposure(settings: Settings, insecure: bool) -> None:
    """A host other than loopback without any key is refused. Raises `SettingsError`."""
    host = settings.server.host
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not loopback and not insecure and not has_client_keys(settings.auth):
        raise SettingsError(
            f"server.host is {host} and no API key is set: anyone who reaches it could use your backends; "
            f"set {settings.auth.keys_env} or auth.keys_file, listen on 127.0.0.1, or pass --insecure"
        )


def settings_of_file(path: Path) -> Settings:
    """What the supervisor wrote for its workers. Raises `SettingsError`."""
    try:
        return Settings.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error


__all__ = ["build_app", "check_exposure", "load_settings", "serve"]
