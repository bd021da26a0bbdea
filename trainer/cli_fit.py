"""`upshift fit`: the command line of `trainer.fit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from routing.errors import ExamplesError, UpshiftError
from scorers.encoders import DEFAULT_ENCODER
from trainer.budget import MINUTES
from trainer.calibrate import QUALITY
from trainer.checkpoint import EVERY_S
from trainer.conditions import Conditions
from trainer.devices import is_first, open_accelerator
from trainer.fit import FitOptions, fit_ladder
from trainer.fit_mf import FORM_CHOICES
from trainer.progress import TerminalProgress


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when the bundle is written, 1 with one line on standard error when it cannot be, 130 on
    Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        with TerminalProgress() as progress:
            conditions = Conditions(progress, accelerator=open_accelerator())
            path = fit_ladder(
                arguments.examples,
                _tiers(arguments),
                arguments.out,
                _options(arguments),
                arguments.calibration_examples,
                conditions,
            )
            if conditions.accelerator is not None:
                conditions.accelerator.end_training()
    except UpshiftError as exc:
        sys.stderr.write(f"upshift fit: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift fit: interrupted; the same command goes on from here\n")
        return 130
    if is_first(conditions):
        sys.stdout.write(f"bundle written to {path}\n")
    return 0


def _tiers(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The ladder, cheapest first. Raises `ExamplesError` unless it is named in one of the two ways."""
    pair, ladder = (arguments.weak, arguments.strong), arguments.tiers
    if ladder is None and None not in pair:
        return pair
    if ladder is None or pair != (None, None):
        raise ExamplesError("name the models by --weak and --strong, or by --tiers A,B,C")
    return tuple(name.strip() for name in ladder.split(",") if name.strip())


def _options(arguments: argparse.Namespace) -> FitOptions:
    base = FitOptions()
    return FitOptions(
        encoder=arguments.encoder,
        evaluator_encoder=arguments.evaluator_encoder,
        mf_form=arguments.mf_form,
        mf_bias=not arguments.mf_no_bias,
        difficulty=not arguments.no_difficulty,
        evaluator=not arguments.no_evaluator,
        difficulty_settings=replace(
            base.difficulty_settings,
            tuning=arguments.difficulty_tuning,
            rank=arguments.lora_rank,
            outputs=2 if arguments.difficulty_form == "gain" else 1,
        ),
        evaluator_settings=replace(
            base.evaluator_settings,
            tuning=arguments.evaluator_tuning,
            rank=arguments.lora_rank,
            outputs=1 if arguments.evaluator_head == "scalar" else 2,
        ),
        max_minutes=arguments.max_minutes,
        price_ratio=arguments.price_ratio,
        quality=arguments.quality,
        seed=arguments.seed,
        hard_stop=arguments.hard_stop,
        checkpoint_every_s=arguments.checkpoint_every,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="upshift fit", description="Train all scorers and write a bundle.")
    add = parser.add_argument
    add("--examples", nargs="+", type=Path, required=True, help="example tables (parquet, jsonl)")
    add("--calibration-examples", nargs="+", type=Path, default=[], help="tables kept for calibration alone")
    add("--weak", metavar="MODEL", help="the cheap model, as named in the tables")
    add("--strong", metavar="MODEL", help="the dear model")
    add("--tiers", metavar="A,B,C", help="a ladder of models, cheapest first, instead of --weak and --strong")
    add("--out", required=True, type=Path, metavar="BUNDLE", help="folder to write")
    add(
        "--encoder",
        default=DEFAULT_ENCODER,
        help="query vectors: minilm, openai:MODEL, URL#MODEL, folder or hub name",
    )
    add(
        "--evaluator-encoder",
        default=DEFAULT_ENCODER,
        help="minilm, a folder or a hub name; URL#MODEL: a classifier that is served (/classify)",
    )
    add("--max-minutes", type=_positive, default=MINUTES, help="bound on training (rows are sampled to fit)")
    add("--hard-stop", action="store_true", help="cut training by the clock; the bundle then depends on it")
    add(
        "--checkpoint-every",
        type=float,
        default=EVERY_S,
        metavar="SECONDS",
        help="how much work a kill may cost; the bundle does not depend on it",
    )
    add("--seed", type=int, default=0)
    add(
        "--mf-form",
        choices=FORM_CHOICES,
        default="auto",
        help="P(model adequate), P(strong wins), or the better one on left-out prompts",
    )
    add("--mf-no-bias", action="store_true", help="no bias in the projection, as in RouteLLM's code")
    add("--no-difficulty", action="store_true", help="leave the difficulty classifier out")
    add("--no-evaluator", action="store_true", help="leave the evaluator out")
    add(
        "--difficulty-form",
        choices=("gain", "wins"),
        default="gain",
        help="two heads, or P(strong does better)",
    )
    add("--difficulty-tuning", default="lora", help="frozen, lora, top-K or full")
    add("--evaluator-tuning", default="lora", help="frozen, lora, top-K or full")
    add("--evaluator-head", choices=("scalar", "softmax"), default="scalar")
    add("--lora-rank", type=int, default=8)
    add(
        "--price-ratio",
        type=_positive,
        help="price of a weak answer over a strong one's, where rows have no cost",
    )
    add(
        "--quality",
        type=_share,
        default=QUALITY,
        help="first operating point, as a share of the strong model's quality (no promise: see calibrate)",
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
