"""`manifest.json` and `prices.json`: what the two models are, how good, what a token costs."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from demo.accuracy import measure_accuracy
from demo.architectures import STRONG_ID, WEAK_ID, count_parameters
from demo.pair import MODELS, load_model
from demo.tasks import draw_held_out

# The test split of as many held-out prompts as `python -m demo.answers` exports by default.
HELD_OUT_TASKS = 6000
# The strong model is priced like one of 7 billion parameters; the weak one in proportion to
# its parameters. Only the ratio matters to the demo.
_STRONG_USD_PER_MILLION_TOKENS = 0.20


def write_manifest(out: Path, seed: int = 0) -> dict[str, Any]:
    """Measure `out/weak` and `out/strong` on held-out prompts and write both files into `out`."""
    tasks = draw_held_out(HELD_OUT_TASKS, seed)["test"]
    models: dict[str, Any] = {}
    for name, model_id in (("weak", WEAK_ID), ("strong", STRONG_ID)):
        loaded = load_model(out / name)
        table = measure_accuracy(loaded.model, loaded.tokenizer, tasks)
        models[name] = {
            "id": model_id,
            "architecture": type(loaded.model).__name__,
            "parameters": count_parameters(loaded.model),
            "accuracy": {group: round(share, 4) for group, share in table.items()},
            "sha256": {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted((out / name).iterdir())
            },
        }
    ratio = round(models["weak"]["parameters"] / models["strong"]["parameters"], 4)
    manifest = {
        "test_tasks": len(tasks),
        "seed": seed,
        "price_ratio": ratio,
        "git_revision": _find_revision(),
        "models": models,
    }
    prices = {
        "price_ratio": ratio,
        "usd_per_million_tokens": {
            WEAK_ID: round(_STRONG_USD_PER_MILLION_TOKENS * ratio, 6),
            STRONG_ID: _STRONG_USD_PER_MILLION_TOKENS,
        },
    }
    _write(out / "manifest.json", manifest)
    _write(out / "prices.json", prices)
    return manifest


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def _find_revision() -> str | None:
    """The commit of the code that trained the models, None outside a git checkout."""
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def read_prices(models: Path | None = None) -> dict[str, float]:
    """US dollars a token, prompt and answer alike, by model id. Raises `OSError` without `prices.json`."""
    table = json.loads(((models or MODELS) / "prices.json").read_text())["usd_per_million_tokens"]
    return {name: usd / 1e6 for name, usd in table.items()}
