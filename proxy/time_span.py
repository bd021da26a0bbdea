"""Lengths of time as people type them: `12h`, `90d`, `4w`."""

from __future__ import annotations

_UNITS_S = {"h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def span_s(text: str) -> float | None:
    """Seconds; None without such a unit at the end. Raises `ValueError` without a number before it."""
    unit_s = _UNITS_S.get(text[-1:])
    return None if unit_s is None else float(text[:-1]) * unit_s
