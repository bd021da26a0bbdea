"""Bundles for a trial, made of the embedded one's pre-router: quick to load, and not alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from routing.bundle import Bundle, open_bundle, rewrite_bundle
from scorers.text import TEXT_TEMPLATE

DEMO = Path(__file__).resolve().parents[2] / "demo" / "bundle"
_SCORES = "calibration_scores.safetensors"


def light_copy(
    folder: Path, note: str = "", scores: dict[str, Any] | None = None, threshold: float = 0.3
) -> Bundle:
    """Its MF pre-router alone, for any prompt; other `note`, `threshold` or `scores` are another version."""
    shutil.copytree(DEMO, folder)
    bundle = open_bundle(folder, TEXT_TEMPLATE)
    policy = {**bundle.read_json("policy.json"), "default": "mf", "joint": [], "early": {}, "note": note}
    policy["thresholds"] = {"mf": threshold, "random": 0.5}
    kept = {"mf": bundle.scorers["mf"]}
    found = {
        name: rows
        for name, rows in load_file(folder / _SCORES).items()
        if name in ("gain_raw", "prompt_chars", "q_weak", "q_strong")
    }
    files = {"policy.json": json.dumps(policy).encode(), _SCORES: save({**found, **(scores or {})})}
    gone = ("evaluator.safetensors", "difficulty.safetensors", "familiar.json", "familiar.safetensors")
    return rewrite_bundle(bundle, files, {"scorers": kept}, gone)


def wrong_copy(folder: Path) -> Bundle:
    """It was calibrated, so it says, on prompts that all go to the strong tier."""
    highest = load_file(DEMO / _SCORES)["gain_raw"]
    return light_copy(folder, "wrong", {"gain_raw": np.full_like(highest, highest.max())})
