"""A whole evaluator as it is served, beside the plain network over pairs as long; printed by `bench.scorers`.

The baseline is what a fine-tuned cross-encoder costs at least: a pass of the encoder over prompt and answer.
Ours is `BundleScorers.score_answers`, features, stack and heads included, for answers never seen before; once
with prompts that the pre-router has embedded a moment ago, as in a cascade, and once with new ones. A bundle
is fitted on the first 256 tokens of a prompt and of an answer: what lies beyond costs the baseline alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from routing.bundle import open_bundle
from scorers.answer import RecordedAnswer
from scorers.runtime.scorers import load_scorers
from scorers.text import TEXT_TEMPLATE

PROMPT_SHARE = 0.25  # of a pair's tokens
Pair = tuple[str, RecordedAnswer]


def make_pairs(lengths: Sequence[int], seed: int) -> list[Pair]:
    """Prompts and answers of about so many tokens together: a digit is a token."""
    draw = np.random.default_rng(seed)
    pairs = []
    for n in lengths:
        digits = draw.integers(0, 10, n - 3).tolist()  # three are special
        cut = max(4, int(PROMPT_SHARE * n))
        prompt, answer = (" ".join(map(str, part)) for part in (digits[:cut], digits[cut:]))
        pairs.append((prompt, RecordedAnswer(answer, "stop", None, None)))
    return pairs


def judging_runs(bundle_path: Path, threads: int, lengths: Sequence[int]) -> dict[str, Callable[[], object]]:
    """Each call judges pairs that are new."""
    bundle = open_bundle(bundle_path, TEXT_TEMPLATE)
    scorers = load_scorers(bundle_path, bundle.scorers, threads)
    seeds = iter(range(1, 1_000_000))
    routed: list[list[Pair]] = []

    def new() -> None:
        scorers.score_answers(make_pairs(lengths, next(seeds)))

    def route() -> None:
        routed.append(make_pairs(lengths, next(seeds)))
        scorers.score_prompts([prompt for prompt, _ in routed[-1]], difficulty=False)

    def judge() -> None:
        scorers.score_answers(routed.pop())

    return {"route": route, "evaluator, prompt routed": judge, "evaluator, prompt new": new}
