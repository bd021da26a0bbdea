"""`upshift label`: the command line of `trainer.label`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routing.errors import SettingsError, UpshiftError
from scorers.verifiers import verifier_names
from trainer.cli_collect import add_request_options, read_patience
from trainer.endpoint import parse_endpoint, parse_price
from trainer.label import LabelOptions, label
from trainer.label_log import label_log
from trainer.manifest import read_manifest
from trainer.progress import Progress, TerminalProgress
from trainer.split_table import split_table

_EXAMPLES = """\
examples:
  upshift label answers.parquet --verify numeric --out examples.parquet
  upshift label answers.parquet --judge https://api.openai.com/v1#gpt-5 --out examples.parquet \\
      --agreement by-hand.csv
  upshift label answers.parquet --judge http://127.0.0.1:8003/v1#qwen --pairwise --strong mistral \\
      --out examples.parquet
  upshift label --from-log sqlite:///decisions.db --judge https://api.openai.com/v1#gpt-5 --out live.jsonl

Killed or interrupted, the same command goes on where it stopped. The judge's key: UPSHIFT_JUDGE_API_KEY, else
UPSHIFT_API_KEY; OPENAI_API_KEY for openai.com.
Exit status: 0 all labelled, 1 not (failures and their reasons stand in OUT.manifest.json), 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when every answer has a label, 1 with one line on standard error when not, 130 on Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        with TerminalProgress() as progress:
            path = _label(arguments, progress)
            files = split_table(path) if arguments.by_split else {}
    except UpshiftError as exc:
        sys.stderr.write(f"upshift label: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift label: interrupted; the same command goes on where it stopped\n")
        return 130
    sys.stdout.write(f"examples written to {path}\n")
    for name, file in files.items():
        sys.stdout.write(f"  {name}: {file}\n")
    _tell(read_manifest(path) or {})
    return 0


def _label(arguments: argparse.Namespace, progress: Progress) -> Path:
    """Raises `SettingsError` unless there is one source of answers."""
    if bool(arguments.answers) == bool(arguments.from_log):
        raise SettingsError("give tables of answers, or --from-log URL, one of the two")
    options = _options(arguments)
    if not arguments.from_log:
        return label(options, progress)
    written = label_log(arguments.from_log, options, progress)
    sys.stdout.write(f"{written} judgements written to the log\n")
    return options.out


def _tell(manifest: Mapping[str, Any]) -> None:
    for model, found in manifest.get("quality", {}).items():
        share = f"{100 * found['adequate']:.1f} % adequate"
        sys.stdout.write(f"  {model}: mean quality {found['mean']:.3f}, {share}, {found['rows']} rows\n")
    report = manifest.get("agreement")
    if report:
        sys.stdout.write(f"  agreement with {report['n']} labels by hand:\n")
        for name in ("agreement", "kappa", "spearman"):
            value, interval = report[name], report[f"{name}_ci95"]
            shown = "not defined" if value is None else f"{value:.3f}"
            between = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
            sys.stdout.write(f"    {name}: {shown}{between}\n")
    if manifest.get("labelling", {}).get("judges_itself"):
        sys.stderr.write(
            "upshift label: the judge has judged its own answers, which judges favour; "
            "prefer another model, or look at --agreement\n"
        )


def _options(arguments: argparse.Namespace) -> LabelOptions:
    judge = None
    if arguments.judge:
        price = parse_price(f"judge={arguments.judge_price}")[1] if arguments.judge_price else None
        judge = parse_endpoint(arguments.judge, "judge", price)
    return LabelOptions(
        answers=tuple(arguments.answers),
        out=arguments.out,
        verify=arguments.verify,
        pattern=arguments.pattern,
        judge=judge,
        pairwise=arguments.pairwise,
        strong=arguments.strong,
        rubric=arguments.rubric,
        max_tokens=arguments.max_tokens,
        verdict_attempts=arguments.verdict_attempts,
        keep_samples=arguments.keep_samples,
        relabel=arguments.relabel,
        agreement=arguments.agreement,
        concurrency=arguments.concurrency,
        patience=read_patience(arguments),
        allow_failures=arguments.allow_failures,
        retry_failed=arguments.retry_failed,
        seed=arguments.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upshift label",
        description="Give every answer a quality from 0 to 1.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("answers", nargs="*", type=Path, metavar="FILE", help="answers, as collect writes them")
    add(
        "--from-log",
        metavar="URL",
        help="answers that a proxy has sampled (loop.shadow), text included; judgements go back there",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="examples, .jsonl or .parquet")
    add(
        "--verify",
        default="",
        metavar="NAME",
        help=f"by a rule: {', '.join(verifier_names())}, or MODULE:FUNCTION",
    )
    add("--pattern", default="", metavar="REGEX", help="for --verify regex, in place of each reference")
    add("--judge", metavar="URL#MODEL", help="by a stronger model, URL with /v1")
    add("--judge-price", metavar="IN,OUT", help="US dollars a million tokens")
    add("--pairwise", action="store_true", help="compare with --strong in both orders")
    add("--strong", default="", metavar="MODEL", help="for --pairwise: the model to compare with")
    add("--rubric", type=Path, metavar="FILE", help="the judge's instructions, in place of the packaged ones")
    add("--max-tokens", type=int, default=1024, help="of a verdict (default 1024; more if it thinks first)")
    add("--verdict-attempts", type=int, default=3, help="for replies without a verdict (default 3)")
    add("--keep-samples", action="store_true", help="a row for each sample, in place of their mean")
    add("--by-split", action="store_true", help="beside the table, a file for each split of its rows")
    add("--relabel", action="store_true", help="replace the labels that are there")
    add("--agreement", type=Path, metavar="FILE", help="labels by hand to compare with")
    add_request_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
