"""A server that scores: JSON asked and answered over HTTP, with a deadline a call and repeats.

Blocking, on purpose: the batcher's worker thread and the trainer call it, the event loop never does.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from scorers.errors import EncoderError

MAX_INPUT_CHARS = 24_000  # about 8,000 tokens, the limit of text-embedding-3
_RETRIED_STATUS = (408, 429, 500, 502, 503, 504)


class ScorerServer:
    """One base URL; its key goes out as a bearer token."""

    def __init__(
        self, base_url: str, api_key: str | None, timeout_s: float = 20.0, attempts: int = 4
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._attempts = attempts

    def ask(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The answer's bytes; 429, 5xx and broken connections are tried again. Raises `EncoderError`."""
        headers = {"content-type": "application/json"}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        url, data = f"{self.base_url}{path}", json.dumps(body).encode()
        for attempt in range(1, self._attempts + 1):
            try:
                request = urllib.request.Request(url, data, headers)
                with urllib.request.urlopen(request, timeout=self._timeout_s) as reply:
                    answer: bytes = reply.read()
                    return answer
            except urllib.error.HTTPError as exc:
                with exc:
                    detail = exc.read(300).decode("utf-8", "replace")
                if exc.code not in _RETRIED_STATUS or attempt == self._attempts:
                    raise EncoderError(f"{url} answered {exc.code}: {detail}") from exc
            except (OSError, ValueError) as exc:  # refused, timed out, broken, no URL
                if attempt == self._attempts:
                    raise EncoderError(f"{url} cannot be reached: {exc}") from exc
            time.sleep(min(0.25 * 2**attempt, 8.0))
        raise AssertionError("unreachable")
