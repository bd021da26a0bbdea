"""`fit` from tables to a served bundle, on a small table that a scorer can learn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from routing.bundle import Bundle, open_bundle
from routing.errors import BundleError, ExamplesError
from scorers.familiar import FAMILIAR, Familiar
from scorers.runtime.scorers import load_scorers
from scorers.text import TEXT_TEMPLATE
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer.cli_fit import main
from trainer.examples import pair_examples, read_examples
from trainer.fit import CALIBRATION_SCORES, FitOptions, fit_bundle
from trainer.fit_difficulty import DifficultySettings
from trainer.fit_evaluator import EvaluatorSettings
from trainer.score import score_pairs
from trainer.scored import ScoredPairs

SMALL = FitOptions(
    difficulty_settings=DifficultySettings(rank=2, max_epochs=1, max_tokens=48, lora_layers=2),
    evaluator_settings=EvaluatorSettings(rank=2, max_epochs=2, max_tokens=48, lora_layers=2),
)
FROZEN = FitOptions(
    difficulty=False,
    evaluator_settings=EvaluatorSettings(tuning="frozen", max_epochs=1, max_tokens=32),
    max_minutes=2,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("table") / "fit.jsonl", example_rows(160))


@pytest.fixture(scope="module")
def bundle(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = fit_bundle([table], WEAK, STRONG, tmp_path_factory.mktemp("out") / "bundle", SMALL)
    return open_bundle(path, TEXT_TEMPLATE)


def test_manifest_says_what_it_was_made_of(bundle: Bundle, table: Path) -> None:
    manifest = bundle.manifest
    assert bundle.tiers == [WEAK, STRONG]
    assert manifest["encoder"]["name"] == "minilm"
    assert manifest["encoder"]["dimension"] == 384
    assert manifest["data"]["fingerprint"] == read_examples([table]).fingerprint()
    assert manifest["data"]["judge"] == "exact"
    rows = 2 * len(bundle.prompt_ids()["train"])  # both models' answers teach
    assert manifest["training"]["evaluator"]["sample"] == {"rows": rows, "rows_of": rows, "epochs": 2}
    assert manifest["seed"] == 0


def test_the_bundle_knows_what_it_was_fitted_on(bundle: Bundle, table: Path) -> None:
    familiar = Familiar.from_dict(bundle.read_json(FAMILIAR))
    prompts = list(dict.fromkeys(row.prompt for row in read_examples([table]).rows))
    unlike = [prompt for prompt in prompts if familiar.unlike(prompt)]
    assert len(unlike) < 0.02 * len(prompts)
    assert familiar.unlike("Сколько будет два плюс два, если подумать?") == "script"
    far = load_scorers(bundle.path, bundle.scorers).score_prompts(prompts[:50]).far
    assert far is not None
    assert far.mean() < 0.1


def test_bundle_is_small(bundle: Bundle) -> None:
    assert sum(entry["bytes"] for entry in bundle.manifest["files"].values()) < 2_000_000


def test_splits_are_disjoint_and_kept(bundle: Bundle, table: Path) -> None:
    splits = bundle.prompt_ids()
    assert set(splits) == {"train", "validation", "calibration"}
    ids = [prompt for split in splits.values() for prompt in split]
    assert sorted(ids) == sorted(pair_examples(read_examples([table]), WEAK, STRONG).prompt_ids)


def hold_served_against_kept(bundle: Bundle, table: Path, names: Sequence[str]) -> ScoredPairs:
    """What the fit wrote of its calibration prompts is what the bundle says when it is loaded."""
    kept = ScoredPairs.load(bundle.path / CALIBRATION_SCORES)
    assert sorted(kept.prompt_id) == bundle.prompt_ids()["calibration"]
    scored = score_pairs(bundle, pair_examples(read_examples([table]), WEAK, STRONG))
    row = {prompt: i for i, prompt in enumerate(scored.prompt_id)}
    rows = [row[prompt] for prompt in kept.prompt_id]
    for name in names:
        np.testing.assert_allclose(getattr(scored, name)[rows], getattr(kept, name), atol=1e-4)
    return kept


def test_calibration_scores_are_what_serving_gives(bundle: Bundle, table: Path) -> None:
    names = ("gain_raw", "weak_adequate_raw", "difficulty_raw", "adequate_raw")
    assert hold_served_against_kept(bundle, table, names).cost_weak is not None


def test_scorers_learnt_what_there_is_to_learn(bundle: Bundle, tmp_path: Path) -> None:
    new = read_examples([write_jsonl(tmp_path / "new.jsonl", example_rows(80, seed=9))])
    scored = score_pairs(bundle, pair_examples(new, WEAK, STRONG))
    right = scored.q_weak >= 0.5
    for scores, at_least in ((scored.adequate_raw, 0.9), (scored.weak_adequate_raw, 0.75)):
        assert scores is not None
        assert (scores[right][:, None] > scores[~right][None, :]).mean() > at_least  # AUROC


def test_policy_is_served_from_the_bundle(bundle: Bundle) -> None:
    assert set(bundle.read_json("policy.json")["thresholds"]) >= {"mf", "difficulty", "evaluator", "cascade"}
    assert "adequate" in bundle.read_json("calibration.json")["maps"]


def test_same_seed_same_bundle_other_seed_other_split(table: Path, tmp_path: Path) -> None:
    first, again = (fit_bundle([table], WEAK, STRONG, tmp_path / name, FROZEN) for name in "ab")
    assert open_bundle(first).version == open_bundle(again).version
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # nothing half-written
    other = open_bundle(
        fit_bundle([table], WEAK, STRONG, tmp_path / "c", replace(FROZEN, seed=1, evaluator=False))
    )
    assert other.prompt_ids() != open_bundle(first).prompt_ids()


def test_own_calibration_table_leaves_the_rest_for_training(table: Path, tmp_path: Path) -> None:
    apart = write_jsonl(tmp_path / "cal.jsonl", example_rows(40, seed=3))
    options = replace(FROZEN, evaluator=False)
    path = fit_bundle([table], WEAK, STRONG, tmp_path / "b", options, calibration_examples=[apart])
    splits = open_bundle(path).prompt_ids()
    assert len(splits["train"]) + len(splits["validation"]) == 160
    assert len(splits["calibration"]) == 40
    with pytest.raises(ExamplesError, match="160 prompts stand in both"):
        fit_bundle([table], WEAK, STRONG, tmp_path / "b", options, calibration_examples=[table])


def test_table_without_answers_gives_prompt_scorers_only(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k not in ("response", "logprobs")} for row in example_rows(160)]
    path = fit_bundle([write_jsonl(tmp_path / "t.jsonl", rows)], WEAK, STRONG, tmp_path / "b", FROZEN)
    assert set(open_bundle(path).scorers) == {"mf"}


def test_a_large_table_gives_words_trees_and_topics_twice_alike(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.fit_scorers.LEAST_PROMPTS", 100)
    options = replace(FROZEN, evaluator=False)
    first, again = (open_bundle(fit_bundle([table], WEAK, STRONG, tmp_path / name, options)) for name in "ab")
    assert first.version == again.version
    log = first.manifest["training"]["mf"]
    assert (log["words"], log["trees"], log["topics"]) == (True, True, 2)
    hold_served_against_kept(first, table, ("gain_raw", "weak_adequate_raw"))


def test_refusals(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ExamplesError, match=f"model 'gpt-9' has no row.*there are: {STRONG}, {WEAK}"):
        fit_bundle([table], "gpt-9", STRONG, tmp_path / "b", FROZEN)
    perfect = write_jsonl(tmp_path / "p.jsonl", [{**row, "quality": 1.0} for row in example_rows(60)])
    with pytest.raises(
        ExamplesError, match=f"all 60 answers of {WEAK} in p.jsonl are adequate.*one class only"
    ):
        fit_bundle([perfect], WEAK, STRONG, tmp_path / "b", FROZEN)
    few = write_jsonl(tmp_path / "few.jsonl", example_rows(20))
    with pytest.raises(ExamplesError, match=r"split has \d prompts.*at least 10 are needed \(20 in all\)"):
        fit_bundle([few], WEAK, STRONG, tmp_path / "b", FROZEN)
    with pytest.raises(BundleError, match="/no/encoder"):
        fit_bundle([table], WEAK, STRONG, tmp_path / "b", replace(FROZEN, encoder="/no/encoder"))
    assert not (tmp_path / "b").exists()


def test_command_line(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [
        "--examples",
        str(table),
        "--strong",
        STRONG,
        "--out",
        str(tmp_path / "b"),
        "--max-minutes",
        "1",
    ]
    assert main([*common, "--weak", "nobody"]) == 1
    assert "model 'nobody' has no row" in capsys.readouterr().err
    assert main([*common, "--weak", WEAK, "--no-difficulty", "--no-evaluator", "--mf-form", "pairwise"]) == 0
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["scorers"]["mf"]["form"] == "pairwise"
