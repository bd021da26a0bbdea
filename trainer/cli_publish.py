"""`upshift publish`: the command line of `trainer.publish`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from routing.errors import UpshiftError
from trainer.progress import TerminalProgress
from trainer.publish import PublishOptions, publish_bundle


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when the version is in place, 1 with one line on standard error when not, 130 on Ctrl-C."""
    arguments = _parser().parse_args(argv)
    options = PublishOptions(arguments.examples, arguments.licence, arguments.report, not arguments.no_warm)
    try:
        with TerminalProgress() as progress:
            done = publish_bundle(arguments.bundle, arguments.to, options, progress)
    except UpshiftError as exc:
        sys.stderr.write(f"upshift publish: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift publish: interrupted; what was published before is as it was\n")
        return 130
    if done.verdict is not None:
        sys.stdout.write(f"encoders: {done.verdict}\n")
    sys.stdout.write(f"version {done.version} published to {done.path}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upshift publish", description="Check a bundle and put it where servers read it."
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE")
    add("--to", type=Path, required=True, metavar="DIR|FILE", help="folder of versions, or a .tar.gz")
    add(
        "--examples",
        nargs="+",
        type=Path,
        default=[],
        help="tables with the bundle's prompts: tries int8, and keeps it only if decisions stay",
    )
    add("--licence", default="", help="licence of the data, for the model card")
    add("--report", type=Path, metavar="FILE", help="report.json of this bundle, for the model card")
    add("--no-warm", action="store_true", help="do not load the result once")
    return parser


if __name__ == "__main__":
    sys.exit(main())
