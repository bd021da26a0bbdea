"""`upshift calibrate`: the command line of `trainer.calibrate_bundle`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from routing.errors import UpshiftError
from trainer.calibrate_bundle import BundleCalibration, Target, TokenPrices, calibrate_bundle
from trainer.progress import TerminalProgress

REFUSED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 with the bundle at its operating point, 1 when it could not be tried, 3 when it was refused."""
    arguments = _parser().parse_args(argv)
    try:
        with TerminalProgress() as progress:
            quality = arguments.quality
            if quality is None and arguments.budget is None and arguments.price is None:
                quality = 0.95
            result = calibrate_bundle(
                arguments.bundle,
                arguments.examples,
                Target(quality, arguments.budget, arguments.price),
                confidence=arguments.confidence,
                max_worse=arguments.max_worse,
                min_saved=arguments.min_saved,
                price_ratio=arguments.price_ratio,
                prices=None if arguments.prices is None else TokenPrices(*arguments.prices),
                seed=arguments.seed,
                progress=progress,
            )
    except UpshiftError as exc:
        sys.stderr.write(f"upshift calibrate: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift calibrate: interrupted; the bundle is as it was\n")
        return 130
    sys.stdout.write(_told(result))
    return 0 if result.written is not None else REFUSED


def _told(result: BundleCalibration) -> str:
    certificate = result.outcome.certificate
    lines = [certificate.reason]
    if result.written is None:
        lines.append("The bundle is as it was.")
        return "\n".join(lines) + "\n"
    policy = result.outcome.fitted.policy
    strategy = policy.default_strategy
    cost = f", cost {result.cost_share:.1%} of always-strong" if result.costs_known else ""
    lines.append(
        f"operating point: {strategy} at {policy.thresholds[strategy]:.4f}, strong calls "
        f"{result.strong_share:.1%}{cost} (all examples)"
    )
    if certificate.granted:
        lines.append(
            f"certificate: quality >= {certificate.quality:.1%} of strong's at confidence "
            f"{certificate.confidence:.1%}, {len(certificate.passed)} operating points hold together, "
            f"valid until {certificate.valid_until}"
        )
        lines.append(certificate.scope)
    lines.append(f"bundle {result.written.path} is now version {result.written.version}")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upshift calibrate", description="Set a bundle's operating point and certify it, or refuse to."
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE")
    add("--examples", nargs="+", type=Path, required=True, help="labelled prompts no scorer was fitted on")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--quality", type=float, help="share of strong's quality to keep, 0..1 (default 0.95)"
    )
    target.add_argument("--budget", type=float, help="mean cost as a share of always-strong's, 0..1")
    target.add_argument("--price", type=float, help="quality lost worth one strong answer's cost, 0..1")
    add("--confidence", type=float, default=0.95)
    add("--max-worse", type=float, metavar="A", help="bound on P(weak answer kept and worse), 0..1")
    add("--min-saved", type=float, default=0.05, help="least share of strong calls worth a certificate")
    add_price_arguments(parser)
    add("--seed", type=int, default=0)
    return parser


def add_price_arguments(parser: argparse.ArgumentParser) -> None:
    """What answers cost, for examples without cost_usd."""
    parser.add_argument(
        "--price-ratio", type=float, metavar="R", help="price of a weak answer over a strong one's"
    )
    parser.add_argument(
        "--prices",
        nargs=4,
        type=float,
        metavar=("WEAK_IN", "WEAK_OUT", "STRONG_IN", "STRONG_OUT"),
        help="US dollars per million tokens, for examples with token counts",
    )


if __name__ == "__main__":
    sys.exit(main())
