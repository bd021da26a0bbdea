"""`upshift calibrate` and `upshift evaluate` as commands on a small fitted bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from routing.bundle import open_bundle
from routing.errors import ExamplesError
from routing.policy import Policy
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer.calibrate_bundle import Target, TokenPrices, calibrate_bundle
from trainer.cli_calibrate import REFUSED
from trainer.cli_calibrate import main as calibrate
from trainer.cli_evaluate import main as evaluate
from trainer.fit import FitOptions, fit_bundle
from trainer.fit_evaluator import EvaluatorSettings

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name, rows, seed in (("fit", 160, 0), ("labels", 120, 1), ("test", 100, 2), ("few", 30, 3)):
        write_jsonl(folder / f"{name}.jsonl", example_rows(rows, seed))
    return folder


@pytest.fixture(scope="module")
def fitted(tables, tmp_path_factory) -> Path:
    options = FitOptions(
        difficulty=False, evaluator_settings=EvaluatorSettings(tuning="frozen"), max_minutes=1.0
    )
    out = tmp_path_factory.mktemp("fitted") / "bundle"
    return fit_bundle([tables / "fit.jsonl"], WEAK, STRONG, out, options)


@pytest.fixture
def bundle(fitted, tmp_path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "bundle"))


def run(command, *arguments) -> int:
    return command([str(argument) for argument in arguments])


def test_a_certified_bundle_serves_its_operating_point(bundle, tables, capsys):
    before = open_bundle(bundle)
    assert run(calibrate, bundle, "--examples", tables / "labels.jsonl", "--quality", 0.75) == 0
    told = capsys.readouterr().out
    after = open_bundle(bundle)
    certificate = after.read_json("certificate.json")
    policy = Policy.from_dict(after.read_json("policy.json"))
    assert certificate["granted"]
    assert certificate["saved"] >= 0.05
    assert policy.default.threshold == certificate["threshold"]
    assert after.version != before.version
    assert after.version in told
    assert "certified" in told
    ids = after.prompt_ids()
    assert len(ids["recalibration"]) + len(ids["certification"]) == 120
    assert not set(ids["certification"]) & (set(ids["recalibration"]) | set(ids["train"]))
    assert run(calibrate, bundle, "--examples", tables / "labels.jsonl", "--quality", 0.7) == 0  # same halves
    assert open_bundle(bundle).prompt_ids()["certification"] == ids["certification"]


def test_a_refusal_changes_nothing_and_names_the_number(bundle, tables, capsys):
    before = open_bundle(bundle).version
    assert run(calibrate, bundle, "--examples", tables / "few.jsonl", "--quality", 0.99) == REFUSED
    told = capsys.readouterr().out
    assert "refused: 30 labelled prompts" in told
    assert "would (power .8" in told or "no number of labels is enough" in told
    assert open_bundle(bundle).version == before


def test_prompts_that_were_fitted_on_are_refused(bundle, tables, capsys):
    assert run(calibrate, bundle, "--examples", tables / "fit.jsonl") == 1
    assert "were already fitted on" in capsys.readouterr().err


def test_budget_and_price(bundle, tables, capsys):
    assert run(calibrate, bundle, "--examples", tables / "labels.jsonl", "--budget", 0.9) == 0
    assert "operating point: " in capsys.readouterr().out
    assert run(calibrate, bundle, "--examples", tables / "few.jsonl", "--price", 0.3) == 0
    policy = Policy.from_dict(open_bundle(bundle).read_json("policy.json"))
    assert policy.default.threshold == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quality", "1.5"], "quality must lie in"),
        (["--confidence", "2"], "confidence must lie in"),
        (["--budget", "0.0001"], "no setting"),
    ],
)
def test_targets_that_make_no_sense(bundle, tables, capsys, arguments, message):
    assert run(calibrate, bundle, "--examples", tables / "few.jsonl", *arguments) == 1
    assert message in capsys.readouterr().err


def test_exactly_one_target():
    with pytest.raises(ExamplesError, match="exactly one of quality, budget and price"):
        Target()
    with pytest.raises(ExamplesError, match="exactly one"):
        Target(quality=0.9, price=0.2)


def test_missing_bundle_file_and_model(bundle, tables, tmp_path, capsys):
    assert run(calibrate, tmp_path / "none", "--examples", tables / "labels.jsonl") == 1
    assert "none" in capsys.readouterr().err
    assert run(calibrate, bundle, "--examples", tmp_path / "none.jsonl") == 1
    assert "none.jsonl does not exist" in capsys.readouterr().err
    other = [{**row, "model": "other"} for row in example_rows(30, 5)]
    path = write_jsonl(tmp_path / "other.jsonl", other)
    assert run(evaluate, bundle, "--examples", path, "--out", tmp_path / "out") == 1
    assert f"model {WEAK!r} has no row" in capsys.readouterr().err


def test_prices_need_tokens(bundle, tables, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "cost_usd"} for row in example_rows(24, 6)]
    path = write_jsonl(tmp_path / "bare.jsonl", rows)
    with pytest.raises(ExamplesError, match=r"neither cost_usd nor both prompt_tokens and completion_tokens"):
        calibrate_bundle(bundle, [path], Target(quality=0.9), prices=TokenPrices(1.0, 2.0, 10.0, 20.0))
    counted = write_jsonl(tmp_path / "counted.jsonl", [{**row, "prompt_tokens": 10} for row in rows])
    result = calibrate_bundle(bundle, [counted], Target(price=0.5), prices=TokenPrices(1.0, 2.0, 10.0, 20.0))
    assert result.costs_known
    assert result.outcome.fitted.policy.joint[0].costs.weak_ratio == pytest.approx(0.1)


def test_evaluate_writes_report_and_page(bundle, tables, tmp_path, capsys):
    assert run(calibrate, bundle, "--examples", tables / "labels.jsonl", "--quality", 0.75) == 0
    out = tmp_path / "out"
    examples = ["--examples", tables / "test.jsonl", "--out", out, "--coverage-draws", 5]
    assert run(evaluate, bundle, *examples) == 0
    told = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["n"] == 100
    assert report["pair"] == {"weak": WEAK, "strong": STRONG}
    assert report["cost"]["price_ratio"] == pytest.approx(0.25)
    assert report["certificate"]["granted"]
    assert report["strategies"]["evaluator"]["apgr"] > 0.6
    assert report["strategies"]["difficulty"]["apgr"] is None
    assert "Certificate with confidence" in (out / "report.html").read_text()
    assert "coverage" not in json.loads((out / "details.json").read_text())  # too few to be a population
    assert "evaluator" in told
    assert "WARNING" not in told


def test_evaluating_on_fitted_prompts_is_told(bundle, tables, tmp_path, capsys):
    assert run(evaluate, bundle, "--examples", tables / "fit.jsonl", "--out", tmp_path / "out") == 0
    assert "WARNING: 160 of these prompts were used in fitting" in capsys.readouterr().out


def test_an_output_folder_that_cannot_be_written(bundle, tables, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run(evaluate, bundle, "--examples", tables / "test.jsonl", "--out", tmp_path / "file") == 1
    assert "cannot be written" in capsys.readouterr().err
