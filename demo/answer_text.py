"""The text of an answer as it grows, token by token: whole characters only, and nothing past a stop string.

Tokens are bytes, so a character may span several; an incremental UTF-8 decoder holds the first ones back.
Text that could be the start of a stop string is held back too, until the next token settles it.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast


def _list_byte_characters() -> dict[str, int]:
    """Which byte each character of a byte-level vocabulary stands for (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + at): b for at, b in enumerate(others)}


class TokenBytes:
    """The bytes of every token of a byte-level tokenizer; special tokens have none in the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        table = _list_byte_characters()
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        self._names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._bytes = [
            b"" if at in self._special else bytes(table[char] for char in name)
            for at, name in enumerate(self._names)
        ]

    def in_text(self, token_id: int) -> bytes:
        """What the token adds to the answer; empty for special tokens."""
        return self._bytes[token_id]

    def describe(self, token_id: int) -> tuple[str, list[int]]:
        """Name and bytes of a token for a list of log-probabilities; special tokens show their names."""
        raw = self._names[token_id].encode() if token_id in self._special else self._bytes[token_id]
        return raw.decode(errors="replace"), list(raw)


class AnswerText:
    """Feeds on tokens, gives out text that is certain. `stopped` turns true at the first stop string."""

    def __init__(self, token_bytes: TokenBytes, stops: Sequence[str] = ()) -> None:
        self._token_bytes, self._stops = token_bytes, tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, token_id: int) -> str:
        """Text that became certain with this token, perhaps none."""
        return self._release(self._decoder.decode(self._token_bytes.in_text(token_id)))

    def finish(self) -> str:
        """What is still held back when no token follows; bytes of a broken character become U+FFFD."""
        text = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, new: str) -> str:
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the start of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
