"""Early verdicts against held ones on prompts that a bundle has not seen, token by token, without a clock.

    python -m bench.streams_replay --bundle DIR --examples FILE... [--least-tokens 64]

Every weak answer is scored whole and at the bundle's checkpoints by the serving runtime, and the bundle's
rule and bounds decide as a server with time for every score would; `bench.streams` measures it over HTTP.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from routing.bundle import open_bundle
from routing.early import Checkpoint
from routing.errors import UpshiftError
from scorers.runtime.scorers import load_scorers
from scorers.text import TEXT_TEMPLATE
from trainer.calibrate import FittedPolicy
from trainer.calibrate_early import judge_streams, score_prefixes, token_count
from trainer.early_bounds import replay
from trainer.examples import PairTable, pair_examples, read_examples
from trainer.prefixes import CHECKPOINTS
from trainer.score import score_pairs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.streams_replay", description="Early verdicts, replayed.")
    add = parser.add_argument
    add("--bundle", type=Path, required=True)
    add("--examples", type=Path, nargs="+", required=True, metavar="FILE")
    add("--least-tokens", type=int, default=1, help="shorter weak answers are left out")
    add("--prompts", type=int, default=0, help="at most this many; 0: all")
    options = parser.parse_args(argv)
    try:
        lines = run(options.bundle, options.examples, options.least_tokens, options.prompts)
    except (UpshiftError, RuntimeError) as error:
        print(f"bench.streams_replay: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


def run(folder: Path, examples: Sequence[Path], least_tokens: int = 1, prompts: int = 0) -> list[str]:
    """One line a figure. Raises `UpshiftError`, `RuntimeError`."""
    bundle = open_bundle(folder, TEXT_TEMPLATE)
    fitted = FittedPolicy.from_dicts(bundle.read_json("policy.json"), bundle.read_json("calibration.json"))
    rule = fitted.policy.default
    early = fitted.policy.early_rule(rule)
    if early is None:
        raise RuntimeError(f"{folder} has no bounds for strategy {rule.strategy!r}")
    pairs = _unseen(bundle.prompt_ids(), examples, bundle.tiers[0], bundle.tiers[-1], least_tokens, prompts)
    scored = score_pairs(bundle, pairs)
    wanted = {point.tokens for point in early.checkpoints}
    scorers = load_scorers(bundle.path, bundle.scorers)
    prefixes = score_prefixes(scorers, scored, pairs, checkpoints=wanted)
    streams, share_judged = judge_streams(fitted, scored, prefixes, rule)
    known = {point.tokens: point for point in early.checkpoints}
    points = [known.get(tokens, Checkpoint(tokens)) for tokens in CHECKPOINTS]
    replayed = replay(points, streams)
    commits, abandons = replayed.verdict == 1, replayed.verdict == -1
    accepted, n = streams.accepted, len(streams.tokens)
    wrong, spent = commits & ~accepted, abandons & accepted
    moved = (spent.sum() - wrong.sum()) / n * share_judged
    quality = (streams.gain[spent].sum() - streams.gain[wrong].sum()) / n * share_judged
    held = _wasted(streams.tokens, ~accepted, np.ones(n))
    given_up = _wasted(streams.tokens, abandons | (~accepted & ~commits), replayed.at)
    half = abandons & ~accepted & (replayed.at < 0.5)
    return [
        f"prompts {len(pairs)}, judged {n}, accepted when held {accepted.mean():.1%}",
        f"first byte before the end: {(commits & accepted).sum() / max(1, accepted.sum()):.1%} of accepted",
        f"given up before half: {half.sum() / max(1, (~accepted).sum()):.1%} of rejected, "
        f"before the end {(abandons & ~accepted).sum() / max(1, (~accepted).sum()):.1%}",
        f"strong share moved by {100 * moved:+.1f} points, quality by {100 * quality:+.1f} points "
        f"(wrong commits {wrong.sum()}, needless abandons {spent.sum()})",
        f"weak tokens wasted a judged prompt: held {held:.0f}, early {given_up:.0f}",
        f"share of the answer awaited, mean: committed {_mean(replayed.at[commits]):.0%}, "
        f"abandoned {_mean(replayed.at[abandons]):.0%}",
    ]


def _unseen(
    splits: dict[str, list[str]],
    examples: Sequence[Path],
    weak: str,
    strong: str,
    least_tokens: int,
    prompts: int,
) -> PairTable:
    known = {prompt_id for ids in splits.values() for prompt_id in ids}
    table = pair_examples(read_examples(examples), weak, strong)
    kept = [
        i
        for i, row in enumerate(table.weak)
        if row.prompt_id not in known and row.response and token_count(row) >= least_tokens
    ][: prompts or None]
    if not kept:
        raise RuntimeError("the examples hold no prompt that the bundle has not seen")
    sides = ([side[i] for i in kept] for side in (table.weak, table.strong))
    return PairTable(weak, strong, *sides, table.quality[kept])


def _wasted(tokens: np.ndarray, rejected: np.ndarray, at: np.ndarray) -> float:
    """Tokens of rejected answers, a judged prompt."""
    return float((tokens * at)[rejected].sum() / len(tokens))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


if __name__ == "__main__":
    sys.exit(main())
