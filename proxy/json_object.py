"""Filling in and taking out fields of a JSON object, and telling whether that changed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of an array; none where it is no array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def set_fields(part: dict[str, Any], fields: Mapping[str, Any]) -> bool:
    """Give `part` these fields; whether it had others."""
    if all(part.get(name) == value for name, value in fields.items()):
        return False
    part.update(fields)
    return True


def fill(part: dict[str, Any], fields: Mapping[str, Any]) -> bool:
    """Add the fields that `part` lacks; whether it lacked any."""
    missing = {name: value for name, value in fields.items() if name not in part}
    part.update(missing)
    return bool(missing)


def drop_nulls(part: dict[str, Any], names: Iterable[str]) -> bool:
    """Take out those of the fields that are null; whether any was."""
    nulls = [name for name in names if name in part and part[name] is None]
    for name in nulls:
        del part[name]
    return bool(nulls)
