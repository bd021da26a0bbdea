"""Clients' keys as they are configured: hashes, scopes, an end and limits, never a key itself.

A key comes from one of four places: an environment variable (`keys_env`, plain keys, no limits), the list
`keys` of the configuration, a file that `upshift keys` writes (`keys_file`, read again within a second of a
change, so that a key is revoked without a reload), and `admin_keys_env` for the operator.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from proxy.section import Section

KeyScope = Literal["chat", "embeddings", "feedback", "metrics", "admin"]
SCOPES: tuple[str, ...] = get_args(KeyScope)
CLIENT_SCOPES: frozenset[KeyScope] = frozenset({"chat", "embeddings"})


class KeySettings(Section):
    """One key. It is given by its sha256, or by the environment variable that holds it."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="how the key is called; not secret")
    team: str = Field("", max_length=100, description="whose it is; a team may have several")
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="hash of the key, 64 hex digits")
    key_env: str = Field("", description="environment variable that holds the key, instead of its hash")
    scopes: frozenset[KeyScope] = Field(
        CLIENT_SCOPES,
        description="what it opens: chat (and feedback), embeddings, feedback, metrics, admin (everything)",
    )
    expires: datetime | None = Field(None, description="no longer valid from then on (UTC); empty: never")
    requests_per_minute: int = Field(0, ge=0, description="requests in any minute; 0: no limit")
    tokens_per_minute: int = Field(0, ge=0, description="tokens in any minute, all tiers; 0: no limit")
    usd_per_day: float = Field(0.0, ge=0, description="US dollars in a day (UTC); 0: no limit")
    usd_per_month: float = Field(0.0, ge=0, description="US dollars in a month (UTC); 0: no limit")

    @model_validator(mode="after")
    def _given_once(self) -> KeySettings:
        if bool(self.sha256) == bool(self.key_env):
            raise ValueError(f"key {self.id!r}: give sha256 or key_env, and only one of them")
        return self

    @field_validator("expires")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class AuthSettings(Section):
    """Clients' keys and where their use is counted. With no key at all, anyone who reaches the port is in."""

    keys_env: str = Field("UPSHIFT_API_KEYS", description="environment variable with comma-separated keys")
    admin_keys_env: str = Field(
        "UPSHIFT_ADMIN_KEYS", description="environment variable with keys for /metrics and /admin"
    )
    keys: list[KeySettings] = Field([], description="keys with scopes, an end and limits")
    keys_file: Path | None = Field(None, description="file of `upshift keys`; read again when it changes")
    usage_dir: Path | None = Field(
        None, description="folder of what keys have used; empty: forgotten when the server stops"
    )
    redis_url_env: str = Field(
        "UPSHIFT_REDIS_URL", description="environment variable with the redis:// URL that replicas count in"
    )
    redis_timeout_ms: float = Field(100.0, gt=0, description="Redis slower than this counts as down")
    on_redis_failure: Literal["local", "refuse"] = Field(
        "local", description="count on this host alone, or refuse keys with limits, while Redis is down"
    )

    @field_validator("keys")
    @classmethod
    def _distinct(cls, value: list[KeySettings]) -> list[KeySettings]:
        ids = [key.id for key in value]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"key ids must differ, {twice} are given twice")
        return value


def hash_key(key: str) -> str:
    """A key's sha256 in hex. Plain sha256 does: keys are random, there is no dictionary to try."""
    return hashlib.sha256(key.encode()).hexdigest()
