"""`upshift collect`: the command line of `trainer.collect`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from routing.errors import SettingsError, UpshiftError
from trainer.chat_client import Patience
from trainer.cli_prompts import add_prompt_options, prepare_prompts
from trainer.collect import ENGINES, CollectOptions, collect
from trainer.endpoint import Endpoint, parse_endpoint, parse_price
from trainer.progress import TerminalProgress

_EXAMPLES = """\
examples:
  upshift collect --prompts prompts.jsonl --out answers.parquet \\
      --weak http://127.0.0.1:8001/v1#microsoft/phi-2 --strong http://127.0.0.1:8002/v1#mistral
  upshift collect --prompts gsm8k mmlu mine.csv --limit 2000 --out answers.jsonl \\
      --samples 4 --temperature 0.7 \\
      --model openai=https://api.openai.com/v1#gpt-5 --price gpt-5=1.25,10

The prompts are read once and kept in OUT.prompts.jsonl, with their splits (see upshift prompts --help).
Killed or interrupted, the same command goes on where it stopped. Keys: UPSHIFT_WEAK_API_KEY,
UPSHIFT_STRONG_API_KEY, UPSHIFT_<TIER>_API_KEY, else UPSHIFT_API_KEY; OPENAI_API_KEY for openai.com.
Exit status: 0 all answered, 1 not (failures and their reasons stand in OUT.manifest.json), 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when every answer is there, 1 with one line on standard error when not, 130 on Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        with TerminalProgress() as progress:
            options = _options(arguments)
            options.check()
            prompts = prepare_prompts(arguments, progress)
            path = collect(replace(options, prompts=prompts), progress)
    except UpshiftError as exc:
        sys.stderr.write(f"upshift collect: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("upshift collect: interrupted; the same command goes on where it stopped\n")
        return 130
    sys.stdout.write(f"answers written to {path}\n")
    return 0


def read_options(argv: Sequence[str]) -> CollectOptions:
    """The options of a command line, its prompts not yet prepared. Raises `SettingsError`."""
    return _options(_parser().parse_args(argv))


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """What every command that asks models takes."""
    base = Patience()
    add = parser.add_argument
    add("--concurrency", type=int, default=16, help="requests in flight, all models together (default 16)")
    add("--timeout-s", type=float, default=base.timeout_s, help="of one attempt (default 300)")
    add("--attempts", type=int, default=base.attempts, help="for 429, 5xx, timeouts (default 8)")
    add("--allow-failures", action="store_true", help="exit 0 although rows failed for good")
    add("--retry-failed", action="store_true", help="ask again what failed for good in an earlier run")
    add("--seed", type=int, default=0)


def read_patience(arguments: argparse.Namespace) -> Patience:
    """Raises `SettingsError` for numbers that cannot be."""
    if arguments.attempts < 1 or not arguments.timeout_s > 0:
        raise SettingsError(
            f"attempts is at least 1 and timeout-s above 0, they are {arguments.attempts} "
            f"and {arguments.timeout_s}"
        )
    return Patience(attempts=arguments.attempts, timeout_s=arguments.timeout_s)


def _options(arguments: argparse.Namespace) -> CollectOptions:
    return CollectOptions(
        prompts=arguments.out,  # until they are prepared
        models=tuple(_endpoints(arguments)),
        out=arguments.out,
        samples=arguments.samples,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        concurrency=arguments.concurrency,
        patience=read_patience(arguments),
        engine=arguments.engine,
        ray_address=arguments.ray_address,
        allow_failures=arguments.allow_failures,
        retry_failed=arguments.retry_failed,
        seed=arguments.seed,
    )


def _endpoints(arguments: argparse.Namespace) -> list[Endpoint]:
    prices = dict(map(parse_price, arguments.price))
    named = [
        ("weak", arguments.weak),
        ("strong", arguments.strong),
        *(("", text) for text in arguments.model),
    ]
    endpoints = [parse_endpoint(text, tier) for tier, text in named if text]
    unknown = set(prices) - {endpoint.model for endpoint in endpoints}
    if unknown:
        models = ", ".join(endpoint.model for endpoint in endpoints)
        raise SettingsError(f"--price names {min(unknown)!r}, which is not asked; there are: {models}")
    return [
        Endpoint(found.url, found.model, found.tier, *prices.get(found.model, (None, None)))
        for found in endpoints
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upshift collect",
        description="Gather every model's answer to every prompt.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_prompt_options(parser)
    add("--out", type=Path, required=True, metavar="FILE", help="answers, .jsonl or .parquet")
    add("--weak", metavar="URL#MODEL", help="the cheap model, URL with /v1")
    add("--strong", metavar="URL#MODEL", help="the dear model")
    add("--model", metavar="[TIER=]URL#MODEL", action="append", default=[], help="any further model")
    add("--price", metavar="MODEL=IN,OUT", action="append", default=[], help="US dollars a million tokens")
    add("--samples", type=int, default=1, help="answers a prompt and model (default 1)")
    add("--temperature", type=float, default=0.0)
    add("--max-tokens", type=int, default=1024, help="of an answer (default 1024)")
    add("--engine", choices=ENGINES, default="local", help="ray: make the requests on a Ray cluster")
    add("--ray-address", default="", help="of a running cluster; without it a local one is started")
    add_request_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
