"""Our own endpoints: models, the dry run, health, metrics, and POST /chat."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, PlainTextResponse

from proxy.chat import ChatAnswer, ChatRequest, answer_chat
from proxy.dry_run import dry_run
from proxy.gateway import Gateway
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.wire_error import model_not_found

_CREATED = 1_700_000_000  # `created` has to be an integer; a tier has no birthday


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str | None
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """What every error looks like."""

    error: ErrorBody


class ModelCard(BaseModel):
    """One entry of `/v1/models`."""

    id: str
    object: str = "model"
    created: int = _CREATED
    owned_by: str


class ModelList(BaseModel):
    """`/v1/models`."""

    object: str = "list"
    data: list[ModelCard]


class RouteRequest(BaseModel):
    """A prompt to route without an answer: `prompt`, or `messages` as for chat completions."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = Field(None, max_length=1_000_000)
    messages: list[dict[str, Any]] | None = None
    model: str = "upshift"


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 401, 404, 413, 422, 429, 500, 502, 503, 504)
}


def add_endpoints(app: FastAPI, gateway: Gateway, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
    """Register them on `app`."""

    def authenticate(request: Request) -> None:
        header = request.headers.get("authorization")
        gateway.keys.check(header.encode("latin-1") if header is not None else None)

    def card(name: str) -> ModelCard:
        return ModelCard(id=name, owned_by="upshift" if name.startswith("upshift") else "backend")

    @app.get("/v1/models", responses=_ERRORS)
    async def list_models(request: Request) -> ModelList:
        """Strategies, tiers and backend ids."""
        authenticate(request)
        return ModelList(data=[card(name) for name in gateway.names.ids(gateway.scorers.policy)])

    @app.get("/v1/models/{model:path}", responses=_ERRORS)
    async def get_model(model: str, request: Request) -> ModelCard:
        """One model; names with a threshold (`upshift-mf-0.35`) are models too."""
        authenticate(request)
        names = gateway.names.ids(gateway.scorers.policy)
        if model not in names:
            if not model.startswith(("upshift", "router-")):
                raise model_not_found(model, names)
            gateway.names.resolve(model, None, {}, gateway.scorers.policy)
        return card(model)

    _add_routing(app, gateway, authenticate)
    _add_health(app, gateway, metrics, is_ready)


def _add_routing(app: FastAPI, gateway: Gateway, authenticate: Callable[[Request], None]) -> None:
    @app.post("/v1/route", responses=_ERRORS)
    async def route(body: RouteRequest, request: Request) -> dict[str, Any]:
        """Scores, thresholds, decision and reason for a prompt; nothing is generated."""
        authenticate(request)
        return await dry_run(
            gateway, body.model_dump(exclude_none=True), request.headers.get("x-upshift-strategy")
        )

    @app.post("/chat", responses=_ERRORS, response_model=ChatAnswer)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """One prompt in, the routed answer with its score out."""
        return await answer_chat(gateway, body, request)


def _add_health(app: FastAPI, gateway: Gateway, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "not ready"}})
    async def readyz() -> Response:
        """Scorers are warm and requests are welcome."""
        if not is_ready():
            return JSONResponse({"status": "starting"}, 503)
        return JSONResponse({"status": "ready", "policy": gateway.scorers.policy.version, "pid": os.getpid()})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Prometheus' exposition text."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)
