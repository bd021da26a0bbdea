"""`create_app`: the server as a value built from its arguments. Nothing happens at import.

FastAPI is the frame: it documents the API and serves the small endpoints. The proxied paths are taken out
before it, straight to the gateway, because they make up all of the load; what is left passes `proxy.edge`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from proxy.api_document import install_document
from proxy.auth import open_key_ring
from proxy.board import Board
from proxy.chat import ChatEndpoint
from proxy.console.endpoints import Console, add_console
from proxy.decision_log import open_decision_log
from proxy.door import Door
from proxy.dry_run import route_endpoint
from proxy.edge import Edge, Handler
from proxy.embeddings import Embeddings
from proxy.endpoints import add_admin, add_endpoints
from proxy.error_handlers import add_error_handlers
from proxy.feedback import feedback_endpoint
from proxy.gateway import Gateway
from proxy.held_bytes import HOLD, HeldBytes, Hold
from proxy.limits import Meter
from proxy.log_lines import RequestLines
from proxy.loop.admin import add_loop_admin
from proxy.loop.watch import Loop, LoopMemory
from proxy.loop.watched import Watcher
from proxy.meter import open_meter
from proxy.metrics import Metrics
from proxy.pass_through import PassThrough
from proxy.recent import WatchedLog
from proxy.recorder import Recorder
from proxy.responses.api import Responses
from proxy.responses.stored import StoredResponses
from proxy.scoring import NoScorers, Scorers
from proxy.settings import Settings
from proxy.tracing import open_tracing
from routing.errors import ScorerError, SettingsError
from routing.protocols import Backend, DecisionLog

_log = logging.getLogger("upshift")

Close = Callable[[], Awaitable[None]]
OnReload = Callable[[], Awaitable[bool | None]]  # whether it was done; None: it is under way


class UpshiftApp(FastAPI):
    """FastAPI with the proxied paths in front of it. `direct` answers POST to its paths."""

    gateway: Gateway
    metrics: Metrics
    direct: dict[str, Handler]
    edge: Edge
    door: Door
    loop: Loop
    meter: Meter
    held: HeldBytes
    board: Board
    console: Console
    ready: bool = False
    on_reload: OnReload | None = None
    closers: Sequence[Close] = ()  # in order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        handler = self.direct.get(scope["path"], self.edge) if scope["method"] == "POST" else self.edge
        hold = scope[HOLD] = Hold(self.held)
        try:
            await self.door.let_in(handler, scope, receive, send)
        finally:
            hold.release()

    async def serve_routes(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI's own part."""
        await super().__call__(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Scorers run once before the first request; whatever the application opened is closed after the last."""
    assert isinstance(app, UpshiftApp)
    arms = app.gateway.arms
    try:
        for arm in (arms.stable, arms.canary):
            if arm is not None:
                await arm.scorers.warm()
    except ScorerError:
        _log.exception("a scorer does not run; requests will fail over as configured")
    app.loop.start()
    app.ready = True
    yield
    app.ready = False
    for close in app.closers:
        await close()


def create_app(
    settings: Settings,
    backends: Sequence[Backend],
    scorers: Scorers | None = None,
    log: DecisionLog | None = None,
    metrics: Metrics | None = None,
    meter: Meter | None = None,
    canary: Scorers | None = None,
    memory: LoopMemory | None = None,
    canary_refused: str = "",
    board: Board | None = None,
    held: HeldBytes | None = None,
) -> UpshiftApp:
    """The only wiring. `backends[i]` answers for `settings.tiers[i]`; without `scorers` all routed
    prompts go to the last tier; `metrics`, `meter`, `memory`, `board`, `held` of an application before this
    one go on. `canary` is a bundle on trial; `canary_refused` says why there is none. Raises `SettingsError`.
    """
    ladder = settings.ladder()
    if len(backends) != len(ladder):
        raise SettingsError(f"{len(ladder)} tiers are configured, {len(backends)} backends were given")
    judge = scorers or NoScorers(len(ladder))
    if judge.policy.tiers not in (2, len(ladder)):
        raise SettingsError(f"bundle: fitted for {judge.policy.tiers} tiers, {len(ladder)} are configured")
    names = [tier.name for tier in ladder.tiers]
    metrics = Metrics(names) if metrics is None else metrics.for_tiers(names)
    metrics.policy.show(judge.policy.version, judge.plan, judge.valid_until)
    judge.attach(metrics)
    board = board or Board()
    decisions = WatchedLog(log or open_decision_log(settings.log, metrics.rows_dropped.inc), board.recent)
    keys = open_key_ring(settings.auth)
    tracing = open_tracing(settings.telemetry, ladder)
    lines = RequestLines(settings.telemetry.log_requests)
    loop_memory = memory or LoopMemory(settings.loop)
    recorder = Recorder(
        metrics, decisions, ladder, settings.log.store_text, lines, tracing, loop_memory.counts
    )
    if canary is not None and canary.policy.tiers not in (2, len(ladder)):
        raise SettingsError(f"loop.canary.bundle: fitted for {canary.policy.tiers} tiers")

    app = UpshiftApp(
        title="Upshift",
        summary="An OpenAI-compatible routing proxy: small model first, shift up when it must.",
        lifespan=_lifespan,
        docs_url="/docs",
        redoc_url=None,
    )
    app.metrics = metrics
    app.board = board
    gateway = app.gateway = Gateway(
        settings, ladder, backends, judge, metrics, recorder, canary, loop_memory.budget, board.point
    )
    if canary is not None:
        canary.attach(metrics)
    app.loop = Loop(
        settings.loop, settings.log.url, settings.server.workers, loop_memory, gateway.arms, metrics,
        Watcher(board.point, settings.routing.strategy), canary_refused,
    )  # fmt: skip
    app.meter = meter or open_meter(settings.auth)
    server = settings.server
    app.held = held or HeldBytes(server.max_held_bytes, server.shed_retry_after_s)
    app.held.max_bytes = server.max_held_bytes
    app.door = Door(keys, app.meter, settings.server.admin_port, gateway.refuse, gateway.cors)
    passing = PassThrough(gateway)
    embeddings = Embeddings(gateway, passing)
    app.direct = _direct_paths(gateway, passing, embeddings, decisions)
    app.edge = Edge(gateway, app.direct, StoredResponses(gateway, passing), app.serve_routes)
    add_endpoints(app, gateway, metrics, lambda: app.ready, embeddings.model)
    add_admin(app, lambda: app.on_reload)
    add_loop_admin(app, app.loop)
    app.console = add_console(app, gateway, board)
    add_error_handlers(app)
    install_document(app, list(judge.policy.strategies))
    closers: list[Close] = [app.loop.close]
    if gateway.shadows is not None:
        closers.append(gateway.shadows.close)
    if canary is not None:
        closers.append(canary.close)
    closers += [judge.close, embeddings.close, *(backend.close for backend in backends), decisions.close]
    if memory is None:
        closers.append(partial(asyncio.to_thread, loop_memory.close))
    if meter is None:
        closers.append(app.meter.close)
    if tracing is not None:
        closers.append(partial(asyncio.to_thread, tracing.close))
    app.closers = closers
    return app


def _direct_paths(
    gateway: Gateway, passing: PassThrough, embeddings: Embeddings, decisions: DecisionLog
) -> dict[str, Handler]:
    """POST requests that do not pass through FastAPI, by path."""
    return {
        "/v1/chat/completions": partial(gateway.serve, "chat"),
        "/v1/completions": partial(gateway.serve, "completions"),
        "/v1/responses": Responses(gateway, passing),
        "/v1/embeddings": embeddings,
        "/v1/route": route_endpoint(gateway),
        "/v1/feedback": feedback_endpoint(gateway, decisions),
        "/chat": ChatEndpoint(gateway),
    }
