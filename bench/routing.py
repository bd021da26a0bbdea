"""Routing quality on real prompts: `python -m bench.routing --pair gsm8k` (or `alpaca`, or both).

Fits a bundle on a part of an example table, puts the real proxy in front of two servers that answer as the
two models really did, and sends the held-out prompts through it over HTTP under every strategy at several
thresholds. Prints quality, share of strong calls and cost beside always-weak, always-strong and random.

Nothing is written into the checkout: tables, bundles and logs go to `--work`, a folder of the system's
temporary ones by default (AlpacaEval's licence forbids shipping what was fitted on it). A full run takes
about `--max-minutes` a pair for training plus five for the rest on one core; `--quick` is a smoke test of
under a minute whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.routing_figures import Figures, Scores, collect_figures, sweeps_of, thresholds_for_shares
from bench.routing_pairs import PAIRS, Pair, Split, find_table, priced, split_table, write_fit_table
from bench.routing_print import tables
from bench.routing_serve import HeldOut, Pass, serve_pair
from routing.bundle import open_bundle
from routing.errors import UpshiftError
from routing.policy import Policy
from trainer.calibrate import CalibratedScores
from trainer.conditions import Conditions
from trainer.examples import PairTable
from trainer.fit import FitOptions, fit_bundle
from trainer.progress import TerminalProgress

FIT_SHARE = 0.75  # of the minutes; the rest is for serving
QUICK_PROMPTS, QUICK_HELD_OUT, QUICK_MINUTES = 400, 40, 0.25
DRAWS, QUICK_DRAWS = 2000, 200
RANDOM_THRESHOLDS = (0.75, 0.5, 0.25)  # 1 - the share of strong calls


def run_pair(pair: Pair, options: argparse.Namespace, work: Path) -> Figures:
    """Fit, serve, ask, reckon. Raises `UpshiftError`, and `RuntimeError` when the proxy erred."""
    begun = time.monotonic()
    table = find_table(pair, options.examples)
    prompts = QUICK_PROMPTS if options.quick else None
    split = split_table(pair, table, options.held_out_share, options.held_out, prompts)
    n_fit = len({row.prompt_id for row in split.fit.rows})
    _say(f"{pair.name}: {n_fit} prompts to learn from, {len(split.held_out)} held out")
    bundle = _bundle(pair, split, options, work)
    held = HeldOut(pair, _first(split.held_out, QUICK_HELD_OUT) if options.quick else split.held_out)
    given = [table] if options.held_out is None else [options.held_out]
    left_s = options.max_minutes * 60 - (time.monotonic() - begun)
    with serve_pair(pair, given, bundle, work) as url:
        scores, passes = asyncio.run(_ask(held, url, bundle, max(60.0, left_s), quick=options.quick))
    figures = collect_figures(held, scores, passes, QUICK_DRAWS if options.quick else DRAWS)
    print(tables(pair, figures, n_fit), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"routing-{pair.name}.json"
        path.write_text(
            json.dumps({"pair": pair.name, "fit_prompts": n_fit, **figures.to_dict()}, indent=1) + "\n"
        )
    return figures


def _bundle(pair: Pair, split: Split, options: argparse.Namespace, work: Path) -> Path:
    """Fit on the part that may be learnt from, or take the bundle that the same call fitted before."""
    table, minutes = work / "fit.parquet", QUICK_MINUTES if options.quick else options.max_minutes * FIT_SHARE
    write_fit_table(split.fit, pair, table)
    given: Path | None = options.bundle
    if given is not None:
        _refuse_overlap(given, split)
        return given
    settings = FitOptions(
        max_minutes=minutes,
        evaluator_encoder=options.evaluator_encoder,
        difficulty=not options.quick,
        price_ratio=getattr(pair.prices, "ratio", None),
        seed=options.seed,
    )
    key = hashlib.sha256(
        repr((settings, hashlib.sha256(table.read_bytes()).hexdigest())).encode()
    ).hexdigest()
    path = work / f"bundle-{key[:12]}"
    if path.is_dir() and options.reuse:
        _say(f"{pair.name}: using {path}")
        return path
    with TerminalProgress() as progress:
        fit_bundle([table], pair.weak, pair.strong, path, settings, conditions=Conditions(progress))
    return path


def _first(pairs: PairTable, n: int) -> PairTable:
    return PairTable(
        pairs.weak_model, pairs.strong_model, pairs.weak[:n], pairs.strong[:n], pairs.quality[:n]
    )


def _refuse_overlap(bundle: Path, split: Split) -> None:
    """A bundle that has seen a held-out prompt proves nothing about it."""
    seen = {key for ids in open_bundle(bundle).prompt_ids().values() for key in ids}
    if both := seen & set(split.held_out.prompt_ids):
        raise UpshiftError(
            f"{bundle} was fitted on {len(both)} of the {len(split.held_out)} held-out prompts"
        )


async def _ask(
    held: HeldOut, url: str, bundle: Path, limit_s: float, *, quick: bool
) -> tuple[Scores, dict[str, Pass]]:
    """All passes, and the scores that the proxy told; thresholds that no time was left for are named."""
    deadline = time.monotonic() + limit_s
    policy = Policy.from_dict(open_bundle(bundle).read_json("policy.json"))
    passes: dict[str, Pass] = {}
    route, difficulty = await held.read_scores(url)
    passes["upshift-evaluator"] = judged = await held.run(url, "upshift-evaluator")
    adequate = np.where(judged.unjudged == 1.0, 0.0, judged.evaluator_score)
    known = CalibratedScores(mf=route, adequate=adequate)
    if "difficulty" in policy.strategies:
        known.difficulty = difficulty
    scores = Scores(known, policy)
    sweeps = sweeps_of(held, scores)
    names = ["weak", "strong", *(f"upshift-random-{value:g}" for value in RANDOM_THRESHOLDS)]
    for strategy in ("mf", "evaluator", "cascade"):
        values = thresholds_for_shares(held, sweeps[strategy])
        names.append(f"upshift-{strategy}")
        names += [f"upshift-{strategy}-{value:.7f}" for value in (values[1:2] if quick else values)]
    left_out = []
    for name in names:
        if name in passes:
            continue
        if time.monotonic() > deadline:
            left_out.append(name)
            continue
        passes[name] = await held.run(url, name)
        _say(f"{name}: {len(held)} prompts in {passes[name].seconds:.1f} s")
    if left_out:
        _say(f"no time left for {', '.join(left_out)}")
    return scores, {name: passes[name] for name in names if name in passes}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every pair ran, 1 with a line on standard error when one could not."""
    options = _parser().parse_args(argv)
    names = list(PAIRS) if options.pair == "all" else [options.pair]
    try:
        if len(names) > 1 and (options.examples or options.held_out or options.bundle):
            raise UpshiftError("--examples, --held-out and --bundle belong to one pair: give --pair")
        for name in names:
            pair = priced(
                PAIRS[name], options.price_ratio, options.weak_usd_per_mtok, options.strong_usd_per_mtok
            )
            work = options.work / name
            work.mkdir(parents=True, exist_ok=True)
            run_pair(pair, options, work)
    except (UpshiftError, RuntimeError) as error:
        print(f"bench.routing: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.routing", description="Routing quality on held-out real prompts."
    )
    add = parser.add_argument
    add("--pair", choices=[*PAIRS, "all"], default="all")
    add("--examples", type=Path, metavar="FILE", help="the pair's table; default: in $UPSHIFT_EXAMPLES")
    add(
        "--held-out",
        type=Path,
        metavar="FILE",
        help="a table of its own to measure on; default: split by hash",
    )
    add("--held-out-share", type=float, default=0.4, help="of the prompts, 0 to 1 (default 0.4)")
    add("--bundle", type=Path, help="measure this bundle instead of fitting one")
    add("--price-ratio", type=float, help="price of a weak answer over a strong one's")
    for side in ("weak", "strong"):
        add(f"--{side}-usd-per-mtok", type=float, nargs=2, metavar=("PROMPT", "COMPLETION"))
    add("--evaluator-encoder", default="minilm", help="as of `upshift fit`")
    add("--max-minutes", type=float, default=20.0, help="for one pair, three quarters of it for training")
    add("--quick", action="store_true", help="smoke test on a few prompts, under a minute")
    add(
        "--reuse",
        action="store_true",
        help="take the bundle of an earlier run with the same settings and table",
    )
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="DIR", help="also write DIR/routing-PAIR.json")
    add(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "upshift-bench",
        help="for bundles and logs",
    )
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
