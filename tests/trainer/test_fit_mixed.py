"""`fit` on a table of which only a part has answers: the evaluator learns from that part and keeps to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from routing.bundle import Bundle, open_bundle
from routing.policy import Policy
from routing.signals import Signals
from scorers.runtime.scorers import load_scorers
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer.fit import CALIBRATION_SCORES, FitOptions, fit_bundle
from trainer.fit_evaluator import EvaluatorSettings
from trainer.scored import ScoredPairs

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]  # half a minute of CPU for the fit

ANSWERED, BARE = 180, 90
OPTIONS = FitOptions(
    difficulty=False,
    mf_form="correctness",
    evaluator_settings=EvaluatorSettings(tuning="frozen", max_epochs=1, max_tokens=32),
)
PLACES = ("harbour", "glacier", "desert", "volcano", "meadow", "canyon")


def bare_rows() -> list[dict[str, Any]]:
    """Outcomes without answers, about something else than sums."""
    random = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for number in range(BARE):
        place = PLACES[number % len(PLACES)]
        prompt = f"Which river flows past the old {place} of region {number}, and where does it end?"
        for model, chance in ((WEAK, 0.9 if number % 2 else 0.3), (STRONG, 0.95)):
            quality = float(random.random() < chance)
            rows.append({"prompt": prompt, "model": model, "quality": quality, "judge": "exact"})
    return rows


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("mixed")
    table = write_jsonl(folder / "mixed.jsonl", [*example_rows(ANSWERED, logprobs=False), *bare_rows()])
    return open_bundle(fit_bundle([table], WEAK, STRONG, folder / "bundle", OPTIONS))


def test_the_evaluator_is_fitted_on_the_answers_there_are(bundle: Bundle) -> None:
    data, training = bundle.manifest["data"], bundle.manifest["training"]
    assert (data["prompts"], data["prompts_with_answers"]) == (ANSWERED + BARE, ANSWERED)
    assert training["evaluator"]["sample"]["rows_of"] < 2 * ANSWERED
    kept = ScoredPairs.load(bundle.path / CALIBRATION_SCORES)
    assert kept.adequate_raw is not None
    assert len(kept) < data["splits"]["calibration"]  # those with an answer
    assert np.isfinite(kept.answer_chars).all()


def test_prompts_without_answers_are_told_apart(bundle: Bundle) -> None:
    sums = list(dict.fromkeys(row["prompt"] for row in example_rows(20, seed=9)))
    rivers = [f"Which river flows past the old {place} of region 99?" for place in PLACES]
    scores = load_scorers(bundle.path, bundle.scorers).score_prompts([*sums, *rivers])
    assert scores.unjudged is not None
    assert scores.unjudged[: len(sums)].mean() < 0.2
    assert scores.unjudged[len(sums) :].all()


def test_the_prompt_alone_decides_where_no_answer_has_taught(bundle: Bundle) -> None:
    policy = Policy.from_dict(bundle.read_json("policy.json"))
    assert policy.default_strategy == "cascade"
    assert policy.unjudged == "mf"
    threshold = policy.thresholds["mf"]
    for score, tier in ((threshold - 1e-6, 0), (threshold, 1)):
        choice = policy.choose(policy.default, Signals(route_score=score, unjudged=True, draw=0.0))
        assert (choice.entry.tier, choice.entry.check) == (tier, False)
        assert not choice.explored
    own = policy.rule("cascade", 0.999)  # a client that names its own threshold is judged as it says
    assert own.enter(Signals(route_score=1.0, unjudged=True)).tier == own.enter(Signals(route_score=1.0)).tier
