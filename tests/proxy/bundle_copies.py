"""Bundles for a trial, made of the embedded one: one as good, one whose traffic will not be as it foresaw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save

from routing.bundle import Bundle, open_bundle, rewrite_bundle
from scorers.text import TEXT_TEMPLATE

DEMO = Path(__file__).resolve().parents[2] / "demo" / "bundle"


def good_copy(folder: Path) -> Bundle:
    """The same decisions under another version."""
    shutil.copytree(DEMO, folder)
    bundle = open_bundle(folder, TEXT_TEMPLATE)
    calibration = {**bundle.read_json("calibration.json"), "copied": True}
    return rewrite_bundle(bundle, {"calibration.json": json.dumps(calibration).encode()})


def wrong_copy(folder: Path) -> Bundle:
    """It was calibrated, so it says, on prompts that all go to the strong tier."""
    shutil.copytree(DEMO, folder)
    bundle = open_bundle(folder, TEXT_TEMPLATE)
    scores = load_file(folder / "calibration_scores.safetensors")
    scores["gain_raw"] = scores["gain_raw"] * 0.0 + scores["gain_raw"].max()
    return rewrite_bundle(bundle, {"calibration_scores.safetensors": save(scores)})
