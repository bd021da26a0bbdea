"""`POST /v1/feedback`: what a client says of an answer, by its request id.

    {"request_id": "req_...", "rating": 0.0 to 1.0 (or "quality"), "comment": "..."}

It lies beside the decision in the log, so replay and the next fit can read it, and is counted by how the
answer came about. A row may still wait in a worker's queue when its client answers at once, so an id that is
not there is looked for once more before it is called unknown. Clients choose what they rate, so ratings are
told apart from the quality that shadow answers measure and never enter its interval.
"""

from __future__ import annotations

import asyncio
import re
import time

from proxy.call import check_type, decode_fields, load_field, string_field
from proxy.gateway import Gateway
from proxy.json_endpoint import JsonEndpoint
from proxy.limits import ACCOUNT, Account
from proxy.log_reader import read_rows
from proxy.wire import Scope
from proxy.wire_error import ApiError
from routing.errors import SettingsError
from routing.protocols import DecisionLog

_LABEL = "feedback"
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_NULL = b"null"
_FIND = "SELECT decision FROM decisions WHERE request_id = {mark} ORDER BY at DESC LIMIT 1"
_LOOKUPS = 4  # at a time; more wait
_SLACK_S = 0.3  # beyond the interval of the log's writer
_MOST_COMMENT_CHARS = 4_000
_FIELDS = ("request_id", "rating", "quality", "comment")


def feedback_endpoint(gateway: Gateway, log: DecisionLog) -> JsonEndpoint:
    """`POST /v1/feedback`."""
    return JsonEndpoint(gateway, _LABEL, _Feedback(gateway, log).take)


class _Feedback:
    """What it answers."""

    def __init__(self, gateway: Gateway, log: DecisionLog) -> None:
        self._gateway = gateway
        self._log = log
        self._settings = gateway.settings.log
        self._lookups = asyncio.Semaphore(_LOOKUPS)

    async def take(self, body: bytes, scope: Scope) -> dict[str, object]:
        """Check, find the decision, store, count. Raises `ApiError`."""
        account: Account | None = scope.get(ACCOUNT)
        if not self._settings.url:
            raise ApiError(
                404, "This server keeps no decision log (log.url) to put feedback in.",
                code="no_decision_log",
            )  # fmt: skip
        identity, quality, comment = self._read(body)
        decision = await self._decision(identity)
        row = {
            "request_id": identity, "at": time.time(), "quality": quality, "comment": comment,
            "key_id": None if account is None else account.key.id,
        }  # fmt: skip
        self._log.record(row, "feedback")
        self._gateway.metrics.feedback.labels(decision, "good" if quality >= 0.5 else "bad").inc()
        return {"object": "feedback", "request_id": identity, "quality": quality, "decision": decision}

    def _read(self, body: bytes) -> tuple[str, float, str | None]:
        fields = decode_fields(body)
        if unknown := sorted(set(fields) - set(_FIELDS)):
            raise ApiError(
                400, f"Unknown field '{unknown[0][:100]}'; feedback has {', '.join(_FIELDS)}.",
                param=unknown[0][:100],
            )  # fmt: skip
        identity = string_field(fields, "request_id")
        if not identity:
            raise ApiError(
                400, "'request_id' is needed: the x-request-id of the answer that this is about.",
                param="request_id",
            )  # fmt: skip
        given = [name for name in ("rating", "quality") if fields.get(name, _NULL) != _NULL]
        if len(given) != 1:
            raise ApiError(400, "Give 'rating' (or 'quality'), one number from 0 to 1.", param="rating")
        check_type(fields, given[0], (int, float), "a number")
        quality = load_field(fields, given[0])
        if not 0.0 <= quality <= 1.0:
            raise ApiError(400, f"'{given[0]}' must lie in [0, 1], got {quality}.", param=given[0])
        return identity, float(quality), self._comment(string_field(fields, "comment"))

    def _comment(self, comment: str | None) -> str | None:
        if not comment:
            return None
        if not self._settings.store_text:
            raise ApiError(
                400, "This server keeps no text (log.store_text): send the rating without 'comment'.",
                param="comment", code="text_not_stored",
            )  # fmt: skip
        if len(comment) > _MOST_COMMENT_CHARS:
            raise ApiError(
                400, f"'comment' has {len(comment)} characters, the limit is {_MOST_COMMENT_CHARS}.",
                param="comment",
            )  # fmt: skip
        return comment

    async def _decision(self, identity: str) -> str:
        """How the answer came about. Raises `ApiError` 404, 503."""
        if not _REQUEST_ID.fullmatch(identity):
            found = None  # no request ever had it, and not every database takes it as a value
        else:
            found = await self._find(identity, last=False)
            if found is None:
                await asyncio.sleep(self._settings.flush_interval_s + _SLACK_S)
                found = await self._find(identity, last=True)
        if found is None:
            raise ApiError(
                404, f"There is no request '{identity[:128]}' in the decision log; give the x-request-id of "
                "an answer to a chat or text completion.",
                code="request_not_found", param="request_id",
            )  # fmt: skip
        return found

    async def _find(self, identity: str, last: bool) -> str | None:
        """None also for a log that cannot be read (its tables come with its first rows), unless `last`."""
        async with self._lookups:
            try:
                return await asyncio.to_thread(_look_up, self._settings.url, identity)
            except SettingsError as error:
                if not last:
                    return None
                raise ApiError(
                    503, "The decision log cannot be read now.", code="log_unavailable", retry=True
                ) from error


def _look_up(url: str, identity: str) -> str | None:
    for (decision,) in read_rows(url, _FIND, (identity,)):
        return str(decision)
    return None
