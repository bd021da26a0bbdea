"""How far a judge agrees with people: its labels against a sample labelled by hand.

Raw agreement on *adequate* (quality at least 0.5), Cohen's kappa of the same, which takes away what chance
alone would give (Cohen, 1960), and Spearman's rank correlation of the qualities, each with a 95 % interval
from 2,000 bootstrap draws over prompts, since answers to one prompt are judged alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from routing.errors import ExamplesError
from scorers.text import prompt_id as hash_prompt
from trainer.label_rows import LabelRow
from trainer.table_file import read_rows

DRAWS = 2_000
ADEQUATE = 0.5


def measure_agreement(
    labels: Sequence[tuple[LabelRow, float]], by_hand: Path, seed: int = 0
) -> dict[str, Any]:
    """The report. `by_hand` has `quality`, `model`, and `prompt` or `prompt_id`; with `response` too, a row
    counts only for that very answer. Raises `ExamplesError` when nothing matches."""
    hand = _read_hand(by_hand)
    pairs: list[tuple[float, float]] = []
    prompts: list[str] = []
    for row, quality in labels:
        found = hand.get((row.prompt_id, row.model, row.response))
        if found is None:
            found = hand.get((row.prompt_id, row.model, None))
        if found is not None:
            pairs.append((quality, found))
            prompts.append(row.prompt_id)
    if not pairs:
        raise ExamplesError(f"{by_hand}: none of its {len(hand)} rows is one of the labelled answers")
    values = np.array(pairs)  # (n, 2): the judge's quality, the hand's
    _, of_prompt = np.unique(prompts, return_inverse=True)
    draws = _draws(of_prompt, seed)
    report: dict[str, Any] = {"n": len(pairs), "prompts": int(of_prompt.max()) + 1, "by_hand": len(hand)}
    for name, measure in (("agreement", agreement), ("kappa", kappa), ("spearman", spearman)):
        report[name] = measure(values)
        report[f"{name}_ci95"] = _interval(measure, values, draws)
    return report


def agreement(values: np.ndarray) -> float | None:
    """Share of rows of `values` (n, 2) on whose adequacy both agree."""
    adequate = values >= ADEQUATE
    return float(np.mean(adequate[:, 0] == adequate[:, 1]))


def kappa(values: np.ndarray) -> float | None:
    """Cohen's kappa of adequacy; None where both say the same one thing throughout."""
    adequate = values >= ADEQUATE
    seen = float(np.mean(adequate[:, 0] == adequate[:, 1]))
    a, b = adequate.mean(axis=0)
    chance = a * b + (1 - a) * (1 - b)
    return None if chance >= 1.0 else float((seen - chance) / (1 - chance))


def spearman(values: np.ndarray) -> float | None:
    """Correlation of ranks, ties at their mean rank; None where one side never varies."""
    ranks = np.stack([_ranks(values[:, 0]), _ranks(values[:, 1])])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    spread = float(np.sqrt((centred**2).sum(axis=1).prod()))
    return float((centred[0] * centred[1]).sum()) / spread if spread > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank: np.ndarray = ends - (counts - 1) / 2
    return mean_rank[inverse]


def _draws(of_prompt: np.ndarray, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    prompts = int(of_prompt.max()) + 1
    rows = [np.flatnonzero(of_prompt == prompt) for prompt in range(prompts)]
    return [
        np.concatenate([rows[prompt] for prompt in random.integers(0, prompts, prompts)])
        for _ in range(DRAWS)
    ]


def _interval(
    measure: Callable[[np.ndarray], float | None], values: np.ndarray, draws: Sequence[np.ndarray]
) -> list[float] | None:
    found = [value for rows in draws if (value := measure(values[rows])) is not None]
    if len(found) < DRAWS // 2:
        return None
    return [float(edge) for edge in np.percentile(found, (2.5, 97.5))]


def _read_hand(path: Path) -> dict[tuple[str, str, str | None], float]:
    hand: dict[tuple[str, str, str | None], float] = {}
    for number, row in read_rows(path, ("model", "quality"), csv_too=True):
        where = f"{path}, row {number}"
        prompt, model, value = row.get("prompt"), row.get("model"), row.get("quality")
        prompt_id = hash_prompt(prompt) if isinstance(prompt, str) else row.get("prompt_id")
        if not isinstance(prompt_id, str) or not isinstance(model, str):
            raise ExamplesError(f"{where}: prompt (or prompt_id) and model are needed")
        try:
            quality = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            quality = -1.0
        if not 0.0 <= quality <= 1.0:
            raise ExamplesError(f"{where}: quality is {value!r}, a number from 0 to 1 was expected")
        hand[(prompt_id, model, row.get("response"))] = quality
    if not hand:
        raise ExamplesError(f"{path} has no rows")
    return hand
