"""How many strong calls the policy in force foresees: its own rule, run over the calibration prompts.

The bundle carries the raw scores of those prompts, so nothing is fitted and no model runs: calibrate, ask the
rule as for a request, count. A few hundred rows cost a few milliseconds, once a load. Live traffic outside
the band has left the prompts that the operating point was chosen on, or a scorer no longer scores as it did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file

from routing.bundle import Bundle
from routing.calibration import CalibrationMap
from routing.curve import CalibrationRows
from routing.errors import MissingSignal
from routing.policy import Entry, Rule, Signals
from routing.table import Floats

SCORES = "calibration_scores.safetensors"
_COLUMNS = {"route_score": ("gain_raw", "mf"), "difficulty": ("difficulty_raw", "difficulty"),
            "answer_score": ("adequate_raw", "adequate")}  # fmt: skip
_Z = 3.0  # the band's half width in standard errors: 1 policy in 370 leaves it by chance


@dataclass(frozen=True, slots=True)
class Plan:
    """Share of routed prompts that the last tier answers, in [0, 1], with the band around it."""

    expected: float
    low: float
    high: float


def calibration_rows(bundle: Bundle, maps: Mapping[str, CalibrationMap]) -> CalibrationRows | None:
    """The calibration prompts with their scores; None in a bundle that does not carry them."""
    if not bundle.has(SCORES):
        return None
    raw = load_file(bundle.path / SCORES)
    if "q_weak" not in raw or not raw["q_weak"].size:
        return None
    scores = scores_of(raw, maps)
    return CalibrationRows(
        scores.get("route_score"), scores.get("difficulty"), scores.get("answer_score"),
        raw["q_weak"], raw["q_strong"], raw.get("cost_weak"), raw.get("cost_strong"),
    )  # fmt: skip


def plan_of(rows: CalibrationRows | None, rule: Rule, explore_share: float) -> Plan | None:
    """The plan of `rule`; None where the bundle lacks calibration scores that the rule needs."""
    if rows is None:
        return None
    known = {"route_score": rows.route_score, "difficulty": rows.difficulty, "answer_score": rows.adequate}
    scores = {name: column for name, column in known.items() if column is not None}
    count = len(rows)
    try:
        strong = [_strong(rule, _signals(scores, row, count)) for row in range(count)]
    except MissingSignal:
        return None
    share, checked = np.array(strong).mean(axis=0).tolist()
    expected = (1.0 - explore_share) * share + 0.5 * explore_share * (1.0 + checked)
    return Plan(expected, *_wilson(expected, count))


def scores_of(raw: Mapping[str, Floats], maps: Mapping[str, CalibrationMap]) -> dict[str, Floats]:
    """Calibrated scores of the calibration prompts by the name of their signal, each (n,)."""
    return {
        signal: maps[name].apply(raw[column])
        for signal, (column, name) in _COLUMNS.items()
        if column in raw and name in maps
    }


def entries_of(rule: Rule, scores: Mapping[str, Floats], rows: int) -> list[Entry]:
    """Where the rule starts with each of them. Raises `MissingSignal`."""
    return [rule.enter(_signals(scores, row, rows)) for row in range(rows)]


def _signals(scores: Mapping[str, Floats], row: int, rows: int) -> Signals:
    signals = Signals(draw=(row + 0.5) / rows)
    for name, column in scores.items():
        setattr(signals, name, float(column[row]))
    return signals


def _strong(rule: Rule, signals: Signals) -> tuple[float, float]:
    """Whether the last tier would answer, and whether it would after a checked first tier."""
    last = rule.tiers - 1
    rejected = float(signals.answer_score is not None and not rule.accept(0, signals))
    entry = rule.enter(signals)
    if entry.tier == last:
        return 1.0, rejected
    return rejected if entry.check else 0.0, rejected


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) at `_Z` standard errors."""
    middle = share + _Z**2 / (2 * rows)
    half = _Z * math.sqrt(share * (1.0 - share) / rows + _Z**2 / (4 * rows**2))
    scale = 1.0 + _Z**2 / rows
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
