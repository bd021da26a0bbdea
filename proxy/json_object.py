"""Filling in and taking out fields of a JSON object, and telling whether that changed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of an array; none where it is no array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def set_fields(part: dict[str, Any], fields: Mapping[str, Any]) -> bool:
    """Give `part` these fields; whether it had others."""
    for name, value in fields.items():
        if part.get(name) != value:
            part.update(fields)
            return True
    return False


def fill(part: dict[str, Any], fields: Mapping[str, Any]) -> bool:
    """Add the fields that `part` lacks; whether it lacked any."""
    if part.keys() >= fields.keys():
        return False
    for name in fields:
        part.setdefault(name, fields[name])
    return True


def drop_nulls(part: dict[str, Any], names: Iterable[str]) -> bool:
    """Take out those of the fields that are null; whether any was."""
    dropped = False
    for name in names:
        if part.get(name, part) is None:
            del part[name]
            dropped = True
    return dropped
