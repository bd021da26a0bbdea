"""`upshift train`: the configuration, the order of stages, what is skipped, and a kill at any moment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from routing.bundle import open_bundle
from routing.errors import ExamplesError, SettingsError
from tests.trainer.kill_stage import ROOT, files_of, run, run_killed
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer.cli_train import main
from trainer.examples import read_examples
from trainer.train_config import load_config
from trainer.train_splits import refuse_overlap, split_paths

FIXED_TIME = {"SOURCE_DATE_EPOCH": "1767225600"}


def write_config(folder: Path, **changes: object) -> Path:
    config = {
        "work": "work",
        "examples": ["t.jsonl"],
        "models": [{"model": WEAK}, {"model": STRONG}],
        "fit": {"evaluator_tuning": "frozen", "difficulty": False, "max_minutes": 0.02},
        "evaluate": {"draws": 50, "coverage_draws": 0},
        "publish": {"to": "published", "licence": "made up"},
        **changes,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "t.jsonl", example_rows(320))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fit": {"max_minuts": 3}}, r"train\.yaml: fit\.max_minuts: there is no such key"),
        ({"fit": {"max_minutes": -1}}, r"fit\.max_minutes: Input should be greater than 0 \(it is -1\)"),
        ({"models": [{"model": WEAK}]}, r"models: .*at least 2 items"),
        ({"models": [{"model": WEAK}, {"url": "x"}]}, r"models\.1\.model: is missing; models\.1\.url: "),
        ({"models": [{"model": WEAK}, {"model": WEAK}]}, "a model is named twice"),
        ({"prompts": "p.jsonl"}, "give prompts .* or examples, one of the two"),
        ({"split": {"fit": 0.9}}, r"split: fit, calibrate and test sum to 1\.4, not to 1"),
        ({"calibrate": {"quality": 0.9, "budget": 0.5}}, "calibrate: one target is possible, these are 2"),
        ({"label": {"verify": "exact", "judge": "http://x#y"}}, "label: give verify or judge"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        load_config(write_config(tmp_path, **changes))


def test_sources_of_prompts(tmp_path: Path) -> None:
    models = [{"model": m, "url": "http://127.0.0.1:1/v1"} for m in (WEAK, STRONG)]
    changes = {"examples": [], "models": models, "label": {"verify": "exact"}}
    config = load_config(write_config(tmp_path, prompts=["gsm8k", "mine.csv"], **changes))
    assert config.prompts is not None
    assert config.prompts.sources == ("gsm8k", str(tmp_path / "mine.csv"))
    config = load_config(write_config(tmp_path, models=models, label={"verify": "exact"}), "sqlite:///log.db")
    assert config.prompts is not None
    assert config.prompts.sources == ("sqlite:///log.db",)
    assert not config.examples


def test_files_that_are_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.yaml")]) == 1
    assert re.search(r"upshift train: .*none\.yaml cannot be read", capsys.readouterr().err)
    (tmp_path / "bad.yaml").write_text("work: [")
    with pytest.raises(SettingsError, match=r"bad\.yaml is not YAML"):
        load_config(tmp_path / "bad.yaml")


def test_the_example_is_a_configuration() -> None:
    config = load_config(ROOT / "docs" / "examples" / "train.yaml")
    assert config.work == ROOT / "docs" / "examples" / "run"
    assert config.label is not None
    assert [model.tier for model in config.models] == ["weak", "strong"]


def test_overlap_is_refused(tmp_path: Path) -> None:
    rows = example_rows(4)
    paths = {
        "fit": write_jsonl(tmp_path / "a.jsonl", rows[:4]),
        "test": write_jsonl(tmp_path / "b.jsonl", rows[2:]),
    }
    with pytest.raises(ExamplesError, match=r"prompt [0-9a-f]{16} stands in both fit and test"):
        refuse_overlap(paths)


@pytest.mark.timeout(300)
def test_all_stages_then_nothing_then_what_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(folder)
    assert main(["--config", str(config)]) == 0
    told = capsys.readouterr().out
    stages = ["split", "fit", "calibrate", "evaluate", "publish"]
    assert re.findall(r"^(\w+): ->", told, re.MULTILINE) == stages
    sides = [
        {row.prompt_id for row in read_examples([path]).rows}
        for path in split_paths(folder / "work").values()
    ]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 320
    assert open_bundle(folder / "published" / "current").manifest["published_from"]
    assert (folder / "work" / "report" / "report.html").is_file()

    before = files_of(folder / "work")
    assert main(["--config", str(config)]) == 0
    told = capsys.readouterr().out
    assert re.findall(r"^(\w+): done before", told, re.MULTILINE) == stages
    assert files_of(folder / "work") == before

    (folder / "work" / "report" / "report.json").write_text("{}")
    config = write_config(folder, evaluate={"draws": 60, "coverage_draws": 0})
    assert main(["--config", str(config)]) == 0
    told = capsys.readouterr().out
    assert re.findall(r"^(\w+): ->", told, re.MULTILINE) == ["evaluate", "publish"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_and_run_again(folder: Path) -> None:
    whole = run(
        "trainer.cli_train", "--config", write_config(folder, work="a", publish={"to": "pa"}), env=FIXED_TIME
    )
    config = write_config(folder, work="b", publish={"to": "pb"})
    killed = run_killed(
        "trainer.cli_train", "--config", config, kills=2, within_s=whole.seconds / 2, seed=2, env=FIXED_TIME
    )
    assert killed.kills > 0
    same_run(folder)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_ten_times(folder: Path) -> None:
    small = {"difficulty": True, "max_minutes": 0.2, "lora_rank": 2}
    first = write_config(folder, work="a", publish={"to": "pa"}, fit=small)
    whole = run("trainer.cli_train", "--config", first, env=FIXED_TIME)
    config = write_config(folder, work="b", publish={"to": "pb"}, fit=small)
    killed = run_killed(
        "trainer.cli_train", "--config", config, kills=10, within_s=whole.seconds / 2, env=FIXED_TIME
    )
    assert killed.kills > 3
    same_run(folder)


def same_run(folder: Path) -> None:
    """Every artifact of run b is that of run a."""
    for one, other in (("a", "b"), ("pa", "pb")):
        left, right = (
            {n: d for n, d in files_of(folder / name).items() if not n.endswith((".lock", "train.json"))}
            for name in (one, other)
        )
        assert "manifest.json" in {Path(name).name for name in left}
        assert left == right
