"""/v1/responses/{id}: responses that a tier keeps.

An id names no tier, and a proxy with several replicas remembers none, so the tiers that have the API are
asked in turn, the last first; the first that knows the id answers.
"""

from __future__ import annotations

import re

from proxy.gateway import Gateway
from proxy.pass_through import PassThrough, Target
from proxy.responses.form import ResponseForm
from proxy.wire import ClientGone, Receive, Scope, Send, read_body
from proxy.wire_error import ApiError

_PATH = re.compile(r"/v1(/responses/([A-Za-z0-9_-]{1,256})(?:/(input_items|cancel))?)")
_LABEL = "responses"


def stored_methods(path: str) -> tuple[str, ...] | None:
    """The methods of a stored response's path; None: not one."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    return {None: ("GET", "DELETE"), "input_items": ("GET",), "cancel": ("POST",)}[match[3]]


class StoredResponses:
    """Retrieve, delete, cancel, list input items. The caller has checked key, path and method."""

    def __init__(self, gateway: Gateway, passing: PassThrough) -> None:
        self._gateway = gateway
        self._passing = passing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        match = _PATH.fullmatch(scope["path"])
        assert match is not None
        query = scope.get("query_string", b"").decode("latin-1")
        path = match[1] + ("?" + query if query else "")
        try:
            await read_body(scope, receive, gateway.settings.server.max_body_bytes)
            for index in reversed(range(len(gateway.ladder))):
                tier = gateway.ladder[index]
                if "responses" not in tier.capabilities:
                    continue
                target = Target(tier, gateway.backends[index], index)
                if await self._passing.serve(
                    _LABEL, scope, receive, send, target, path, b"", method=scope["method"],
                    stream="stream=true" in query, declines=_unknown_here, form=ResponseForm(),
                ):  # fmt: skip
                    return
            raise ApiError(
                404, f"No tier keeps a response '{match[2]}'. Routed responses are not stored.",
                param="response_id",
            )  # fmt: skip
        except (ApiError, ClientGone) as error:
            await gateway.refuse(_LABEL, scope, send, error)


def _unknown_here(status: int, body: bytes) -> bool:
    return status in (404, 405, 501)
