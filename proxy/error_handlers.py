"""Errors of our own endpoints in OpenAI's shape: unknown URL, wrong method, bad body, a bug."""

from __future__ import annotations

import logging
import os

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from proxy.wire_error import ApiError

_log = logging.getLogger("upshift")


def respond(error: ApiError, request_id: str | None = None) -> Response:
    """An `ApiError` as a Starlette response."""
    headers = {name.decode(): value.decode("latin-1") for name, value in error.headers()}
    headers["x-request-id"] = request_id or "req_" + os.urandom(12).hex()
    return Response(error.body(), error.status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Every error of every route comes out in the one shape."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return respond(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            wrong = ApiError(404, f"Unknown URL: {request.method} {request.url.path}.", code="unknown_url")
        elif error.status_code == 405:
            wrong = ApiError(
                405, f"{request.method} is not allowed on {request.url.path}.", code="method_not_allowed"
            )
        else:
            wrong = ApiError(error.status_code, str(error.detail))
        response = respond(wrong)
        if error.headers and "allow" in {name.lower() for name in error.headers}:
            response.headers["allow"] = next(v for k, v in error.headers.items() if k.lower() == "allow")
        return response

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
