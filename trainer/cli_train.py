"""`upshift train`: the command line of `trainer.train`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from routing.errors import SettingsError, UpshiftError
from trainer.conditions import Conditions
from trainer.devices import open_accelerator
from trainer.progress import TerminalProgress
from trainer.train import train
from trainer.train_config import load_config

if TYPE_CHECKING:
    from accelerate import Accelerator


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when every stage is done, 1 with one line on standard error when one is not, 130 on Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        with TerminalProgress() as progress:

            def say(line: str) -> None:
                progress.close()
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()

            conditions = Conditions(progress, accelerator=_one_process())
            bundle = train(
                load_config(arguments.config, arguments.from_log, arguments.log_days), conditions, say
            )
    except UpshiftError as exc:
        sys.stderr.write(f"upshift train: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift train: interrupted; the same command goes on where it stopped\n")
        return 130
    sys.stdout.write(f"bundle: {bundle}\n")
    return 0


def _one_process() -> Accelerator | None:
    """This machine's GPU, if any. Several processes would each ask the models for every answer."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            f"train runs as one process, it was started as {os.environ['WORLD_SIZE']}; "
            "spread `upshift fit` over several devices by `accelerate launch` instead"
        )
    return open_accelerator()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upshift train",
        description="Prompts in, a calibrated bundle out: every stage in order, skipped where it is done.",
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="see docs/examples/train.yaml"
    )
    parser.add_argument(
        "--from-log",
        metavar="URL",
        help="take the prompts from a decision log that keeps text (sqlite:///FILE, postgresql://...)",
    )
    parser.add_argument(
        "--log-days", type=float, default=0.0, metavar="N", help="of that log, the last N days (default: all)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
