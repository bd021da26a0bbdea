"""`upshift prompts`: the command line of `trainer.prompts`; `collect` takes the same options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from routing.errors import SettingsError, UpshiftError
from trainer.artifact import beside
from trainer.manifest import read_manifest
from trainer.progress import Progress, TerminalProgress
from trainer.prompts import FRACTIONS, STAGE, PromptOptions, gather_prompts, licences
from trainer.prompts_hub import KNOWN
from trainer.prompts_near import THRESHOLD

SUFFIX = ".prompts.jsonl"
_EXAMPLES = """\
examples:
  upshift prompts --prompts gsm8k mmlu --limit 2000 --out prompts.jsonl
  upshift prompts --prompts hf:openai/gsm8k/main:test:question:answer --out prompts.jsonl
  upshift prompts --prompts sqlite:///decisions.db mine.csv --held-out benchmark.jsonl --out prompts.jsonl

A prompt falls into train, calibration, certification or test by its own hash. Near duplicates, and what gives
away a test prompt, are removed and listed in OUT.manifest.json.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when the table is written, 1 with one line on standard error when it cannot be."""
    parser = argparse.ArgumentParser(
        prog="upshift prompts",
        description="Gather prompts from data sets, files and logs into one split table.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_prompt_options(parser, required=False)
    parser.add_argument("--out", type=Path, metavar="FILE", help="prompts, .jsonl or .parquet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="show the known data sets and their licences")
    arguments = parser.parse_args(argv)
    if arguments.list:
        for name, source in KNOWN.items():
            sys.stdout.write(f"{name}: {source.repo}, {source.split}, {source.licence}\n")
        return 0
    if not arguments.prompts or arguments.out is None:
        parser.error("--prompts and --out are needed")
    try:
        with TerminalProgress() as progress:
            options = _options(arguments, arguments.out)
            _tell_licences(options)
            path = gather_prompts(options, progress)
    except UpshiftError as exc:
        sys.stderr.write(f"upshift prompts: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift prompts: interrupted; nothing was written\n")
        return 130
    counts = (read_manifest(path) or {})["counts"]
    splits = ", ".join(f"{name} {count}" for name, count in counts["splits"].items())
    sys.stdout.write(f"{counts['prompts']} prompts written to {path}: {splits}\n")
    return 0


def add_prompt_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """What `prompts` and `collect` take alike."""
    add = parser.add_argument
    add(
        "--prompts",
        nargs="+",
        default=[],
        required=required,
        metavar="SOURCE",
        help=f"{', '.join(KNOWN)}, hf:OWNER/NAME:SPLIT:COLUMN, a file, sqlite:///PATH or postgresql://...",
    )
    add("--limit", type=int, default=0, help="prompts a source, drawn at random (default: all)")
    add("--log-days", type=float, default=0.0, metavar="N", help="of a decision log, the last N days")
    add("--column", default="prompt", help="of files (default prompt)")
    fractions = ",".join(f"{name}={share}" for name, share in FRACTIONS.items())
    add("--splits", default=fractions, help=f"shares (default {fractions})")
    add("--near-duplicates", type=float, default=THRESHOLD, help="similarity; 0: keep them (default 0.9)")
    add("--held-out", type=Path, nargs="+", default=[], metavar="FILE", help="prompts nothing may give away")
    add("--datasets", type=Path, metavar="FOLDER", help="copies of data sets as FOLDER/OWNER/NAME")


def prepare_prompts(arguments: argparse.Namespace, progress: Progress) -> Path:
    """The table `collect` asks from: the one named, if `upshift prompts` made it; else OUT.prompts.jsonl,
    made once. Raises what `gather_prompts` does."""
    if len(arguments.prompts) == 1:
        path = Path(arguments.prompts[0])
        manifest = read_manifest(path) if path.is_file() else None
        if manifest is not None and manifest["stage"] == STAGE:
            return path
    options = _options(arguments, beside(arguments.out, SUFFIX))
    _tell_licences(options)
    return gather_prompts(options, progress, reuse=True)


def _options(arguments: argparse.Namespace, out: Path) -> PromptOptions:
    return PromptOptions(
        sources=tuple(arguments.prompts),
        out=out,
        log_days=arguments.log_days,
        limit=arguments.limit,
        column=arguments.column,
        fractions=_read_fractions(arguments.splits),
        near_threshold=arguments.near_duplicates,
        held_out=tuple(arguments.held_out),
        datasets=arguments.datasets,
        seed=arguments.seed,
    )


def _read_fractions(text: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError as exc:
        raise SettingsError(f"--splits {text!r}: expected NAME=SHARE,NAME=SHARE") from exc


def _tell_licences(options: PromptOptions) -> None:
    for spec, licence in licences(options.sources).items():
        sys.stderr.write(f"{spec}: licence {licence}\n")


if __name__ == "__main__":
    sys.exit(main())
