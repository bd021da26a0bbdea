"""A request whose body has been read, given to an application as if it still had to come."""

from __future__ import annotations

from proxy.wire import Message, Receive, Scope

_OF_THE_BODY = frozenset({b"content-length", b"content-encoding", b"content-type", b"transfer-encoding"})


def replayed(body: bytes, receive: Receive) -> Receive:
    """`body` in one message first, then whatever the connection says (a disconnect, above all)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def with_body(scope: Scope, body: bytes) -> Scope:
    """The scope of the same request with this JSON body: what its headers said of the old one goes."""
    headers = [item for item in scope["headers"] if item[0] not in _OF_THE_BODY]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return {**scope, "headers": headers}
