"""The headers of an answer: the request's id, CORS, OpenAI's own, and how the answer came about.

All of it is byte tuples made once or with one format call: the proxied paths bypass every middleware, so
what they need is added here, for about a microsecond a request.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence

from proxy.wire import Headers, Scope, header
from routing.decision import Route

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_LONGEST_CHARS = 1024  # clients refuse answers with large headers
_VERSION = (b"openai-version", b"2020-10-01")  # the one version OpenAI's API ever had
_TRACE_HEADERS = (b"traceparent", b"tracestate")
_OURS = frozenset({"openai-processing-ms", "openai-version"})  # told by the proxy, for the whole request
_METHODS = b"GET, POST, DELETE, HEAD, OPTIONS"
_PREFLIGHT_MAX_AGE_S = b"7200"  # Chromium keeps a preflight's answer no longer than this
# Firefox and older WebKit do not read `*` here for requests with credentials, so every name is listed.
_EXPOSED = b", ".join(
    [
        b"x-request-id", b"openai-processing-ms", b"openai-version", b"openai-organization",
        b"retry-after", b"x-should-retry",
        *(b"x-upshift-" + name for name in (
            b"tier", b"model", b"decision", b"reason", b"route-score", b"evaluator-score", b"policy",
            b"cost-usd", b"certificate",
        )),
        *(b"x-ratelimit-" + kind + b"-" + unit for kind in (b"limit", b"remaining", b"reset")
          for unit in (b"requests", b"tokens")),
    ]
)  # fmt: skip


class Cors:
    """Which web pages may call. `origins` holds `*`, or exact origins; empty: none may."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)
        self._open: Headers = [
            (b"access-control-allow-origin", b"*"),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def headers(self, scope: Scope) -> Headers:
        """What every answer of the API carries. Never to be changed in place."""
        if self._any:
            return self._open
        if not self._origins:
            return []
        vary = (b"vary", b"origin")
        origin = header(scope, b"origin")
        if origin is None or origin not in self._origins:
            return [vary]
        return [(b"access-control-allow-origin", origin), self._open[1], vary]

    def preflight(self, scope: Scope) -> Headers:
        """The answer to an OPTIONS request, besides `headers`.

        `*` as the allowed headers would not cover `authorization` (Fetch standard, "CORS-preflight fetch"),
        so the names that were asked for are repeated.
        """
        asked = header(scope, b"access-control-request-headers")
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", asked or b"authorization, content-type, *"),
            (b"access-control-max-age", _PREFLIGHT_MAX_AGE_S),
        ]


def request_id(scope: Scope) -> str:
    """The client's `x-request-id` where it is printable and short, else a new one.

    New ones begin with the time (as UUIDv7, RFC 9562), so that the decision log's index grows at one end:
    ids in no order touch a page of it each, at up to three times the time of a row.
    """
    given = header(scope, b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"req_{time.time_ns() // 1_000_000:012x}{os.urandom(8).hex()}"


def opening_headers(identity: str, cors: Headers) -> Headers:
    """What any answer of the API begins with."""
    return [(b"x-request-id", identity.encode()), _VERSION, *cors]


def processing_ms(started: float) -> tuple[bytes, bytes]:
    """Milliseconds since `started` (`time.perf_counter`), as OpenAI tells them: a whole number."""
    return (b"openai-processing-ms", b"%d" % ((time.perf_counter() - started) * 1e3))


def traced(scope: Scope) -> dict[str, str]:
    """W3C trace context goes on to the backend; nothing else of the client's headers does."""
    return {key.decode(): value.decode("latin-1") for key, value in scope["headers"] if key in _TRACE_HEADERS}


def passed_on(headers: Mapping[str, str]) -> Headers:
    """The backend's headers a client may see: OpenAI's own, nothing that belongs to a hop."""
    out: Headers = []
    for name, value in headers.items():
        if name == "content-type" or name.startswith(("openai-", "x-ratelimit-")):
            if len(value) > _LONGEST_CHARS:
                continue
            if value.lower().startswith("text/event-stream") if name == "content-type" else name in _OURS:
                continue
            out.append((name.encode("latin-1"), value.encode("latin-1")))
    return out


def decision_headers(route: Route, tier: str, model: str) -> Headers:
    """`x-upshift-*`: which tier answered, why, and the scores that were asked for."""
    out: Headers = [
        (b"x-upshift-tier", tier.encode()),
        (b"x-upshift-model", model.encode("latin-1", "replace")),
        (b"x-upshift-decision", route.decision.encode()),
        (b"x-upshift-reason", route.reason.encode()),
    ]
    if route.route_score is not None:
        out.append((b"x-upshift-route-score", b"%.6f" % route.route_score))
    if route.answer_score is not None:
        out.append((b"x-upshift-evaluator-score", b"%.6f" % route.answer_score))
    if route.policy_version:
        out.append((b"x-upshift-policy", route.policy_version.encode()))
    return out
