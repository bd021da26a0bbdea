"""Fitting the joint rule's tables from labelled prompts.

What is known of a prompt (and of its answer) is put into one linear index by least squares on q_s - q_w;
which scores enter is chosen by cross-validation, where a richer index has the benefit of the doubt: over 144
simulated fits on 86 and 448 prompts a useless pre-router then cost the cascade at most .006 APGR, while
asking for proof cost a useful one up to .06 beside a weak evaluator. Whatever tells nothing may be left out.
The difficulty classifier is asked for proof where there is a factorisation: it is another pass of an encoder
before every request for a second opinion of the same prompt, and the cascade was no worse without (`LOG.md`).
g2 is a monotone regression on the answer's index; E[min(g2, t) | prompt] is an isotonic fit over bins of the
prompt's index, one for every price t; and g1 is its value at the largest price (the tower rule), so that the
three actions are compared on one and the same estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from routing.calibration import fit_isotonic, pool_violators
from routing.cost import Costs
from routing.joint_rule import JointRule, Weights
from routing.table import Floats, Table

PRICES = 129
_BINS = 16
_MIN_BIN_ROWS = 40
_FOLDS = 5
_RIDGE = 1e-3  # of a column's variance
_BENEFIT, _PROOF = 0.5, 2.0  # of the doubt, and what a second encoder must win by; in standard errors
_BLEND = 0.05  # share of the line in a monotone table: keeps it strictly increasing

# Candidates from simple to rich, as the terms of `Weights` that may be non-zero.
_PROMPT_TERMS: tuple[tuple[str, ...], ...] = ((), ("mf",), ("difficulty",), ("mf", "difficulty"))
_ANSWER_TERMS: tuple[tuple[str, ...], ...] = (
    ("mf",),
    ("fail",),
    ("fail", "mf"),
    ("fail", "mf", "fail_mf"),
    ("difficulty",),
    ("fail", "difficulty"),
    ("fail", "mf", "difficulty"),
    ("fail", "difficulty", "fail_difficulty"),
)


def fit_joint_rule(
    q_weak: Floats,
    q_strong: Floats,
    adequate: Floats,
    mf: Floats | None,
    difficulty: Floats | None,
    costs: Costs,
    seed: int = 0,
) -> JointRule:
    """Tables of one step of the ladder from calibrated scores; all shapes (n,)."""
    n = q_weak.size
    gap = q_strong - q_weak
    fold = np.random.default_rng(seed).permutation(n) % _FOLDS
    columns: dict[str, Floats] = {"fail": 1.0 - adequate}
    for name, score in (("mf", mf), ("difficulty", difficulty)):
        if score is not None:
            columns[name] = score
            columns[f"fail_{name}"] = columns["fail"] * score
    answer, answer_index = _choose_index(columns, _ANSWER_TERMS, gap, fold)
    told = {name for name in ("mf", "difficulty") if getattr(answer, name) or getattr(answer, f"fail_{name}")}
    coherent = [
        terms for terms in _PROMPT_TERMS if told <= set(terms)
    ]  # what the answer's index knows, it knows
    prompt, prompt_index = _choose_index(columns, coherent, gap, fold)
    loss = _fit_monotone(answer_index, gap, fold)
    g2 = loss.apply(answer_index)
    prices = np.linspace(0.0, 1.0, PRICES)
    knots, least = _expected_least(prompt_index, g2, prices)
    return JointRule(
        prompt=prompt,
        gain=Table(knots, np.maximum.accumulate(least[-1]).tolist()),
        answer=answer,
        loss=loss,
        prices=prices.tolist(),
        least_x=knots,
        least=least,
        costs=costs,
    )


def _choose_index(
    columns: Mapping[str, Floats], candidates: Sequence[tuple[str, ...]], gap: Floats, fold: NDArray[np.int64]
) -> tuple[Weights, Floats]:
    """The linear index with the least cross-validated squared error.

    In order of the candidates, a later one is taken unless it is worse by half a standard error; one with the
    difficulty classifier, beside a factorisation, if it is better by two.
    """
    best: tuple[str, ...] | None = None
    best_errors: Floats | None = None
    for terms in candidates:
        if any(term not in columns for term in terms) or _weights(columns, terms, gap) is None:
            continue
        errors = np.empty(gap.size)
        for k in range(_FOLDS):
            train = fold != k
            fitted = _weights({t: columns[t][train] for t in terms}, terms, gap[train])
            values = np.zeros(gap.size) if fitted is None else _index(columns, fitted)
            base = gap[train].mean() - values[train].mean()
            errors[~train] = (gap[~train] - values[~train] - base) ** 2
        if best_errors is not None:
            win = best_errors - errors
            second = "mf" in columns and any(term.endswith("difficulty") for term in terms)
            if win.mean() <= (_PROOF if second else -_BENEFIT) * win.std() / math.sqrt(gap.size):
                continue
        best, best_errors = terms, errors
    if best is None:  # the evaluator ranks backwards: keep its direction, with hardly any weight
        return Weights(fail=1e-6), 1e-6 * columns["fail"]
    fitted = _weights(columns, best, gap)
    assert fitted is not None
    return Weights(**fitted), _index(columns, fitted)


def _weights(columns: Mapping[str, Floats], terms: tuple[str, ...], gap: Floats) -> dict[str, float] | None:
    """Least-squares slopes; None where the index would not grow with the scores it is made of."""
    if not terms:
        return {}
    design = np.stack([columns[term] for term in terms], axis=1)
    centred = design - design.mean(axis=0)
    gram = centred.T @ centred
    gram += np.diag(_RIDGE * np.diag(gram) + 1e-9)
    slopes = dict(zip(terms, np.linalg.solve(gram, centred.T @ (gap - gap.mean())).tolist(), strict=True))
    for name in ("mf", "difficulty"):
        cross = slopes.get(f"fail_{name}", 0.0)
        if slopes.get(name, 0.0) + min(cross, 0.0) < 0.0:
            return None
        if "fail" in slopes and slopes["fail"] + min(cross, 0.0) <= 0.0:
            return None
    return slopes


def _index(columns: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    total = np.zeros(next(iter(columns.values())).size)
    for term, weight in weights.items():
        total = total + weight * columns[term]
    return total


def _fit_monotone(index: Floats, gap: Floats, fold: NDArray[np.int64]) -> Table:
    """E[gap | index] in [-1, 1]: the line with slope 1 (the index is a regression), or an isotonic fit where
    that wins by more than a standard error in cross-validation."""
    gains = np.empty(gap.size)
    for k in range(_FOLDS):
        train, test = fold != k, fold == k
        line, bent = _line(index[train], gap[train]), _bent(index[train], gap[train])
        gains[test] = (gap[test] - line.apply(index[test])) ** 2 - (gap[test] - bent.apply(index[test])) ** 2
    if gains.mean() > gains.std() / math.sqrt(gap.size):
        return _bent(index, gap)
    return _line(index, gap)


def _line(index: Floats, gap: Floats) -> Table:
    base = float(gap.mean() - index.mean())
    return Table([-1.0 - base, 1.0 - base], [-1.0, 1.0])


def _bent(index: Floats, gap: Floats) -> Table:
    line = _line(index, gap)
    stairs = fit_isotonic(index, gap, min_block=max(10, gap.size // 50))
    x = np.unique(np.concatenate([line.x, stairs.x]))
    y = (1.0 - _BLEND) * stairs.apply(x) + _BLEND * line.apply(x)
    return Table(x.tolist(), np.maximum.accumulate(np.clip(y, -1.0, 1.0)).tolist())


def _expected_least(index: Floats, g2: Floats, prices: Floats) -> tuple[list[float], Floats]:
    """Knots (J,) of the prompt index and E[min(g2, t) | index] (T, J) at every price, non-decreasing in J."""
    bins = max(1, min(_BINS, index.size // _MIN_BIN_ROWS))
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    start = np.unique(np.searchsorted(ordered, [part[0] for part in np.array_split(ordered, bins)]))
    rows = np.diff(np.append(start, index.size)).astype(np.float64)
    knots = np.add.reduceat(ordered, start) / rows
    capped = np.minimum(g2[order][:, None], prices)  # (n, T)
    means = np.add.reduceat(capped, start, axis=0) / rows[:, None]  # (J, T)
    least = np.empty((prices.size, start.size))
    for t in range(prices.size):
        level, sizes = pool_violators(means[:, t], rows)
        least[t] = np.repeat(level, sizes)
    return knots.tolist(), least
