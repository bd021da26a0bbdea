"""The one place that builds an error a client sees: OpenAI's shape, all four keys, the right status."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from proxy.retry_after import retry_after_s
from routing.errors import BackendBroken, BackendError, BackendTimeout, BackendUnavailable, UpshiftError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_MAX_MESSAGE_CHARS = 2_000
_LONGEST_S = 365 * 86_400  # of a `Retry-After`
_CODE = re.compile(r"[a-z_]{1,40}")


class ApiError(UpshiftError):
    """An answer that is an error. `retry` sets `x-should-retry`; None leaves it to the client; `allow`
    lists the methods for a 405; `extra` are further headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        retry: bool | None = False,
        retry_after: str | None = None,
        allow: str | None = None,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind or _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.retry = retry
        self.retry_after = retry_after
        self.allow = allow
        self.extra = extra

    def body(self) -> bytes:
        """The JSON body."""
        return orjson.dumps({"error": self.payload()})

    def payload(self) -> dict[str, str | None]:
        """What stands under `error`."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that go with it, content type and length included."""
        out = [(b"content-type", b"application/json"), *self.extra]
        if self.retry_after is not None:
            out.append((b"retry-after", self.retry_after.encode("latin-1", "replace")))
        if self.allow is not None:
            out.append((b"allow", self.allow.encode("latin-1")))
        if self.retry is not None:
            out.append((b"x-should-retry", b"true" if self.retry else b"false"))
        return out


class Overloaded(ApiError):
    """The request is shed: there is no room for it now."""

    def __init__(self, why: str, retry_after_s: int) -> None:
        super().__init__(
            503, f"The server is overloaded: {why}.", code="overloaded", retry=True,
            retry_after=str(retry_after_s),
        )  # fmt: skip


def model_not_found(model: str, known: list[str]) -> ApiError:
    names = ", ".join(known[:20])
    return ApiError(
        404,
        f"The model '{model[:200]}' does not exist. Available: {names}.",
        code="model_not_found",
        param="model",
    )


def from_backend_error(error: BackendError, tier: str) -> ApiError:
    """No reply at all -> 502, 503 or 504, without the backend's address."""
    if isinstance(error, BackendTimeout):
        return ApiError(
            504,
            f"The backend of tier '{tier}' did not answer in time ({error.stage}).",
            code="backend_timeout",
        )
    if isinstance(error, BackendUnavailable):
        return ApiError(503, f"The backend of tier '{tier}' cannot be reached.", code="backend_unavailable")
    if isinstance(error, BackendBroken):
        return ApiError(
            502, f"The backend of tier '{tier}' broke off its answer: {error}.", code="backend_broken"
        )
    return ApiError(502, f"The backend of tier '{tier}' failed.", code="backend_failed")


def from_backend_reply(status: int, body: bytes, headers: Mapping[str, str], tier: str) -> ApiError:
    """A backend's error reply in OpenAI's shape; its own words where it has any.

    401 and 403 are about the proxy's credentials, not the client's, and may quote a key: their text is
    never passed on.
    """
    payload = _error_payload(body)
    named_s = retry_after_s(headers.get("retry-after"))
    code = _text(payload.get("code"))
    if status in (401, 403):
        message = f"The backend of tier '{tier}' refused the proxy's credentials ({status})."
        return ApiError(status, message, code=code if code and _CODE.fullmatch(code) else None)
    message = _text(payload.get("message")) or f"The backend of tier '{tier}' answered with status {status}."
    return ApiError(
        status if 400 <= status <= 599 else 502,
        message[:_MAX_MESSAGE_CHARS],
        code=code,
        param=_text(payload.get("param")),
        kind=_text(payload.get("type")),
        retry=status in (429, 503) and named_s is not None,
        retry_after=None if named_s is None else str(min(_LONGEST_S, math.ceil(named_s))),
    )


def error_code(body: bytes) -> str:
    """A backend's error code and message in one lower-case string, for recognising it; '' for none."""
    payload = _error_payload(body)
    return f"{payload.get('code') or ''} {payload.get('message') or ''}".strip().lower()


def _error_payload(body: bytes) -> Mapping[str, Any]:
    """OpenAI's `{"error": {...}}`, vLLM's older flat `{"message": ...}`, FastAPI's `{"detail": ...}`."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(data, dict):
        return {}
    error = data.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    if isinstance(data.get("message"), str):
        return data
    return {"message": data["detail"]} if isinstance(data.get("detail"), str) else {}


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value)
