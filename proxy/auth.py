"""Who may call: keys are kept as sha256, found by it, compared in constant time, and never logged.

Checking costs one sha256 of the header's key (half a microsecond), one look-up of its first bytes and one
constant-time comparison. What a look-up by hash may tell by its time is about the hash, from which no key can
be made. A key file that changes is read again within a second; one that cannot be read leaves the keys as
they were.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.auth_settings import CLIENT_SCOPES, AuthSettings, KeySettings
from proxy.keys_file import read_keys
from proxy.settings import read_secret
from proxy.wire_error import ApiError
from routing.errors import SettingsError

_log = logging.getLogger("upshift.auth")
_FIND_BYTES = 8
_NOBODY = bytes(32)
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use; 0 means no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    usd_per_day: float = 0.0
    usd_per_month: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is any limit at all."""
        return bool(
            self.requests_per_minute or self.tokens_per_minute or self.usd_per_day or self.usd_per_month
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that may call. `digest` is its sha256; `expires_at` is in seconds since the epoch."""

    id: str
    digest: bytes
    team: str = ""
    scopes: frozenset[str] = CLIENT_SCOPES
    expires_at: float | None = None
    limits: Limits | None = None

    def require(self, scope: str) -> None:
        """Raises `ApiError` 403 unless the key opens `scope`; `admin` opens everything."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise ApiError(
                403,
                f"This API key does not have the scope '{scope}'; it has {', '.join(sorted(self.scopes))}.",
                kind="invalid_request_error",
                code="insufficient_scope",
            )


class KeyRing:
    """The keys that may call. Open, that is without any, everyone may use the API."""

    def __init__(self, keys: Iterable[ApiKey], file: Path | None = None) -> None:
        """Raises `SettingsError` for a `file` that is there and cannot be used."""
        self._fixed = list(keys)
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._look_at = 0.0
        self._found: dict[bytes, ApiKey] = {}
        self._admit(self._fixed)
        self.open = file is None and all("admin" in key.scopes for key in self._fixed)
        if file is not None:
            self._read(file)

    def find(self, authorization: bytes | None) -> ApiKey:
        """The key a header holds. Raises `ApiError` 401."""
        if self._file is not None:
            self._look(self._file)
        scheme, _, secret = (authorization or b"").partition(b" ")
        secret = secret.strip()
        if scheme.lower() != b"bearer" or not secret:
            raise ApiError(
                401,
                "You didn't provide an API key. Use an Authorization header: Bearer YOUR_KEY.",
                kind="invalid_request_error",
                code="missing_api_key",
            )
        digest = hashlib.sha256(secret).digest()
        key = self._found.get(digest[:_FIND_BYTES])
        if not hmac.compare_digest(_NOBODY if key is None else key.digest, digest) or key is None:
            raise ApiError(
                401, "Incorrect API key provided.", kind="invalid_request_error", code="invalid_api_key"
            )
        if key.expires_at is not None and time.time() >= key.expires_at:
            raise ApiError(
                401, "This API key has expired.", kind="invalid_request_error", code="expired_api_key"
            )
        return key

    def _admit(self, keys: Sequence[ApiKey]) -> None:
        self._found = {key.digest[:_FIND_BYTES]: key for key in keys}

    def _look(self, file: Path) -> None:
        """Read the file again when it has changed; at most once a second."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        if _stamp(file) == self._stamp:
            return
        try:
            self._read(file)
        except SettingsError as error:
            _log.error("the keys stay as they were: %s", error)

    def _read(self, file: Path) -> None:
        self._stamp = _stamp(file)
        named = read_keys(file) if self._stamp is not None else []
        self._admit([*self._fixed, *(_key(item) for item in named)])


def open_key_ring(auth: AuthSettings) -> KeyRing:
    """The keys of the configuration. Raises `SettingsError`."""
    keys = [_plain(secret, CLIENT_SCOPES) for secret in _secrets(auth.keys_env)]
    keys += [_plain(secret, frozenset({"admin"})) for secret in _secrets(auth.admin_keys_env)]
    keys += [_key(item) for item in auth.keys]
    return KeyRing(keys, auth.keys_file)


def has_client_keys(auth: AuthSettings) -> bool:
    """Whether a client needs a key."""
    return bool(_secrets(auth.keys_env) or auth.keys or auth.keys_file)


def _secrets(variable: str) -> list[str]:
    return [secret for part in read_secret(variable).split(",") if (secret := part.strip())]


def _plain(secret: str, scopes: frozenset[str]) -> ApiKey:
    digest = hashlib.sha256(secret.encode()).digest()
    return ApiKey(f"env-{digest.hex()[:8]}", digest, scopes=scopes)


def _key(item: KeySettings) -> ApiKey:
    if item.key_env:
        secret = read_secret(item.key_env)
        if not secret:
            raise SettingsError(
                f"auth.keys: key {item.id!r}: the environment variable {item.key_env} is not set"
            )
        digest = hashlib.sha256(secret.encode()).digest()
    else:
        digest = bytes.fromhex(item.sha256)
    limits = Limits(item.requests_per_minute, item.tokens_per_minute, item.usd_per_day, item.usd_per_month)
    return ApiKey(
        item.id, digest, item.team, frozenset(item.scopes),
        item.expires.timestamp() if item.expires is not None else None, limits if limits.any else None,
    )  # fmt: skip


def _stamp(file: Path) -> tuple[int, int] | None:
    """What changes when the file does; None: it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
