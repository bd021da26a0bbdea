"""POST /v1/embeddings: to the configured embeddings backend, else to a tier's own.

A routed name has no embedding of its own: vectors of two models can't be mixed in one index, so there is
nothing to route, and without an `embeddings` section it means the last tier. Where a backend has no such URL
the answer is a 404 that names the remedy.
"""

from __future__ import annotations

import orjson

from proxy.backends.http import HttpBackend, HttpTimeouts
from proxy.backends.tls import backend_tls
from proxy.call import decode_fields, encode_fields, kind_of, load_field, string_field
from proxy.gateway import Gateway
from proxy.models import Pinned
from proxy.pass_through import PassThrough, Target, lacks_api
from proxy.settings import Settings, read_secret
from proxy.wire import ClientGone, Receive, Scope, Send, read_body
from proxy.wire_error import ApiError
from routing.protocols import Backend
from routing.tier import Tier

_LABEL = "embeddings"


class Embeddings:
    """The endpoint. Opens the configured backend itself; tiers' backends are the gateway's."""

    def __init__(self, gateway: Gateway, passing: PassThrough) -> None:
        self._gateway = gateway
        self._passing = passing
        self._own = _own_target(gateway.settings)

    @property
    def model(self) -> str | None:
        """The configured backend's model id."""
        return None if self._own is None else self._own.tier.model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        try:
            body = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
            fields = decode_fields(body)
            _check_input(fields)
            target = self._target(string_field(fields, "model"))
            body = encode_fields(body, fields, {"model": orjson.dumps(target.tier.model)})
            if not await self._passing.serve(
                _LABEL, scope, receive, send, target, "/embeddings", body, needs="data", declines=lacks_api
            ):
                raise self._none(target)
        except (ApiError, ClientGone) as error:
            await gateway.refuse(_LABEL, scope, send, error)

    async def close(self) -> None:
        if self._own is not None:
            await self._own.backend.close()

    def _none(self, target: Target) -> ApiError:
        """The backend has no such URL."""
        advice = f"name {self.model!r}" if self.model else "configure an `embeddings` backend"
        return ApiError(
            404, f"The backend of {target.tier.model!r} serves no embeddings; {advice}.", param="model"
        )

    def _target(self, model: str | None) -> Target:
        """Raises `ApiError` 400, 404."""
        if not model:
            raise ApiError(400, "You must provide a model parameter.", param="model")
        gateway = self._gateway
        if self._own is not None and model == self._own.tier.model:
            return self._own
        resolved = gateway.names.resolve(model, None, {}, gateway.scorers.policy)
        if isinstance(resolved, Pinned):
            index = resolved.tier
        elif self._own is not None:
            return self._own
        else:
            index = gateway.ladder.last
        return Target(gateway.ladder[index], gateway.backends[index], index)


def _own_target(settings: Settings) -> Target | None:
    own, server = settings.embeddings, settings.server
    if own is None:
        return None
    timeouts = HttpTimeouts(
        server.connect_timeout_s, server.first_byte_timeout_s, server.between_bytes_timeout_s
    )
    backend: Backend = HttpBackend(
        own.url, read_secret(own.api_key_env), timeouts, backend_tls(settings.backends),
        server.max_answer_bytes,
    )  # fmt: skip
    return Target(Tier("embeddings", own.model), backend)


def _check_input(fields: dict[str, bytes]) -> None:
    if "input" not in fields:
        raise ApiError(
            400, "Missing required parameter: 'input'.", param="input", code="missing_required_parameter"
        )
    value = load_field(fields, "input")
    if not isinstance(value, str | list) or value in ("", []):
        got = "an empty one" if value in ("", []) else kind_of(value)
        raise ApiError(400, f"'input' must be a non-empty string or array, got {got}.", param="input")
