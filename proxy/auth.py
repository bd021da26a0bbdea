"""Clients' API keys: kept as sha256, compared in constant time, never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from proxy.wire_error import ApiError

_KNOWN_MAX = 1024  # recognised headers are remembered so that a key is hashed once, not with every request


class KeyRing:
    """The keys that may call. With no keys everyone may."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = {hashlib.sha256(key.encode()).digest() for key in keys if key}
        self._known: set[bytes] = set()

    @property
    def open(self) -> bool:
        """Whether no key is asked for."""
        return not self._digests

    def check(self, authorization: bytes | None) -> None:
        """Raises `ApiError` 401 unless the header holds one of the keys."""
        if not self._digests or authorization in self._known:
            return
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise ApiError(
                401,
                "You didn't provide an API key. Use an Authorization header: Bearer YOUR_KEY.",
                kind="invalid_request_error",
                code="missing_api_key",
            )
        digest = hashlib.sha256(key.strip()).digest()
        found = False
        for known in self._digests:  # every one is compared, so that time tells nothing
            found |= hmac.compare_digest(known, digest)
        if not found:
            raise ApiError(
                401, "Incorrect API key provided.", kind="invalid_request_error", code="invalid_api_key"
            )
        if len(self._known) < _KNOWN_MAX and authorization is not None:
            self._known.add(authorization)
