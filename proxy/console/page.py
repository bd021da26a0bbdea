"""The page itself: a handful of static files, read once, served to whoever reaches the port.

It holds no figure and no secret; what it shows it asks of `/admin` and of the API with the keys of the person
in front of it. Its policy lets it load nothing but its own files and talk to nobody but this server, so a
prompt or an answer that is shown can do nothing. `script-src` without inline code and trusted types mean that
text never becomes markup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from proxy.wire import Receive, Scope, Send, header, send_whole
from proxy.wire_error import ApiError

_FILES = Path(__file__).parent / "static"
_KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".json": b"application/json",
}
_CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = [
    (b"content-security-policy", _CSP),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-cache"),  # asked again each time, answered by 304: an upgrade shows at once
]
SAMPLES = (
    "What is the capital of Australia?",
    "Write a haiku about the sea.",
    "A train leaves at 9:40 and arrives at 11:15. How long does it take?",
    "Explain in two sentences why the sky is blue.",
    "Sort these by size: whale, ant, horse, cat.",
    "Write a Python function that merges two sorted lists.",
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    kind: bytes
    etag: bytes


class Page:
    """ASGI for `/console` and what is below it: GET and HEAD (which arrives as GET) alone."""

    def __init__(self, samples: Sequence[str], api: str) -> None:
        """`api` is where its playground finds the API from here: `v1/` or `admin/`."""
        about = orjson.dumps({"samples": list(samples or SAMPLES), "api": api})
        self._files = {"page.json": _file(about, ".json")}
        for path in sorted(_FILES.iterdir()):
            self._files[path.name] = _file(path.read_bytes(), path.suffix)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix("/console")
        if scope["method"] != "GET":
            raise ApiError(405, f"{scope['method']} is not allowed on {scope['path']}.",
                           code="method_not_allowed", allow="GET")  # fmt: skip
        if path == "/":  # the page's links are relative to where it is without the slash
            await send_whole(send, 308, [(b"location", b"../console")], b"")
            return
        file = self._files.get(path.removeprefix("/") or "index.html")
        if file is None:
            raise ApiError(404, f"Unknown URL: GET {scope['path']}.", code="unknown_url")
        headers = [*_HEADERS, (b"etag", file.etag)]
        if header(scope, b"if-none-match") == file.etag:
            await send_whole(send, 304, headers, b"")
            return
        await send_whole(send, 200, [*headers, (b"content-type", file.kind)], file.body)


def _file(body: bytes, suffix: str) -> _File:
    return _File(body, _KINDS[suffix], b'"' + hashlib.sha256(body).hexdigest()[:20].encode() + b'"')
