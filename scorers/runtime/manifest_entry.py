"""Reading a scorer's entry in a bundle's manifest: what is missing or of another version is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scorers.errors import ScorerFileError


def field(mapping: Mapping[str, Any], where: str, key: str) -> Any:
    """`mapping[key]`. Raises `ScorerFileError` naming `where.key` when it is missing or null."""
    if not isinstance(mapping, Mapping) or mapping.get(key) is None:
        raise ScorerFileError(f"manifest field {where}.{key} is missing")
    return mapping[key]


def check_names(entry: Mapping[str, Any], scorer: str, key: str, names: Sequence[str]) -> None:
    """That a list of features is this version's: numbers without names would be taken for others. Raises
    `ScorerFileError`."""
    fitted = field(entry, scorer, key)
    if list(fitted) != list(names):
        changed = sorted(set(fitted) ^ set(names)) or ["their order"]
        raise ScorerFileError(
            f"manifest field scorers.{scorer}.{key} differs from this version's in {', '.join(changed)}"
        )
