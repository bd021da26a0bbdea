"""The application in force, exchangeable while requests run.

A reload builds a whole new application beside the old one (settings, backends, scorers, decision log), warms
it, and only then puts it in front. It is one assignment: a request sees the old one or the new one, never
half of each. The old one is closed when its last request has ended. Metrics, what keys have used and how
many bytes are held are shared, so counts and limits go on; a backend that both have keeps its circuit.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from proxy.app import OnReload, UpshiftApp, create_app
from proxy.backends.build import build_backends, build_health_checks, carry_health, show_backends
from proxy.board import Board
from proxy.limits import Meter
from proxy.loop.watch import LoopMemory
from proxy.meter import open_meter
from proxy.scorer_wire import SOCKET
from proxy.scoring import Scorers
from proxy.settings import Settings
from proxy.starter import load_starter, tell_other_models, wants_scorers
from proxy.wire import Receive, Scope, Send, send_whole
from proxy.wire_error import ApiError
from routing.errors import BundleError, UpshiftError

_log = logging.getLogger("upshift")
_FIXED = (
    "host",
    "port",
    "workers",
    "share_scorers",
    "admin_host",
    "admin_port",
)  # not by a reload


class Running:
    """One application with everything it owns."""

    def __init__(
        self,
        settings: Settings,
        scorers: Scorers | None = None,
        meter: Meter | None = None,
        memory: LoopMemory | None = None,
        canary: Canary | None = None,
        board: Board | None = None,
        before: Running | None = None,
    ) -> None:
        """`before`: its counts go on, and what is known of the health of backends that it has too. Raises
        `UpshiftError` for settings or a log that cannot be used."""
        trial = canary or Canary()
        self.settings = settings
        self.in_flight = 0
        self._empty: asyncio.Event | None = None
        self.backends = build_backends(settings)
        self.app: UpshiftApp = create_app(
            settings, self.backends, scorers, meter=meter, memory=memory, board=board,
            canary=trial.scorers, canary_refused=trial.refused,
            metrics=before.app.metrics if before is not None else None,
            held=before.app.held if before is not None else None,
        )  # fmt: skip
        if before is not None:
            carry_health(before.settings, before.backends, settings, self.backends)
        show_backends(settings, self.backends, self.app.metrics)
        self._checks = build_health_checks(settings, self.backends)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Warm the scorers, begin the health checks; from here on it is ready."""
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        for check in self._checks:
            self._stack.push_async_callback(check.stop)
            check.start()

    def enter(self) -> None:
        """A request begins here."""
        self.in_flight += 1

    def leave(self) -> None:
        """A request has ended."""
        self.in_flight -= 1
        if not self.in_flight and self._empty is not None:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait for the last request."""
        self._empty = asyncio.Event()
        await self._empty.wait()

    async def stop(self) -> None:
        """Close everything. Call it when no request is left."""
        await self._stack.aclose()


class LiveApp:
    """ASGI: passes each request to the application in force."""

    def __init__(self, settings: Settings, scorers: Scorers | None = None, at_once: bool = False) -> None:
        """`scorers` stand in for the configured bundle, where they are given. Raises `UpshiftError`.

        `at_once`: the bundle is loaded while the server runs. Health is told meanwhile, other requests wait;
        when it cannot be loaded, `failure` says why and `on_failure` is called.
        """
        self._settings = settings
        self._loaded = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._running: Running | None = None
        self.failure: UpshiftError | None = None
        self.on_failure: Callable[[], None] | None = None
        self._meter = open_meter(settings.auth)
        self._memory = LoopMemory(settings.loop)
        self._board = Board()
        if not at_once:
            loaded = scorers or load_scorers(settings)
            self._running = self._first(loaded, try_canary(settings, loaded))
        self._retired: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self.on_reload: OnReload | None = None  # how the server at hand reloads

    def _first(self, scorers: Scorers | None, trial: Canary) -> Running:
        first = Running(
            self._settings, scorers, meter=self._meter, memory=self._memory, canary=trial, board=self._board
        )
        first.app.console.show_plan()
        return first

    @property
    def running(self) -> Running:
        """What is in force; there is always something once `loaded` has returned."""
        assert self._running is not None
        return self._running

    async def loaded(self) -> None:
        """Wait for the first application to be warm, or to have failed."""
        await self._loaded.wait()

    async def retired(self) -> None:
        """Wait for the applications that were replaced to have answered their last requests."""
        await asyncio.gather(*self._retired, return_exceptions=True)

    @property
    def app(self) -> UpshiftApp:
        """The application in force."""
        return self.running.app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        running = self._running
        if running is None:
            if await self._tell_health(scope, send):
                return
            await self._loaded.wait()
            running = self._running
            if running is None:
                refusal = ApiError(503, "The server could not start.", code="shutting_down", retry=True)
                await send_whole(send, refusal.status, refusal.headers(), refusal.body())
                return
        running.enter()
        try:
            await running.app(scope, receive, send)
        finally:
            running.leave()

    def drain(self) -> None:
        """No longer ready: what is running is finished, nothing new is wanted."""
        if self._running is not None:
            self._running.app.ready = False

    async def _tell_health(self, scope: Scope, send: Send) -> bool:
        """Answer for an application that is not there yet. False: no question of health."""
        status = {"/healthz": 200, "/readyz": 503}.get(scope["path"])
        if status is None:
            return False
        await send_whole(send, status, [(b"content-type", b"application/json")], b'{"status":"starting"}')
        return True

    async def _load(self) -> None:
        """The first application, beside a server that runs already."""
        try:
            scorers = await asyncio.to_thread(load_scorers, self._settings)
            new = self._first(scorers, await asyncio.to_thread(try_canary, self._settings, scorers))
            await new.start()
            new.app.on_reload = self._reload_now
            self._running = new
        except UpshiftError as error:
            self.failure = error
            if self.on_failure is not None:
                self.on_failure()
        finally:
            self._loaded.set()

    async def reload(self, read: Callable[[], Settings]) -> bool:
        """Put what `read` gives in front. False, and all as before, when it cannot be used."""
        async with self._reloading:
            await self._loaded.wait()
            old = self.running
            try:
                new = await self._prepare(read)
            except UpshiftError as error:
                _log.error("reload refused, the configuration in force stays: %s", error)
                return False
            self._board.point.clear()  # what the configuration says holds again
            self._running = new
            new.app.on_reload = self._reload_now
            _log.info("reloaded: policy %s", new.app.gateway.scorers.policy.version)
            task = asyncio.get_running_loop().create_task(self._retire(old))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
            return True

    async def _reload_now(self) -> bool | None:
        return None if self.on_reload is None else await self.on_reload()

    async def _prepare(self, read: Callable[[], Settings]) -> Running:
        """A new application, warm and ready. Raises `UpshiftError`."""
        old = self.running
        settings = await asyncio.to_thread(read)
        _warn_of_fixed(old.settings, settings)
        scorers = await asyncio.to_thread(load_scorers, settings)
        canary = Canary()
        try:
            canary = await asyncio.to_thread(load_canary, settings, scorers)
            for each in (scorers, canary.scorers):
                if each is not None:
                    await each.warm()
            new = Running(settings, scorers, self._meter, self._memory, canary, self._board, before=old)
        except UpshiftError:
            for each in (scorers, canary.scorers):
                if each is not None:
                    await each.close()
            raise
        await new.start()
        return new

    async def _retire(self, old: Running) -> None:
        if old.in_flight:
            await old.emptied()
        await old.stop()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self._running is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())
        else:
            self._running.app.on_reload = self._reload_now
            await self._running.start()
            self._loaded.set()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._loaded.wait()
        if self._retired:
            await asyncio.wait(self._retired, timeout=1.0)
        if self._running is not None:
            await self._running.stop()
        await self._meter.close()
        await asyncio.to_thread(self._memory.close)
        await self._board.close()
        await send({"type": "lifespan.shutdown.complete"})


def load_scorers(settings: Settings) -> Scorers | None:
    """The configured bundle on duty, or the starter bundle; None where neither is wanted or there. Raises
    `BundleError`."""
    if not wants_scorers(settings):
        return None
    socket = _scorer_socket(settings)
    if settings.bundle is None:
        return load_starter(settings.routing, socket)
    from proxy.bundle_scorers import load_bundle

    scorers = load_bundle(settings.bundle, settings.routing, scorer_socket=socket)
    tell_other_models(scorers.fitted_for, [tier.model for tier in settings.tiers])
    return scorers


def _scorer_socket(settings: Settings) -> Path | None:
    """Where the process is that scores for all workers; None: scorers are loaded here."""
    socket = os.environ.get(SOCKET) if settings.server.share_scorers else None
    return Path(socket) if socket else None


@dataclass(frozen=True, slots=True)
class Canary:
    """A bundle for trial, or why there is none although one is configured."""

    scorers: Scorers | None = None
    refused: str = ""


def load_canary(settings: Settings, stable: Scorers | None) -> Canary:
    """The bundle of `loop.canary`. Raises `BundleError`."""
    path = settings.loop.canary.bundle
    if path is None or not settings.loop.canary.share:
        return Canary()
    from proxy.bundle_scorers import load_bundle

    scorers = load_bundle(path, settings.routing, scorer_socket=_scorer_socket(settings))
    if stable is not None and scorers.policy.version == stable.policy.version:
        return Canary(None, f"version {scorers.policy.version} is in force already")
    return Canary(scorers)


def try_canary(settings: Settings, stable: Scorers | None) -> Canary:
    """The same for a server that starts: what cannot be used is told and left out."""
    try:
        return load_canary(settings, stable)
    except BundleError as error:
        _log.error("loop.canary.bundle is not tried: %s", error)
        return Canary(None, str(error))


def _warn_of_fixed(old: Settings, new: Settings) -> None:
    for name in _FIXED:
        before, after = getattr(old.server, name), getattr(new.server, name)
        if before != after:
            _log.warning("server.%s: %s -> %s needs a restart; the old value stays", name, before, after)
