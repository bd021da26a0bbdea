"""report.json to the letter, its figures against sklearn's and against the truth, and the page."""

from __future__ import annotations

import json
import re
from xml.dom import minidom

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from tests.trainer.population import draw_population
from trainer.calibrate import calibrate_scores, fit_policy
from trainer.evaluate import FIGURES, NAMES, evaluate_scored
from trainer.report import render_report
from trainer.report_plots import Line, draw_plot
from trainer.scored import ScoredPairs

POPULATION = draw_population(9000, seed=11)
FITTED = fit_policy(POPULATION.subset(np.arange(3000)))
TEST = POPULATION.subset(np.arange(3000, 9000))
RESULT = evaluate_scored(TEST, FITTED, draws=200)


def bare(n=300, **changes) -> ScoredPairs:
    rng = np.random.default_rng(0)
    columns = {
        "q_weak": (rng.random(n) < 0.4).astype(float),
        "q_strong": (rng.random(n) < 0.9).astype(float),
        "prompt_chars": rng.integers(1, 500, n).astype(float),
        "gain_raw": rng.random(n),
        **changes,
    }
    return ScoredPairs(weak="w", strong="s", prompt_id=[str(i) for i in range(n)], **columns)


def test_keys_are_those_of_the_contract():
    report = RESULT.report
    assert list(report) == ["pair", "n", "quality", "cost", "strategies", "certificate"]
    assert tuple(report["strategies"]) == NAMES
    for row in report["strategies"].values():
        assert tuple(sorted(row)) == tuple(sorted(FIGURES))
    assert report["pair"] == {"weak": "small", "strong": "large"}
    assert report["cost"] == {"weak": 0.1, "strong": 1.0, "price_ratio": 0.1}
    assert report["certificate"] is None
    json.dumps(report, allow_nan=False)
    json.dumps(RESULT.details, allow_nan=False)


def test_figures_agree_with_sklearn():
    scores = calibrate_scores(TEST, FITTED.maps)
    evaluator, mf = (RESULT.report["strategies"][name] for name in ("evaluator", "mf"))
    adequate = TEST.q_weak >= 0.5
    stronger = TEST.q_strong > TEST.q_weak
    assert evaluator["adequacy_auroc"] == pytest.approx(roc_auc_score(adequate, scores.adequate))
    assert evaluator["brier"] == pytest.approx(brier_score_loss(adequate, scores.adequate))
    assert evaluator["auroc"] == pytest.approx(roc_auc_score(stronger, 1 - scores.adequate))
    assert mf["auroc"] == pytest.approx(roc_auc_score(stronger, TEST.gain_raw))
    assert mf["adequacy_auroc"] == pytest.approx(roc_auc_score(adequate, TEST.weak_adequate_raw))


def test_figures_that_are_known_beforehand():
    rows = RESULT.report["strategies"]
    assert rows["random"]["apgr"] == pytest.approx(0.5)
    assert rows["random"]["apgr_cost"] == pytest.approx(0.5)
    assert rows["random"]["auroc"] == pytest.approx(0.5)
    assert rows["random"]["cpt50"] == pytest.approx(0.5)
    assert rows["oracle"]["auroc"] == pytest.approx(1.0)
    assert abs(rows["length"]["apgr"] - 0.5) < 0.03
    assert rows["evaluator"]["ece_excess"] < 0.015
    assert 0.85 < rows["evaluator"]["cal_slope"] < 1.15
    assert rows["oracle"]["apgr"] > rows["cascade"]["apgr"] > rows["mf"]["apgr"]
    for row in rows.values():
        low, high = row["apgr_ci95"]
        assert low <= row["apgr"] <= high
    assert rows["evaluator"]["apgr_cost"] < rows["evaluator"]["apgr"]


def test_operating_point_is_the_calibration_splits_and_the_oracle_is_apart():
    for name, row in RESULT.report["strategies"].items():
        point = RESULT.details["operating_points"][name]
        assert row["calls_saved_at_95"] == pytest.approx(1 - point["strong_share"])
        assert row["cost_at_95"] == point["cost"]
        assert point["quality_kept"] > 0.92
        if name != "oracle":
            assert row["cost_at_95"] == pytest.approx(row["cost_at_95_oracle"], abs=0.12)


