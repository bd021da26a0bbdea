"""What the console asks of the server: its page, its figures, and the one thing it may change.

The figures are below `/admin`, so `proxy.door` has already asked who comes: this machine, or a key of scope
`admin`. A change that a web page asks for always needs the key, also on this machine.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.routing import Route

from proxy.answer_headers import request_id
from proxy.api_schemas import ErrorResponse
from proxy.board import Board
from proxy.console.curve import curve_of
from proxy.console.overview import overview_of, point_in_force
from proxy.console.page import Page
from proxy.console.schemas import CurveOut, Decisions, MovePoint, Overview, Point
from proxy.door import KEY_ID
from proxy.dry_run import route_endpoint
from proxy.gateway import Gateway
from proxy.loop.snapshot import Snapshot
from proxy.plan import plan_of
from proxy.recent import SLOTS
from proxy.wire import Message, Receive, Scope, Send
from proxy.wire_error import ApiError

_audit = logging.getLogger("upshift.audit")
_REFUSED: dict[int | str, dict[str, Any]] = {code: {"model": ErrorResponse} for code in (400, 401, 403, 404)}
_CONFLICT: dict[int | str, dict[str, Any]] = {**_REFUSED, 409: {"model": ErrorResponse}}


class Console:
    """The endpoints of one application."""

    def __init__(self, app: FastAPI, gateway: Gateway, board: Board) -> None:
        self._app = app
        self._gateway = gateway
        self._board = board

    def show_plan(self) -> None:
        """Tell the metrics what is foreseen at a point that was moved before this application was there."""
        point = point_in_force(self._gateway, self._board)
        if point.moved_at is not None:
            self._show_plan(point)

    def overview(self) -> Overview:
        """Everything at a glance, over all workers: what `/metrics` counts, what the policy foresaw."""
        loop = getattr(self._app, "loop", None)
        snapshot = Snapshot() if loop is None else loop.snapshot()
        return overview_of(self._gateway, self._board, snapshot.to_dict())

    def decisions(self, since: float, limit: int) -> Decisions:
        """The last decisions of all workers, newest first; without prompts unless `log.store_text`."""
        found = self._board.recent.read(since, limit)
        return Decisions.model_validate({"decisions": found, "text": self._gateway.settings.log.store_text})

    def curve(self, strategy: str | None) -> CurveOut:
        """What every operating point comes to on the calibration prompts; `strategy` None: the one in force.

        Raises `ApiError` 400.
        """
        scorers, point = self._gateway.scorers, point_in_force(self._gateway, self._board)
        name = strategy or point.strategy
        if name not in scorers.policy.strategies:
            known = ", ".join(scorers.policy.strategies)
            raise ApiError(400, f"There is no strategy '{name[:40]}'; there are {known}.", param="strategy")
        tiers = [tier.name for tier in self._gateway.ladder.tiers]
        return curve_of(scorers, tiers, name, point.threshold, point.calibrated, name == point.strategy)

    def move(self, wanted: MovePoint, key: str, request: str) -> Point:
        """Put a point in force for all workers until a reload. Raises `ApiError` 400, 409."""
        before = point_in_force(self._gateway, self._board)
        if wanted.version != before.version:
            raise ApiError(
                409, f"The policy in force is {before.version}: look at its curve before moving its point.",
                code="policy_changed", param="version",
            )  # fmt: skip
        if wanted.threshold is None or wanted.threshold == before.calibrated:
            self._board.point.clear()
        else:
            self._check_allowed(wanted.threshold)
            self._board.point.set(before.version, before.strategy, wanted.threshold)
        after = point_in_force(self._gateway, self._board)
        self._show_plan(after)
        about = {
            "action": "operating_point",
            "key": key,
            "request_id": request,
            "policy": after.version,
            "strategy": after.strategy,
            "from": before.threshold,
            "to": after.threshold,
            "certified": after.certified,
        }
        told = " ".join(f"{name}={value}" for name, value in about.items())
        _audit.warning("%s", told, extra={"about": about})
        return after

    def _check_allowed(self, threshold: float) -> None:
        curve = self.curve(None)
        if any(point.threshold == threshold and point.allowed for point in curve.points):
            return
        why = "it is no point of the curve"
        if curve.missing:
            why = curve.missing
        elif curve.promise.state == "valid":
            why = "the certificate does not hold for it"
        raise ApiError(
            400, f"The operating point {threshold:g} cannot be put in force: {why}.",
            code="point_not_allowed", param="threshold",
        )  # fmt: skip

    def _show_plan(self, point: Point) -> None:
        scorers = self._gateway.scorers
        plan = scorers.plan
        if point.moved_at is not None:
            rule = scorers.policy.rule(point.strategy, point.threshold)
            plan = plan_of(scorers.rows, rule, scorers.policy.explore_share)
        self._gateway.metrics.policy.show_plan(plan)


def add_console(app: FastAPI, gateway: Gateway, board: Board) -> Console:
    """Register page and endpoints."""
    console, settings = Console(app, gateway, board), gateway.settings
    own_port = bool(settings.server.admin_port)
    if settings.console.enabled:
        page = Page(settings.console.sample_prompts, "admin/" if own_port else "v1/")
        app.router.routes.append(Route("/console{path:path}", page, include_in_schema=False))
    if own_port:  # the API is on another port, which a page may not call
        _add_playground(app, gateway)
    _add_figures(app, console)
    return console


def _add_figures(app: FastAPI, console: Console) -> None:
    @app.get("/admin/overview", responses=_REFUSED, tags=["operation"])
    async def overview() -> Overview:
        """Everything at a glance, over all workers: what `/metrics` counts, what the policy foresaw."""
        return await asyncio.to_thread(console.overview)

    @app.get("/admin/decisions", responses=_REFUSED, tags=["operation"])
    async def decisions(
        since: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0,
        limit: Annotated[int, Query(ge=1, le=SLOTS)] = 50,
    ) -> Decisions:
        """The last decisions of all workers, newest first; without prompts unless `log.store_text`."""
        return await asyncio.to_thread(console.decisions, since, limit)

    @app.get("/admin/curve", responses=_REFUSED, tags=["operation"])
    async def curve(strategy: Annotated[str | None, Query(max_length=40)] = None) -> CurveOut:
        """What every operating point of the bundle comes to on its calibration prompts."""
        return await asyncio.to_thread(console.curve, strategy)

    @app.post("/admin/operating-point", responses=_CONFLICT, tags=["operation"])
    async def move(wanted: MovePoint, request: Request) -> Point:
        """Put another point of the curve in force for all workers of this server, until a reload; logged."""
        key = request.scope.get(KEY_ID, "this machine")
        return await asyncio.to_thread(console.move, wanted, key, request_id(request.scope))


def _add_playground(app: FastAPI, gateway: Gateway) -> None:
    routes: dict[str, Any] = {
        "/admin/chat/completions": partial(gateway.serve, "chat"),
        "/admin/route": route_endpoint(gateway),
    }
    for path, handler in routes.items():
        app.router.routes.append(
            Route(path, _Private(handler), methods=["POST"], include_in_schema=False)  # as below /v1
        )


class _Private:
    """An endpoint of the API without what lets pages of other origins read it."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [item for item in message["headers"] if not item[0].startswith(b"access-control-")]
                message = {**message, "headers": kept}
            await send(message)

        await self._handler(scope, receive, without_cors)
