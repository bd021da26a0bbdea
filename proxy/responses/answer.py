"""An ASGI `send` that takes a chat completion's answer and passes it on as a response's."""

from __future__ import annotations

import orjson

from proxy.attempt import decode_event
from proxy.completion import read_json
from proxy.responses.events import EventWriter
from proxy.responses.frame import Frame, output_items
from proxy.sse import EventSplitter, EventTooLarge, event_data
from proxy.wire import Message, Send
from routing.errors import BackendBroken

_ODD_SHAPES = (AttributeError, TypeError, ValueError)  # of what stands where OpenAI has a list or an object


class AnswerTranslator:
    """Errors go on as they are: both APIs have the same."""

    def __init__(self, send: Send, frame: Frame) -> None:
        self._send = send
        self._frame = frame
        self._start: Message | None = None  # of a plain answer, until its length is known
        self._stream = False
        self._body = b""
        self._splitter = EventSplitter()
        self._writer = EventWriter(frame)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name == b"content-type"]
            self._start, self._body = None, b""  # an answer that could not be translated: an error comes
            self._stream = bool(kinds) and kinds[0].startswith(b"text/event-stream")
            if self._stream or not 200 <= message["status"] < 300:
                await self._send(message)
            else:
                self._start = message
            return
        if self._stream:
            await self._send({**message, "body": self._translate_piece(message)})
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_plain(self._start)

    def _translate_piece(self, message: Message) -> bytes:
        """Whatever events are complete with this piece; comments (signs of life) pass."""
        out = b""
        last = not message.get("more_body", False)
        try:
            events = self._splitter.feed(message.get("body", b""))
            if last and (tail := self._splitter.rest()):
                events.append(tail)
            for event in events:
                data = event_data(event)
                if not data:
                    out += event
                elif data != b"[DONE]":
                    out += self._writer.add(decode_event(data))
        except (BackendBroken, EventTooLarge) as error:  # the status is out: say it in the stream
            out += self._writer.fail({"message": f"The backend broke off its answer: {error}."})
        except _ODD_SHAPES:
            out += self._writer.fail({"message": "The backend broke off its answer: it has an odd shape."})
        return out + self._writer.finish() if last else out

    def _translate(self) -> bytes:
        """Raises `BackendBroken`."""
        chat = read_json(self._body)
        choice = chat["choices"][0]
        reason = choice.get("finish_reason")
        try:
            items = output_items(choice.get("message") or {}, choice.get("logprobs"), reason)
            return orjson.dumps(self._frame.finished(str(chat.get("model") or ""), items, reason, chat))
        except _ODD_SHAPES as error:
            raise BackendBroken("the answer is not of the shape of a completion") from error

    async def _send_plain(self, start: Message) -> None:
        body = self._translate()
        headers = [item for item in start["headers"] if item[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
