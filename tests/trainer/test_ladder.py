"""Three tiers: fitted from a table, compared with pairs, and asked as the gateway asks. About 15 s."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from routing.bundle import open_bundle
from routing.errors import ExamplesError
from routing.joint_rule import JointRule
from routing.policy import Policy
from routing.signals import Entry, Signals
from scorers.text import TEXT_TEMPLATE
from tests.trainer.tables import write_jsonl
from trainer.calibrate_bundle import Target, calibrate_bundle
from trainer.calibrate_ladder import fit_ladder_policy
from trainer.cli_fit import main
from trainer.evaluate_bundle import evaluate_bundle
from trainer.scored import ScoredPairs

TIERS = ("small", "medium", "large")
COSTS = (0.05, 0.3, 1.0)
RIGHT = {"easy": (0.9, 0.95, 0.97), "middling": (0.15, 0.9, 0.95), "hard": (0.05, 0.1, 0.95)}


def steps(n: int = 1500, seed: int = 0, strength: float = 3.0) -> list[ScoredPairs]:
    """Scores that tell right from wrong; middling prompts need the middle tier, hard ones the last."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, n)
    chance = np.array(list(RIGHT.values()))[kinds]  # (n, 3)
    right = (random.random((n, 3)) < chance).astype(float)
    gain = 0.3 * kinds + random.normal(size=n) * 0.2
    return [
        ScoredPairs(
            weak=TIERS[k], strong=TIERS[-1], prompt_id=[f"{i:016x}" for i in range(n)],
            q_weak=right[:, k], q_strong=right[:, 2], prompt_chars=np.ones(n),
            cost_weak=np.full(n, COSTS[k]), cost_strong=np.full(n, COSTS[2]),
            gain_raw=gain, weak_adequate_raw=chance[:, 0],
            adequate_raw=1 / (1 + np.exp(-(strength * (right[:, k] - 0.5) + random.normal(size=n)))),
        )
        for k in (0, 1)
    ]  # fmt: skip


def serve(policy: Policy, scored: list[ScoredPairs], maps: dict) -> tuple[float, float]:
    """Mean quality and cost when every prompt is driven through the rules as the cascade does."""
    rule = policy.default
    quality = cost = 0.0
    route = maps["mf"].apply(scored[0].gain_raw)
    judged = [maps["adequate"].apply(step.adequate_raw) for step in scored]
    outcome = [*(step.q_weak for step in scored), scored[0].q_strong]
    for row in range(len(scored[0])):
        signals = Signals(route_score=float(route[row]))
        entry = rule.enter(signals)
        tier, check = entry.tier, entry.check
        while True:
            cost += COSTS[tier]
            if tier == 2 or not check:
                break
            signals.answer_score = float(judged[tier][row])
            if rule.accept(tier, signals):
                break
            tier, check = tier + 1, True
        quality += outcome[tier][row]
    return quality / len(scored[0]), cost / len(scored[0])


def test_a_ladder_beats_the_best_pair_where_the_middle_is_worth_it() -> None:
    scored = steps()
    fitted, told = fit_ladder_policy(scored, quality=0.95)
    assert fitted.policy.tiers == 3
    assert len(fitted.policy.joint) == 2
    assert told["ladder_cost"] < told["best_pair_cost"] - 0.03
    assert told["ladder_quality"] >= 0.95 * scored[0].q_strong.mean()
    fresh = steps(seed=1)
    quality, cost = serve(Policy.from_dict(fitted.policy.to_dict()), fresh, fitted.maps)
    assert quality >= 0.93 * fresh[0].q_strong.mean()
    assert cost == pytest.approx(told["ladder_cost"], abs=0.05)


def test_what_was_reckoned_is_what_the_rules_do() -> None:
    """The fit follows prompts with arrays, the gateway one by one: both must agree to the row."""
    scored = steps(400)
    fitted, told = fit_ladder_policy(scored, quality=0.9)
    quality, cost = serve(fitted.policy, scored, fitted.maps)
    assert quality == pytest.approx(told["ladder_quality"], abs=1e-9)
    assert cost == pytest.approx(told["ladder_cost"], abs=1e-9)


def test_prompts_may_enter_in_the_middle() -> None:
    fitted, _ = fit_ladder_policy(steps(strength=0.0), quality=0.95)  # an evaluator that knows nothing
    rule = fitted.policy.default
    entries = {rule.enter(Signals(route_score=score)) for score in np.linspace(0, 1, 101)}
    assert {entry.tier for entry in entries} >= {1, 2}
    assert Entry(2, False) in entries


def test_one_rule_for_all_steps_still_enters_at_an_end() -> None:
    fitted, _ = fit_ladder_policy(steps(600), quality=0.9)
    rule: JointRule = fitted.policy.joint[0]
    policy = Policy(version="x", default="cascade", thresholds={"cascade": 0.3}, tiers=3, joint=[rule])
    entries = {policy.default.enter(Signals(route_score=score)).tier for score in np.linspace(0, 1, 101)}
    assert entries <= {0, 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    random = np.random.default_rng(0)
    rows = []
    for number in range(200):
        kind = list(RIGHT)[number % 3]
        a, b = (int(x) for x in random.integers(1, 9, 2) * 10 ** (number % 3))
        for model, chance, cost in zip(TIERS, RIGHT[kind], COSTS, strict=True):
            right = bool(random.random() < chance)
            rows.append(
                {
                    "prompt": f"A {kind} sum, number {number}: {a} plus {b}?",
                    "model": model,
                    "response": f"{a} + {b} = {a + b + (0 if right else 7)}",
                    "quality": float(right),
                    "judge": "exact",
                    "cost_usd": cost,
                }
            )
    table = write_jsonl(folder / "t.jsonl", rows)
    frozen = ["--evaluator-tuning", "frozen", "--no-difficulty", "--max-minutes", "0.05"]
    command = ["--examples", str(table), "--tiers", ",".join(TIERS), "--out", str(folder / "b"), *frozen]
    assert main(command) == 0
    return folder


def test_fitted_from_a_table(bundle: Path) -> None:
    made = open_bundle(bundle / "b", TEXT_TEMPLATE)
    assert made.tiers == list(TIERS)
    assert [tier["name"] for tier in made.manifest["tiers"]] == ["weak", "middle", "strong"]
    assert Policy.from_dict(made.read_json("policy.json")).tiers == 3
    assert set(made.read_json("calibration.json")["ladder"]) >= {"ladder_cost", "best_pair_cost"}


def test_no_certificate_and_no_cascade_figure_from_a_pair(bundle: Path) -> None:
    with pytest.raises(ExamplesError, match="a ladder of 3 tiers; certificates are given for two so far"):
        calibrate_bundle(bundle / "b", [bundle / "t.jsonl"], Target(quality=0.9))
    found = evaluate_bundle(bundle / "b", [bundle / "t.jsonl"], bundle / "report", draws=20, coverage_draws=0)
    assert found.report["strategies"]["cascade"]["apgr"] is None
    assert found.report["strategies"]["evaluator"]["apgr"] is not None


def test_tiers_are_named_in_one_way(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--examples", str(bundle / "t.jsonl"), "--out", str(bundle / "x")]
    assert main([*rest, "--tiers", "a,b", "--weak", "a"]) == 1
    assert "by --weak and --strong, or by --tiers A,B,C" in capsys.readouterr().err
    assert main([*rest, "--tiers", "small,small"]) == 1
    assert "at least two different tiers are needed" in capsys.readouterr().err
    assert main([*rest, "--tiers", "small,nobody,large"]) == 1
    assert "model 'nobody' has no row" in capsys.readouterr().err
