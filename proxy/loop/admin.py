"""The operator's endpoints of the loop; `proxy.door` lets nobody else reach them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Response
from starlette.responses import JSONResponse

from proxy.api_schemas import ErrorResponse
from proxy.loop.watch import Loop
from proxy.wire_error import ApiError


def add_loop_admin(app: FastAPI, loop: Loop) -> None:
    """Register them on `app`."""

    @app.get("/admin/loop", tags=["operation"])
    async def show_loop() -> Response:
        """Quality with its interval, savings, drift, certificate and trial, as `proxy.loop.snapshot` says."""
        return JSONResponse(loop.snapshot().to_dict())

    @app.post("/admin/canary/promote", responses={409: {"model": ErrorResponse}}, tags=["operation"])
    async def promote() -> Response:
        """The bundle on trial is in force from now on; other workers follow within `loop.interval_s`."""
        return await _end(loop.promote, "promoted")

    @app.post("/admin/canary/rollback", responses={409: {"model": ErrorResponse}}, tags=["operation"])
    async def roll_back() -> Response:
        """The bundle on trial decides nothing any more; other workers follow within `loop.interval_s`."""
        return await _end(loop.roll_back, "rolled_back")


async def _end(act: Callable[[], Awaitable[bool]], word: str) -> Response:
    if not await act():
        raise ApiError(
            409, "No bundle is on trial: loop.canary names none, or its trial is over; GET /admin/loop says "
            "which.", code="no_canary",
        )  # fmt: skip
    return JSONResponse({"status": word})
