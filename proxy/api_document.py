"""`/openapi.json`: FastAPI's document, and in it the paths that bypass FastAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from proxy import api_schemas as schemas
from proxy.models import STREAM_MODES

_REF = "#/components/schemas/{model}"
_CLIENT_ERRORS = (400, 401, 404, 405, 413, 415)
_UPSTREAM_ERRORS = (403, 409, 422, 429, 500, 502, 503, 504)
# No schema: OpenAPI 3.1 has none for a stream, and tools differ on what one would describe.
_EVENTS: dict[str, Any] = {"text/event-stream": {}}

# path: (request, answer, summary, may it stream)
_POSTS: dict[str, tuple[type[BaseModel], type[BaseModel], str, bool]] = {
    "/v1/chat/completions": (
        schemas.ChatCompletionRequest, schemas.Completion, "A chat completion, routed or pinned.", True,
    ),
    "/v1/completions": (
        schemas.CompletionRequest, schemas.Completion, "A text completion, routed or pinned.", True,
    ),
    "/v1/responses": (
        schemas.ResponseRequest, schemas.ResponseObject,
        "A response: translated to a chat completion unless a tier that has the API is pinned.", True,
    ),
    "/v1/embeddings": (
        schemas.EmbeddingRequest, schemas.EmbeddingList,
        "Vectors, from the configured backend or a tier.", False,
    ),
    "/v1/route": (
        schemas.RouteRequest, schemas.RouteAnswer, "Scores and decision for a prompt; nothing is generated.",
        False,
    ),
    "/v1/feedback": (
        schemas.FeedbackRequest, schemas.FeedbackAnswer, "How good an answer was, by its request id.", False,
    ),
    "/chat": (
        schemas.ChatRequest, schemas.ChatAnswer, "One prompt in, the routed answer out.", False,
    ),
}  # fmt: skip


def install_document(app: FastAPI, strategies: Sequence[str]) -> None:
    """Make `app.openapi` give the whole document; it is made once, when first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
            names = {"strategy": list(strategies), "stream_mode": list(STREAM_MODES)}
            _name_values(app.openapi_schema["components"]["schemas"], names)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _build(app: FastAPI) -> dict[str, Any]:
    out = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    models = {model for request, answer, _, _ in _POSTS.values() for model in (request, answer)}
    models.add(schemas.ErrorResponse)
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    components = out.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions["$defs"])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    paths = out["paths"]
    for path in paths:
        if path.startswith("/v1/"):
            _secure(paths[path])
    for path, (request, answer, summary, streams) in _POSTS.items():
        paths[path] = {"post": _operation(path, request, answer, summary, streams)}
    paths["/v1/responses/{response_id}"] = {
        "get": _stored("get", "A response that a tier keeps."),
        "delete": _stored("delete", "Delete a response that a tier keeps."),
    }
    return out


def _operation(
    path: str, request: type[BaseModel], answer: type[BaseModel], summary: str, streams: bool
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(answer)}}
    if streams:
        content |= _EVENTS
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "tags": ["proxied"],
        "summary": summary,
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
        "responses": {"200": {"description": "The answer.", "content": content}, **_errors()},
    }


def _stored(method: str, summary: str) -> dict[str, Any]:
    parameter = {"name": "response_id", "in": "path", "required": True,
                 "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,256}$"}}  # fmt: skip
    return {
        "operationId": f"{method}_response",
        "tags": ["proxied"],
        "summary": summary,
        "security": [{"key": []}],
        "parameters": [parameter],
        "responses": {
            "200": {
                "description": "The backend's answer.",
                "content": {"application/json": {"schema": _ref(schemas.ResponseObject)}, **_EVENTS},
            },
            **_errors(),
        },
    }


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schemas.ErrorResponse)}}
    return {
        **{
            str(code): {"description": "The request is wrong.", "content": content} for code in _CLIENT_ERRORS
        },
        **{str(code): {"description": "The backend's.", "content": content} for code in _UPSTREAM_ERRORS},
    }


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _name_values(node: Any, names: Mapping[str, list[str]]) -> None:
    """Put the values that exist here where a schema only says which kind they are."""
    if isinstance(node, dict):
        if (kind := node.pop("x-upshift", None)) is not None:
            node["enum"] = names[kind]
        for value in node.values():
            _name_values(value, names)
    elif isinstance(node, list):
        for value in node:
            _name_values(value, names)


def _secure(operations: dict[str, Any]) -> None:
    for operation in operations.values():
        operation["security"] = [{"key": []}]
