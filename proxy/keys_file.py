"""The file of `upshift keys`: hashes, scopes and limits as JSON, for its owner only, swapped whole."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proxy.auth_settings import AuthSettings, KeySettings, hash_key
from routing.errors import SettingsError

_PREFIX = "sk-upshift"
_ID_BYTES = 4
_SECRET_BYTES = 32  # 256 bits


def read_keys(file: Path) -> list[KeySettings]:
    """Its keys. Raises `SettingsError` that names the file and the key, and never quotes a value."""
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file}: cannot be read as JSON: {type(error).__name__}") from error
    try:
        return AuthSettings(keys=data["keys"]).keys
    except (KeyError, TypeError) as error:
        raise SettingsError(f"{file}: an object with the list 'keys' was expected") from error
    except ValidationError as error:
        wrong = [".".join(str(part) for part in item["loc"]) + ": " + item["msg"] for item in error.errors()]
        raise SettingsError(f"{file}: {'; '.join(wrong)}") from error


def create_key(file: Path, **fields: Any) -> tuple[KeySettings, str]:
    """Add a key; gives its entry and the key itself, which is nowhere kept. Raises `SettingsError`."""
    name = secrets.token_hex(_ID_BYTES)
    secret = f"{_PREFIX}-{name}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    try:
        entry = KeySettings(id=name, sha256=hash_key(secret), **fields)
    except ValidationError as error:
        wrong = [f"{item['loc'][0]}: {item['msg']}" for item in error.errors()]
        raise SettingsError("; ".join(wrong)) from error
    with _locked(file):
        _write(file, [*read_keys(file), entry])
    return entry, secret


def revoke_key(file: Path, name: str) -> KeySettings:
    """Take a key out; gives its entry. Raises `SettingsError` when there is none of that id."""
    with _locked(file):
        keys = read_keys(file)
        for key in keys:
            if key.id == name:
                _write(file, [other for other in keys if other is not key])
                return key
    known = ", ".join(key.id for key in keys) or "none"
    raise SettingsError(f"{file}: there is no key {name!r}; it has {known}")


def is_expired(key: KeySettings, now: datetime) -> bool:
    """Whether its time is over."""
    return key.expires is not None and now >= key.expires


def _write(file: Path, keys: list[KeySettings]) -> None:
    data = {"keys": [key.model_dump(mode="json", exclude_defaults=True) for key in keys]}
    for item in data["keys"]:
        if "scopes" in item:
            item["scopes"] = sorted(item["scopes"])
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(data, out, indent=1)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One writer at a time, beside the file since the file itself is replaced."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f".{file.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise SettingsError(f"{file}: cannot be written: {error.strerror}") from error
