"""What a client waits for and what is written in vain, by stream mode, on recorded answers of real models.

    UPSHIFT_EXAMPLES=FOLDER python -m bench.streams [--bundle DIR]

Two servers write each answer at a stated rate (`bench/recorded.py`), the real proxy stands in front, and
every prompt that the bundle has never seen, with a weak answer of at least `--least-tokens`, is streamed once
in each mode: `hold`, `early`, `race` (every judged request may race) and always-strong. Times are the
client's, qualities are looked up. Without a bundle one is fitted on 60 % of the prompts first, and calibrated
on 20 %. 190 prompts take about two minutes a mode at 100 tokens a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bench.processes import ServerProcess
from bench.recorded_answers import record
from bench.routing_pairs import HELD_OUT_SEED, PAIRS, Pair, find_table, split_table, write_fit_table
from bench.streams_print import Row, print_rows
from routing.bundle import open_bundle
from routing.errors import UpshiftError
from scorers.text import TEXT_TEMPLATE
from trainer.examples import ExampleTable, PairTable, pair_examples, read_examples
from trainer.fit import FitOptions, fit_bundle
from trainer.split import position_of

MODES = ("hold", "early", "race", "strong")


@dataclass(frozen=True, slots=True)
class Streamed:
    """One stream: seconds to the first content and to the end, and what the headers said."""

    first_s: float
    end_s: float
    tier: str
    decision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Running:
    """The proxy's base URL and those of the two backends."""

    proxy: str
    weak: str
    strong: str


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.streams", description="Stream modes over recorded answers.")
    add = parser.add_argument
    add("--bundle", type=Path, help="fitted on other prompts of the same table; default: fit one first")
    add("--max-minutes", type=float, default=8.0, help="bound on training, where one is fitted")
    add("--pair", choices=list(PAIRS), default="gsm8k")
    add("--examples", type=Path, metavar="FILE", help="the pair's table; default: in $UPSHIFT_EXAMPLES")
    add("--tokens-per-s", type=float, default=100.0, help="how fast both models write")
    add("--least-tokens", type=int, default=64, help="shorter weak answers are left out")
    add("--prompts", type=int, default=0, help="at most this many; 0: all")
    add("--concurrency", type=int, default=8, help="streams at a time")
    add("--out", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args(argv)
    try:
        rows = asyncio.run(run(options))
    except (UpshiftError, RuntimeError) as error:
        print(f"bench.streams: {error}", file=sys.stderr)
        return 1
    print_rows(rows)
    if options.out is not None:
        options.out.write_text(json.dumps([row.to_dict() for row in rows], indent=1) + "\n")
    return 0


async def run(options: argparse.Namespace) -> list[Row]:
    """Every mode over every prompt. Raises `UpshiftError`, `RuntimeError`."""
    pair = PAIRS[options.pair]
    table_path = find_table(pair, options.examples)
    with tempfile.TemporaryDirectory(prefix="upshift-streams-") as folder:
        work = Path(folder)
        bundle = options.bundle or fit(pair, table_path, options.max_minutes, work)
        held_out = unseen(pair, table_path, bundle, options)
        with serve(options, bundle, table_path, held_out, work) as running:
            return [await run_mode(running, held_out, mode, options.concurrency) for mode in MODES]


def fit(pair: Pair, table: Path, max_minutes: float, work: Path) -> Path:
    """A bundle on three fifths of the prompts, calibrated on a fifth; the last fifth stays unseen."""
    split = split_table(pair, table, 0.4)
    rows = [*split.held_out.weak, *split.held_out.strong]
    apart = [row for row in rows if position_of(row.prompt_id, HELD_OUT_SEED + 2) < 0.5]
    write_fit_table(split.fit, pair, work / "fit.parquet")
    write_fit_table(ExampleTable(apart), pair, work / "calibrate.parquet")
    options = FitOptions(max_minutes=max_minutes)
    tables = [work / "fit.parquet"], [work / "calibrate.parquet"]
    return fit_bundle(tables[0], pair.weak, pair.strong, work / "bundle", options, tables[1])


def unseen(pair: Pair, table_path: Path, folder: Path, options: argparse.Namespace) -> PairTable:
    """Prompts that the bundle has not seen and whose weak answer is long enough. Raises `RuntimeError`."""
    bundle = open_bundle(folder, TEXT_TEMPLATE)
    known = {prompt_id for ids in bundle.prompt_ids().values() for prompt_id in ids}
    table = pair_examples(read_examples([table_path]), pair.weak, pair.strong)
    kept = [
        i
        for i, row in enumerate(table.weak)
        if row.prompt_id not in known and record(row).completion_tokens >= options.least_tokens
    ][: options.prompts or None]
    if not kept:
        raise RuntimeError(f"{table_path} holds no prompt that the bundle has not seen")
    weak, strong = ([side[i] for i in kept] for side in (table.weak, table.strong))
    return PairTable(pair.weak, pair.strong, weak, strong, table.quality[kept])


@contextlib.contextmanager
def serve(
    options: argparse.Namespace, bundle: Path, table: Path, pair: PairTable, work: Path
) -> Iterator[Running]:
    """Both backends and the proxy."""
    with contextlib.ExitStack() as stack:
        servers = []
        for name, model in (("weak", pair.weak_model), ("strong", pair.strong_model)):
            arguments = ["--examples", str(table), "--model", model]
            arguments += ["--tokens-per-s", str(options.tokens_per_s)]
            servers.append(
                stack.enter_context(ServerProcess("bench.recorded", arguments, work / f"{name}.log"))
            )
        for server in servers:
            server.wait_ready("/health")
        prices = PAIRS[options.pair].prices
        tiers: list[dict[str, Any]] = []
        for tier, (name, model) in enumerate((("weak", pair.weak_model), ("strong", pair.strong_model))):
            tiers.append({"name": name, "url": servers[tier].base_url, "model": model})
            if hasattr(prices, "weak"):
                asked, written = (prices.weak, prices.strong)[tier]
                tiers[-1] |= {"input_usd_per_mtok": asked, "output_usd_per_mtok": written}
        routing = {"scorer_timeout_s": 0, "race_budget_share": 1.0, "explore_share": 0.0}
        config = work / "upshift.yaml"
        config.write_text(yaml.safe_dump({"tiers": tiers, "routing": routing}))
        arguments = ["serve", "--config", str(config), "--bundle", str(bundle.resolve())]
        proxy = stack.enter_context(ServerProcess("proxy.cli", arguments, work / "proxy.log"))
        proxy.wait_ready("/readyz")
        yield Running(proxy.base_url, servers[0].origin, servers[1].origin)


async def run_mode(running: Running, pair: PairTable, mode: str, concurrency: int) -> Row:
    """One row of the table."""
    limit = asyncio.Semaphore(concurrency)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600.0)) as session:
        for origin in (running.weak, running.strong):
            await session.delete(f"{origin}/__recorded/stats")

        async def one(prompt: str) -> Streamed:
            async with limit:
                return await stream(session, running.proxy, mode, prompt)

        streams = await asyncio.gather(*(one(prompt) for prompt in pair.prompts))
        stats = [await _stats(session, origin) for origin in (running.weak, running.strong)]
    return Row.of(mode, streams, pair, stats)


