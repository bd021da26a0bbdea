"""Errors of FastAPI's endpoints in OpenAI's shape: unknown URL, wrong method, bad parameters, a bug.

`proxy.edge` adds the request id and what else every answer carries.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from proxy.wire_error import ApiError

_log = logging.getLogger("upshift")


def respond(error: ApiError) -> Response:
    """An `ApiError` as a Starlette response."""
    headers = {name.decode(): value.decode("latin-1") for name, value in error.headers()}
    return Response(error.body(), error.status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Every error of every route comes out in the one shape."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return respond(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return respond(_translate(request, error))

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return respond(ApiError(400, f"'{where or 'body'}': {first['msg']}.", param=where or None))

    async def on_bug(request: Request, error: Exception) -> Response:
        _log.error("unhandled error on %s: %s", request.url.path, type(error).__name__)
        return respond(ApiError(500, "The server had an error while processing your request.", retry=None))

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_bug)


def _translate(request: Request, error: HTTPException) -> ApiError:
    method, path = request.method, request.url.path
    if error.status_code == 404:
        hint = "" if path.startswith("/v1/") else " OpenAI's API is below /v1: does the base URL end in /v1?"
        return ApiError(404, f"Unknown URL: {method} {path}.{hint}", code="unknown_url")
    if error.status_code == 405:
        given = {name.lower(): value for name, value in (error.headers or {}).items()}
        return ApiError(
            405, f"{method} is not allowed on {path}.", code="method_not_allowed", allow=given.get("allow")
        )
    return ApiError(error.status_code, str(error.detail))