def test_what_cannot_be_scored_is_null():
    scored = bare()
    result = evaluate_scored(scored, fit_policy(scored), draws=50)
    rows = result.report["strategies"]
    for name in ("difficulty", "evaluator", "cascade"):
        assert set(rows[name].values()) == {None}
    assert result.report["cost"] == {"weak": None, "strong": None, "price_ratio": None}
    assert rows["mf"]["apgr"] is not None
    assert rows["mf"]["apgr_cost"] is None
    assert rows["mf"]["cost_at_95"] is None
    assert rows["mf"]["brier"] is None
    assert "No cost is known" in render_report(result.report, result.details)


def test_price_ratio_stands_in_the_report():
    scored = bare()
    report = evaluate_scored(scored, fit_policy(scored), price_ratio=0.37, draws=50).report
    assert report["cost"] == {"weak": 0.37, "strong": 1.0, "price_ratio": 0.37}
    assert report["strategies"]["mf"]["apgr_cost"] is not None


def test_strong_that_is_not_better_is_null_not_a_number():
    scored = bare(q_strong=np.zeros(300))
    result = evaluate_scored(scored, fit_policy(scored), draws=50)
    row = result.report["strategies"]["mf"]
    assert row["apgr"] is None
    assert row["apgr_ci95"] is None
    assert row["cpt50"] is None
    assert row["auroc"] is None
    json.dumps(result.report, allow_nan=False)
    assert "no gap to close" in render_report(result.report, result.details)


def test_one_class_of_adequacy_is_null():
    scored = bare(q_weak=np.zeros(300), adequate_raw=np.linspace(0.1, 0.9, 300))
    row = evaluate_scored(scored, fit_policy(scored), draws=50).report["strategies"]["evaluator"]
    assert row["adequacy_auroc"] is None
    assert row["cal_slope"] is None
    assert row["brier"] is not None


def test_break_even_of_a_perfect_evaluator():
    """phi-2 is adequate on 32 %: even a perfect evaluator breaks even at a price ratio of .32."""
    right = np.arange(300) < 96
    scored = bare(q_weak=right.astype(float), q_strong=np.ones(300), adequate_raw=np.where(right, 0.99, 0.01))
    fitted = fit_policy(scored, quality=1.0, price_ratio=0.37)
    even = evaluate_scored(scored, fitted, price_ratio=0.37, draws=20).details["break_even"]
    assert even["perfect"] == pytest.approx(0.32)
    assert even["always_strong"] == pytest.approx(0.32)


def test_slices_cover_every_prompt():
    groups = RESULT.details["groups"]
    assert set(groups) == {"even", "odd"}
    for slices in (groups, RESULT.details["prompt_length_deciles"], RESULT.details["answer_length_deciles"]):
        assert sum(part["n"] for part in slices.values()) == len(TEST)
    assert abs(groups["even"]["apgr"]["random"] - 0.5) < 1e-9


def test_page_is_self_contained_and_well_formed():
    certificate = {
        "granted": True, "reason": "certified: 30 %", "confidence": 0.95, "quality": 0.95,
        "valid_until": "2030-01-01", "scope": "like <these>",
    }  # fmt: skip
    page = render_report({**RESULT.report, "certificate": certificate}, RESULT.details)
    assert not re.search(r"(src|href)=|https?://|<script|@import|url\(", page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        minidom.parseString(svg)
    for name in NAMES:
        assert name in page
    assert f"{RESULT.report['strategies']['cascade']['apgr']:.3f}" in page
    assert "like &lt;these&gt;" in page
    refused = {"granted": False, "reason": "refused: about 900 would"}
    assert "refused: about 900 would" in render_report(
        {**RESULT.report, "certificate": refused}, RESULT.details
    )
    assert len(page) < 200_000


def test_names_of_models_are_escaped():
    report = {**RESULT.report, "pair": {"weak": "<b>w</b>", "strong": "s&s"}}
    page = render_report(report, RESULT.details)
    assert "<b>w</b>" not in page
    assert "&lt;b&gt;w&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.61, 0.63), (0.00012, 0.00034), (3.0, 3.0), (10.0, 5000.0)]
)
def test_plots_of_any_range(low, high):
    svg = draw_plot([Line("a < b", [low, high], [low, high], "#000000")], "t", "x", "y")
    document = minidom.parseString(re.search(r"<svg.*?</svg>", svg, re.DOTALL).group())
    labels = [node.firstChild.data for node in document.getElementsByTagName("text")]
    assert 6 <= len(labels) <= 22
    points = document.getElementsByTagName("polyline")[0].getAttribute("points")
    assert all(0 <= float(v) <= 560 for pair in points.split() for v in pair.split(","))
    assert draw_plot([], "t", "x", "y") == ""
