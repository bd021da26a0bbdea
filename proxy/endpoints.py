"""The endpoints that FastAPI serves: models, health, metrics. Keys and CORS are `proxy.edge`'s."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Response
from starlette.responses import JSONResponse, PlainTextResponse

from proxy.api_schemas import ErrorResponse, ModelCard, ModelList
from proxy.gateway import Gateway
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.wire_error import ApiError, model_not_found

_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorResponse} for code in (400, 401, 404, 405)}


def add_endpoints(
    app: FastAPI,
    gateway: Gateway,
    metrics: Metrics,
    is_ready: Callable[[], bool],
    embeddings_model: str | None = None,
) -> None:
    """Register them on `app`."""

    def names() -> list[str]:
        known = gateway.names.ids(gateway.scorers.policy)
        return known if embeddings_model is None else list(dict.fromkeys([*known, embeddings_model]))

    def card(name: str) -> ModelCard:
        return ModelCard(id=name, owned_by="upshift" if name.startswith("upshift") else "backend")

    @app.get("/v1/models", responses=_ERRORS, tags=["models"])
    async def list_models() -> ModelList:
        """Strategies, tiers and backend ids."""
        return ModelList(data=[card(name) for name in names()])

    @app.get("/v1/models/{model:path}", responses=_ERRORS, tags=["models"])
    async def get_model(model: str) -> ModelCard:
        """One model; names with a threshold (`upshift-mf-0.35`) are models too."""
        if model not in names():
            if not model.startswith(("upshift", "router-")):
                raise model_not_found(model, names())
            gateway.names.resolve(model, None, {}, gateway.scorers.policy)
        return card(model)

    _add_health(app, gateway, metrics, is_ready)


def _add_health(app: FastAPI, gateway: Gateway, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "not ready"}}, tags=["operation"])
    async def readyz() -> Response:
        """Scorers are warm and requests are welcome."""
        if not is_ready():
            return JSONResponse({"status": "starting"}, 503)
        return JSONResponse({"status": "ready", "policy": gateway.scorers.policy.version, "pid": os.getpid()})

    @app.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
    async def show_metrics() -> Response:
        """Prometheus' exposition text."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)


def add_admin(app: FastAPI, on_reload: Callable[[], Callable[[], Awaitable[bool | None]] | None]) -> None:
    """The operator's endpoints; `proxy.door` lets nobody else reach them."""

    @app.post("/admin/reload", responses={409: {"model": ErrorResponse}}, tags=["operation"])
    async def reload() -> Response:
        """Read configuration and bundle again and swap them in; refused as a whole when anything is wrong.

        200: done; 202: every worker has been told; 409: refused, all is as before, the log says why.
        """
        act = on_reload()
        if act is None:
            raise ApiError(501, "This server cannot reload itself.", code="not_supported")
        done = await act()
        if done is None:
            return JSONResponse({"status": "reloading"}, 202)
        if not done:
            raise ApiError(
                409, "The configuration or bundle cannot be used; the one in force stays. The log says why.",
                code="reload_refused",
            )  # fmt: skip
        return JSONResponse({"status": "reloaded"})
