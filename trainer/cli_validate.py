"""`upshift validate`: the command line of `trainer.validate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.validate import find_problems

_SHOWN = 50
_EXAMPLES = """\
examples:
  upshift validate examples.parquet
  upshift validate examples.parquet more.jsonl --models microsoft/phi-2 mistral --all

Exit status: 0 no problem, 1 problems (one line each, with file and row).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when the tables are sound, 1 with a line a problem on standard output when not."""
    parser = argparse.ArgumentParser(
        prog="upshift validate",
        description="Say everything that is wrong with example tables.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tables", nargs="+", type=Path, metavar="FILE", help=".parquet or .jsonl")
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="MODEL", help="that must have answered every prompt"
    )
    parser.add_argument("--all", action="store_true", help=f"show more than {_SHOWN} problems")
    arguments = parser.parse_args(argv)
    try:
        problems = find_problems(arguments.tables, arguments.models)
    except KeyboardInterrupt:
        sys.stderr.write("upshift validate: interrupted\n")
        return 130
    shown = problems if arguments.all else problems[:_SHOWN]
    for problem in shown:
        sys.stdout.write(f"{problem}\n")
    if len(shown) < len(problems):
        sys.stdout.write(f"... and {len(problems) - len(shown)} more (--all shows them)\n")
    sys.stdout.write(f"{len(problems)} problems\n" if problems else "no problem\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