async def stream(session: aiohttp.ClientSession, base_url: str, mode: str, prompt: str) -> Streamed:
    """One request. Raises `RuntimeError` for an answer that is no whole stream."""
    body: dict[str, Any] = {
        "model": "strong" if mode == "strong" else "upshift",
        "stream": True,
        "messages": [{"role": "user", "content": prompt}],
    }
    if mode != "strong":
        body["upshift"] = {"stream_mode": mode}
    loop = asyncio.get_running_loop()
    begun, first, tail = loop.time(), 0.0, b""
    async with session.post(f"{base_url}/chat/completions", json=body) as reply:
        if reply.status != 200:
            raise RuntimeError(f"{mode}: status {reply.status}: {await reply.text()}")
        async for line in reply.content:
            if not first and _has_content(line):
                first = loop.time() - begun
            tail = line if line.strip() else tail
        told = {name: reply.headers.get(f"x-upshift-{name}", "") for name in ("tier", "decision", "reason")}
    if tail.strip() != b"data: [DONE]":
        raise RuntimeError(f"{mode}: a stream ended with {tail[:200]!r}")
    return Streamed(first, loop.time() - begun, told["tier"], told["decision"], told["reason"])


def _has_content(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    choices = json.loads(line[6:]).get("choices") or [{}]
    return bool(choices[0].get("delta", {}).get("content"))


async def _stats(session: aiohttp.ClientSession, origin: str) -> dict[str, Any]:
    """The counters of a server's one model, once it has noticed who has left."""
    await asyncio.sleep(0.3)
    async with session.get(f"{origin}/__recorded/stats") as reply:
        data = await reply.json()
    (model,) = data["models"]
    return {**data["models"][model], "broken_off": data["broken_off"][model]}


if __name__ == "__main__":
    sys.exit(main())
