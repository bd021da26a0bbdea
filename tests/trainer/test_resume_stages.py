"""`calibrate` and `evaluate` killed and run again: the same bundle, the same report. About 40 s alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demo.answers import export_answers
from routing.bundle import open_bundle, recover_bundle
from tests.trainer.kill_stage import ROOT, files_of, run, run_killed

BUNDLE = ROOT / "demo" / "bundle"
FIXED_TIME = {"SOURCE_DATE_EPOCH": "1767225600"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of the embedded pair to prompts that its bundle has not seen."""
    folder = tmp_path_factory.mktemp("answers")
    return next(path for path in export_answers(folder, 300, seed=11) if path.stem == "test")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.long)])
def test_calibrate(table: Path, tmp_path: Path, kills: int) -> None:
    rest = ("--examples", table, "--budget", "0.9")
    for name in "ab":
        shutil.copytree(BUNDLE, tmp_path / name)
    whole = run("trainer.cli_calibrate", tmp_path / "a", *rest, env=FIXED_TIME)
    run_killed(
        "trainer.cli_calibrate", tmp_path / "b", *rest, kills=kills, within_s=whole.seconds, env=FIXED_TIME
    )
    assert open_bundle(tmp_path / "b").version != open_bundle(BUNDLE).version
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    run("trainer.cli_calibrate", tmp_path / "b", *rest, env=FIXED_TIME)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.long)])
def test_evaluate(table: Path, tmp_path: Path, kills: int) -> None:
    rest = (BUNDLE, "--examples", table, "--draws", 50, "--coverage-draws", 0)
    whole = run("trainer.cli_evaluate", *rest, "--out", tmp_path / "a")
    run_killed(
        "trainer.cli_evaluate", *rest, "--out", tmp_path / "b", kills=kills, within_s=whole.seconds, seed=3
    )
    assert set(files_of(tmp_path / "a")) == {"report.json", "report.html", "details.json"}
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_bundle_lost_between_two_renames_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".b.old-x").mkdir()
    shutil.copytree(BUNDLE, tmp_path / ".b.old-x" / "bundle")
    (tmp_path / ".b.writing-y").mkdir()
    recover_bundle(tmp_path / "b")
    assert open_bundle(tmp_path / "b").version == open_bundle(BUNDLE).version
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
