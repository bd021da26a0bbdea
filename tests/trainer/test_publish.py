"""`publish` on the bundle that ships with the demo: checked, versioned, repeatable. About 10 s."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from proxy.loop.reference import reference_of
from proxy.plan import calibration_rows, plan_of
from routing.bundle import open_bundle, rewrite_bundle, write_bundle
from routing.calibration import CalibrationMap
from routing.curve import trace_points
from routing.errors import BundleError, ExamplesError
from routing.policy import Policy
from scorers.text import TEXT_TEMPLATE
from tests.trainer.kill_stage import ROOT, files_of, run, run_killed
from tests.trainer.tables import example_rows, write_jsonl
from trainer.calibrate import CalibratedScores
from trainer.cli_publish import main
from trainer.publish import CURRENT, PublishOptions, publish_bundle
from trainer.publish_int8 import Int8Verdict, as_int8

BUNDLE = ROOT / "demo" / "bundle"


def test_a_version_is_checked_trimmed_and_pointed_at(tmp_path: Path) -> None:
    done = publish_bundle(BUNDLE, tmp_path, PublishOptions(licence="MIT"))
    served = open_bundle(tmp_path / CURRENT, TEXT_TEMPLATE)
    assert (tmp_path / CURRENT).resolve() == done.path == tmp_path / served.version
    assert served.manifest["published_from"] == open_bundle(BUNDLE).version
    assert not served.has("calibration_scores.safetensors")
    assert json.loads(header_of(served.path / "curve.safetensors")).get("__metadata__") is None
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".publishing")]
    card = (done.path / "MODEL_CARD.md").read_text()
    for said in ("licence of the data: MIT", "demo-tasks", "## Certificate", "fp32; int8 was not tried"):
        assert said in card


def test_the_console_draws_the_same_curve_of_a_published_bundle(tmp_path: Path) -> None:
    """Curve, plan and what drift is measured against: equal to those of the bundle that was published."""
    publish_bundle(BUNDLE, tmp_path, PublishOptions(warm=False))
    found = []
    for path in (BUNDLE, tmp_path / CURRENT):
        bundle = open_bundle(path)
        policy = Policy.from_dict(bundle.read_json("policy.json"))
        data = bundle.read_json("calibration.json")["maps"]
        rows = calibration_rows(bundle, {name: CalibrationMap.from_dict(data[name]) for name in data})
        assert rows is not None
        plan = plan_of(rows, policy.default, 0.01)
        curves = [trace_points(rows, policy, strategy) for strategy in policy.strategies]
        found.append((curves, plan, reference_of(rows, policy.default, 0.01, plan)))
    assert found[0] == found[1]
    assert set(found[1][2]) >= {"route_score", "evaluator_score", "prompt_length", "strong_share"}


def test_publishing_again_changes_nothing_and_another_bundle_moves_the_pointer(tmp_path: Path) -> None:
    first = publish_bundle(BUNDLE, tmp_path, PublishOptions(warm=False))
    before = files_of(tmp_path / first.version)
    assert publish_bundle(BUNDLE, tmp_path, PublishOptions(warm=False)) == first
    assert files_of(tmp_path / first.version) == before
    other = write_bundle(tmp_path / "b", open_bundle(BUNDLE).manifest, bundle_files())
    other = rewrite_bundle(other, {}, {"seed": 99})
    second = publish_bundle(other.path, tmp_path / "out", PublishOptions(warm=False))
    assert second.version != first.version
    assert (tmp_path / "out" / CURRENT).resolve() == second.path
    assert files_of(tmp_path / first.version) == before


def test_a_version_that_was_damaged_in_place_is_put_right(tmp_path: Path) -> None:
    done = publish_bundle(BUNDLE, tmp_path, PublishOptions(warm=False))
    (done.path / "mf.safetensors").write_bytes(b"cut")
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(tmp_path / CURRENT)
    publish_bundle(BUNDLE, tmp_path, PublishOptions(warm=False))
    open_bundle(tmp_path / CURRENT, TEXT_TEMPLATE)


def test_an_archive_is_the_same_file_every_time(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.tar.gz", "b.tar.gz")]
    for path in paths:
        publish_bundle(BUNDLE, path, PublishOptions(warm=False))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with tarfile.open(paths[0]) as archive:
        archive.extractall(tmp_path / "x", filter="data")
    (folder,) = (tmp_path / "x").iterdir()
    assert open_bundle(folder, TEXT_TEMPLATE).version == folder.name


def test_what_must_not_be_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = bundle_files()
    bare = write_bundle(
        tmp_path / "bare", open_bundle(BUNDLE).manifest, {"mf.safetensors": files["mf.safetensors"]}
    )
    with pytest.raises(BundleError, match=r"policy\.json.*run upshift calibrate first"):
        publish_bundle(bare.path, tmp_path / "out")
    whole = write_bundle(tmp_path / "whole", open_bundle(BUNDLE).manifest, files)
    (whole.path / "policy.json").write_text("{}")
    assert main([str(whole.path), "--to", str(tmp_path / "out")]) == 1
    assert "policy.json is damaged: sha256 is" in capsys.readouterr().err
    assert not (tmp_path / "out" / CURRENT).exists()
    (tmp_path / "taken" / CURRENT).mkdir(parents=True)
    with pytest.raises(BundleError, match="is no link"):
        publish_bundle(BUNDLE, tmp_path / "taken", PublishOptions(warm=False))


def test_int8_needs_the_calibration_prompts_and_is_marked(tmp_path: Path) -> None:
    strange = write_jsonl(tmp_path / "t.jsonl", example_rows(30))
    with pytest.raises(ExamplesError, match="none of the 2336 prompts"):
        publish_bundle(BUNDLE, tmp_path / "out", PublishOptions(examples=[strange]))
    section = as_int8(open_bundle(BUNDLE).scorers)
    assert all(entry["encoder"]["int8"] for entry in section.values())
    assert "encoder" in open_bundle(BUNDLE).scorers["mf"]
    assert "int8" not in open_bundle(BUNDLE).scorers["mf"]["encoder"]
    assert str(Int8Verdict(False, 0.05, 0.97, 300)).startswith("fp32: int8 moves the scores")


def test_a_report_of_another_pair_is_refused(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"pair": {"weak": "a", "strong": "b"}, "n": 1, "strategies": {}}))
    with pytest.raises(BundleError, match="is of a -> b, the bundle of"):
        publish_bundle(BUNDLE, tmp_path / "out", PublishOptions(report=report, warm=False))


@pytest.mark.timeout(300)
def test_killed_and_run_again(tmp_path: Path) -> None:
    whole = run("trainer.cli_publish", BUNDLE, "--to", tmp_path / "a", "--no-warm")
    arguments = (BUNDLE, "--to", tmp_path / "b", "--no-warm")
    run_killed("trainer.cli_publish", *arguments, kills=2, within_s=whole.seconds, seed=4)
    kept = {name: data for name, data in files_of(tmp_path / "a").items() if not name.endswith(".lock")}
    assert kept == {n: data for n, data in files_of(tmp_path / "b").items() if not n.endswith(".lock")}


def header_of(path: Path) -> bytes:
    """The names and shapes in a safetensors file."""
    raw = path.read_bytes()
    return raw[8 : 8 + int.from_bytes(raw[:8], "little")]


def bundle_files() -> dict[str, bytes | Path]:
    return {name: BUNDLE / name for name in open_bundle(BUNDLE).manifest["files"]}


def test_decisions_are_compared_at_the_operating_point() -> None:
    from trainer.calibrate import FittedPolicy
    from trainer.publish_int8 import _changes, _decisions

    bundle = open_bundle(BUNDLE)
    fitted = FittedPolicy.from_dicts(bundle.read_json("policy.json"), bundle.read_json("calibration.json"))
    random = np.random.default_rng(0)
    one = CalibratedScores(*(random.random(500) for _ in range(4)))
    other = CalibratedScores(one.mf, one.difficulty, np.clip(one.adequate - 0.5, 0, 1), one.weak_adequate)
    assert _changes(one, other)[:2] == [0.0, 0.0]
    assert _changes(one, other)[2] > 0.4
    assert (_decisions(fitted, one) >= _decisions(fitted, other)).all()
    assert (_decisions(fitted, one) != _decisions(fitted, other)).any()
