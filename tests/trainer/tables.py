"""Small example tables for tests: prompts whose adequacy a scorer can learn from text, features or
logprobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WEAK, STRONG = "tiny-weak", "tiny-strong"


def example_rows(n_prompts: int, seed: int = 0, logprobs: bool = True) -> list[dict[str, Any]]:
    """Sums; the weak model errs on large numbers, says so in its log-probabilities, and shows a wrong
    equation."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(n_prompts):
        hard = bool(random.random() < 0.5)
        a, b = (
            (int(x) for x in random.integers(100, 999, 2))
            if hard
            else (int(x) for x in random.integers(1, 9, 2))
        )
        prompt = f"Question {seed}-{number}: what is {a} plus {b}?" + (
            " Think of the carries." if hard else ""
        )
        weak_right = bool(random.random() < (0.2 if hard else 0.9))
        for model, right in ((WEAK, weak_right), (STRONG, bool(random.random() < 0.95))):
            answer = a + b + (0 if right else 7)
            row = {
                "prompt": prompt,
                "model": model,
                "response": f"{a} + {b} = {answer}",
                "quality": float(right),
                "judge": "exact",
                "group": "hard" if hard else "easy",
                "completion_tokens": 6,
                "cost_usd": 1e-5 if model == WEAK else 4e-5,
            }
            if logprobs:
                row["logprobs"] = [-0.05 if right else -0.9] * 6
            rows.append(row)
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
