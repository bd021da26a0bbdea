"""Coverage and power of the certificate on real answers: `python -m bench.coverage --pair gsm8k`.

The pooled table is the population, so the truth is known. Its scores have to come from scorers that never
saw the prompt: the prompts are dealt into folds by their hash, and each fold is scored by a bundle that was
fitted, through `upshift fit`'s own code, on the others (cross-fitting; each bundle sees `(folds - 1) / folds`
of the prompts, so it is a little weaker than one fitted on all). Then calibration and certification prompts
are drawn 1,000 times, disjoint, and every certificate is held against the whole population: how often a
promise was false, how often one was given, and what it saved beside the best that could be done uncertified.

Costs one fit a fold (`--max-minutes` each) and about a minute a thousand draws. Bundles stay in `--work`: a
second run with the same folder draws from what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.routing_pairs import PAIRS, Pair, find_table, write_fit_table
from routing.bundle import MANIFEST, open_bundle
from routing.certificate import Promise
from routing.errors import UpshiftError
from trainer.conditions import Conditions
from trainer.coverage import Coverage, measure_coverage, uncertified_optimum
from trainer.examples import ExampleTable, read_examples
from trainer.fit import CALIBRATION_SCORES, FitOptions, fit_bundle
from trainer.progress import TerminalProgress
from trainer.scored import ScoredPairs, join_scored
from trainer.split import fold_of

FOLD_SEED = 57721  # not the trainer's: its own splits must not agree with the folds
DRAW_SHARES = (0.5, 0.75, 0.9)  # of the population in one draw, calibration and certification together


def score_population(pair: Pair, table: Path, folds: int, minutes: float, work: Path) -> ScoredPairs:
    """Every prompt scored by a bundle that was not fitted on it. Raises `UpshiftError`."""
    rows = [row for row in read_examples([table]).rows if row.response is not None]
    work.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    for fold in range(folds):
        inside = ExampleTable([row for row in rows if fold_of(row.prompt_id, folds, FOLD_SEED) == fold])
        parts.append(work / f"fold-{fold}.parquet")
        write_fit_table(inside, pair, parts[-1])
    scored = []
    for fold, part in enumerate(parts):
        bundle = work / f"bundle-{fold}"
        if not (bundle / MANIFEST).is_file():
            others = [other for other in parts if other is not part]
            options = FitOptions(max_minutes=minutes)
            with TerminalProgress() as progress:
                conditions = Conditions(progress)
                fit_bundle(others, pair.weak, pair.strong, bundle, options, [part], conditions)
        scored.append(ScoredPairs.load(open_bundle(bundle).path / CALIBRATION_SCORES))
    return join_scored(scored)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of draws; 1 when a promise was false more often than confidence allows, or no fit was
    possible."""
    options = _parser().parse_args(argv)
    try:
        return run(options)
    except UpshiftError as exc:
        print(f"coverage: {exc}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    pair = PAIRS[options.pair]
    population = score_population(
        pair, find_table(pair, options.examples), options.folds, options.max_minutes, options.work
    )
    promise = Promise(options.quality, options.confidence, options.max_worse)
    best = uncertified_optimum(population, promise.quality)
    print(f"{pair.weak} ({population.q_weak.mean():.3f}) -> {pair.strong} ({population.q_strong.mean():.3f})")
    print(f"population {len(population)}; quality {promise.quality}; uncertified optimum saves {best:.1%}")
    print(
        f"{'prompts a draw':>14} {'draws':>6} {'false':>7} {'allowed':>8} {'given':>7} {'median saved':>13}"
    )
    found: list[Coverage] = []
    for share in DRAW_SHARES:
        size = int(len(population) * share)
        found.append(measure_coverage(population, promise, draws=options.draws, rows=size, seed=options.seed))
        last = found[-1]
        print(
            f"{last.rows:>14} {last.draws:>6} {last.violations:>7.2%} {last.allowed:>8.2%} "
            f"{last.granted:>7.1%} {last.saved_median:>13.1%}",
            flush=True,
        )
    few = measure_coverage(population, promise, draws=options.draws, rows=50, seed=options.seed)
    print(f"{few.rows:>14} {few.draws:>6} {few.violations:>7.2%} {few.allowed:>8.2%} {few.granted:>7.1%}")
    if options.out is not None:
        data = {"pair": pair.name, "optimum": best, "draws": [c.to_dict() for c in (*found, few)]}
        options.out.write_text(json.dumps(data | {"promise": dataclasses.asdict(promise)}, indent=1) + "\n")
    return int(any(c.violations > c.allowed for c in (*found, few)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.coverage", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--pair", choices=sorted(PAIRS), default="gsm8k")
    add("--examples", type=Path, help="the pair's table (default: in the folder of UPSHIFT_EXAMPLES)")
    add("--folds", type=int, default=2)
    add("--max-minutes", type=float, default=10.0, help="of training, a fold")
    add(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "upshift-coverage",
        help="where folds and bundles stay",
    )
    add("--draws", type=int, default=1000)
    add("--quality", type=float, default=0.95)
    add("--confidence", type=float, default=0.95)
    add("--max-worse", type=float)
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="FILE", help="the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
