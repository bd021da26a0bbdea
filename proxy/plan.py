"""How many strong calls the policy in force foresees: its own rule, run over the calibration prompts.

The bundle carries the raw scores of those prompts (a published one without what names them), so nothing is
fitted and no model runs: calibrate, ask the rule as for a request, count. They are read once a load, here;
the console's curve and the drift signals start from the same rows. A few hundred rows cost a few
milliseconds. Live traffic outside the band has left the prompts that the operating point was chosen on, or a
scorer no longer scores as it did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file

from routing.bundle import Bundle
from routing.calibration import CalibrationMap
from routing.curve import CURVE_FILE, CalibrationRows
from routing.errors import MissingSignal
from routing.rules import Rule
from routing.signals import Entry, Signals
from routing.table import Floats

_FILES = ("calibration_scores.safetensors", CURVE_FILE)  # as fitted, as published
_Z = 3.0  # the band's half width in standard errors: 1 policy in 370 leaves it by chance


@dataclass(frozen=True, slots=True)
class Plan:
    """Share of routed prompts that the last tier answers, in [0, 1], with the band around it."""

    expected: float
    low: float
    high: float


def calibration_rows(bundle: Bundle, maps: Mapping[str, CalibrationMap]) -> CalibrationRows | None:
    """The calibration prompts with their scores; None in a bundle that does not carry them."""
    name = next((name for name in _FILES if bundle.has(name)), None)
    if name is None:
        return None
    raw = load_file(bundle.path / name)
    if "q_weak" not in raw or not raw["q_weak"].size:
        return None

    def calibrated(column: str, scorer: str) -> Floats | None:
        return maps[scorer].apply(raw[column]) if column in raw and scorer in maps else None

    return CalibrationRows(
        calibrated("gain_raw", "mf"), calibrated("difficulty_raw", "difficulty"),
        calibrated("adequate_raw", "adequate"), raw["q_weak"], raw["q_strong"],
        raw.get("cost_weak"), raw.get("cost_strong"), raw.get("prompt_chars"),
    )  # fmt: skip


def plan_of(rows: CalibrationRows | None, rule: Rule, explore_share: float) -> Plan | None:
    """The plan of `rule`; None where the bundle lacks calibration scores that the rule needs."""
    if rows is None:
        return None
    try:
        strong = [_strong(rule, signals) for signals in _signals(rows)]
    except MissingSignal:
        return None
    share, checked = np.array(strong).mean(axis=0).tolist()
    expected = (1.0 - explore_share) * share + 0.5 * explore_share * (1.0 + checked)
    return Plan(expected, *_wilson(expected, len(rows)))


def entries_of(rule: Rule, rows: CalibrationRows) -> list[Entry]:
    """Where the rule starts with each of them. Raises `MissingSignal`."""
    return [rule.enter(signals) for signals in _signals(rows)]


def _signals(rows: CalibrationRows) -> Iterator[Signals]:
    """What the rule is told of each row; draws are spread evenly."""
    known = {"route_score": rows.route_score, "difficulty": rows.difficulty, "answer_score": rows.adequate}
    scores = {name: column for name, column in known.items() if column is not None}
    for row in range(len(rows)):
        signals = Signals(draw=(row + 0.5) / len(rows))
        for name, column in scores.items():
            setattr(signals, name, float(column[row]))
        yield signals


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
