"""POST /v1/responses: to a pinned tier that has the API as it is, otherwise translated to a chat completion.

Whether a tier has it: its capability `responses` says it may (the default), and a 404 for the URL says it
has not; then the request is translated, and for a minute that tier is not asked again.
"""

from __future__ import annotations

import time

import orjson

from proxy.call import check_type, decode_fields, encode_fields, string_field
from proxy.gateway import Gateway
from proxy.models import Pinned
from proxy.pass_through import PassThrough, Target, lacks_api
from proxy.replay import replayed, with_body
from proxy.responses.answer import AnswerTranslator
from proxy.responses.form import ResponseForm
from proxy.responses.frame import Frame
from proxy.responses.request import stateful_field, to_chat
from proxy.wire import ClientGone, Receive, Scope, Send, read_body
from proxy.wire_error import ApiError

_LABEL = "responses"
_LACKING_S = 60.0


class Responses:
    """The endpoint."""

    def __init__(self, gateway: Gateway, passing: PassThrough) -> None:
        self._gateway = gateway
        self._passing = passing
        self._lacking_until: dict[int, float] = {}  # tier -> monotonic seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        try:
            body = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
            fields = decode_fields(body)
            tier = self._pinned_tier(fields)
            stream = fields.get("stream") == b"true"
            if tier is not None and await self._pass(tier, body, fields, stream, scope, receive, send):
                return
            chat = to_chat(fields)
            frame = Frame(fields)
        except (ApiError, ClientGone) as error:
            await gateway.refuse(_LABEL, scope, send, error)
            return
        await gateway.serve(
            "chat", with_body(scope, chat), replayed(chat, receive), AnswerTranslator(send, frame), _LABEL
        )

    def _pinned_tier(self, fields: dict[str, bytes]) -> int | None:
        """The pinned tier, None for a routed model. Raises `ApiError` 400, 404."""
        model = string_field(fields, "model")
        if not model:
            raise ApiError(400, "You must provide a model parameter.", param="model")
        for name in ("stream", "background", "store"):
            check_type(fields, name, (bool,), "a boolean")
        gateway = self._gateway
        target = gateway.names.resolve(model, None, {}, gateway.scorers.policy)
        return target.tier if isinstance(target, Pinned) else None

    async def _pass(
        self, index: int, body: bytes, fields: dict[str, bytes], stream: bool,
        scope: Scope, receive: Receive, send: Send,
    ) -> bool:  # fmt: skip
        """Whether the tier has answered (with an error, perhaps)."""
        tier = self._gateway.ladder[index]
        stateful = stateful_field(fields) is not None
        lacking = time.monotonic() < self._lacking_until.get(index, 0.0)
        if "responses" not in tier.capabilities or (lacking and not stateful):
            return False
        changed = encode_fields(body, fields, {"model": orjson.dumps(tier.model)})
        target = Target(tier, self._gateway.backends[index], index)
        answered = await self._passing.serve(
            _LABEL, scope, receive, send, target, "/responses", changed, stream=stream,
            declines=None if stateful else lacks_api, form=ResponseForm(),
        )  # fmt: skip
        if not answered:
            self._lacking_until[index] = time.monotonic() + _LACKING_S
        return answered
