"""`upshift evaluate`: the command line of `trainer.evaluate_bundle`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routing.errors import UpshiftError
from trainer.calibrate_bundle import TokenPrices
from trainer.cli_calibrate import add_price_arguments
from trainer.evaluate import Evaluation
from trainer.evaluate_bundle import COVERAGE_DRAWS, evaluate_bundle
from trainer.progress import TerminalProgress

_COLUMNS = ("apgr", "apgr_cost", "cpt50", "cpt80", "auroc", "adequacy_auroc", "calls_saved_at_95")


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when the report is written, 1 with one line on standard error when it cannot be."""
    arguments = _parser().parse_args(argv)
    try:
        with TerminalProgress() as progress:
            result = evaluate_bundle(
                arguments.bundle,
                arguments.examples,
                arguments.out,
                pair=None if arguments.pair is None else tuple(arguments.pair),
                price_ratio=arguments.price_ratio,
                prices=None if arguments.prices is None else TokenPrices(*arguments.prices),
                draws=arguments.draws,
                coverage_draws=arguments.coverage_draws,
                seed=arguments.seed,
                progress=progress,
            )
    except UpshiftError as exc:
        sys.stderr.write(f"upshift evaluate: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift evaluate: interrupted\n")
        return 130
    sys.stdout.write(_told(result, arguments.out))
    return 0


def _told(result: Evaluation, out: Path) -> str:
    report = result.report
    pair, quality = report["pair"], report["quality"]
    lines = [
        f"{pair['weak']} ({quality['weak']:.3f}) -> {pair['strong']} ({quality['strong']:.3f}), "
        f"{report['n']} prompts",
        f"{'':12}" + "".join(f"{name:>18}" for name in _COLUMNS),
    ]
    lines += [f"{name:12}" + _row(figures) for name, figures in report["strategies"].items()]
    if report["cost"]["price_ratio"] is None:
        lines.append("no cost is known: give --price-ratio for the figures over cost")
    seen = result.details.get("prompts_seen_in_fitting", 0)
    if seen:
        lines.append(f"WARNING: {seen} of these prompts were used in fitting; the figures are too good")
    lines.append(f"written: {out / 'report.json'}, {out / 'report.html'}")
    return "\n".join(lines) + "\n"


def _row(figures: Mapping[str, Any]) -> str:
    return "".join(
        f"{'-' if figures[name] is None else format(figures[name], '.3f'):>18}" for name in _COLUMNS
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upshift evaluate", description="Judge a bundle on held-out examples."
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE")
    add("--examples", nargs="+", type=Path, required=True, help="example tables (parquet, jsonl)")
    add("--out", type=Path, required=True, metavar="DIR", help="where report.json and report.html go")
    add("--pair", nargs=2, metavar=("WEAK", "STRONG"), help="models to judge (default: the bundle's)")
    add_price_arguments(parser)
    add("--draws", type=int, default=1000, help="bootstrap draws")
    add("--coverage-draws", type=int, default=COVERAGE_DRAWS, help="draws of the coverage test, 0 to skip it")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
