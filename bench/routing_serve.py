"""Two recorded backends, the real proxy before them, and the held-out prompts sent through it over HTTP.

A pass is one model name (`upshift-evaluator-0.4`, or a tier) over all held-out prompts. What came back is
taken from headers and body and then checked against the table: the text served must be, to the letter, the
recorded answer of the tier that the headers name. 20 passes over 360 prompts take two to four minutes on
two cores, nearly all of it the scorers'.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import yaml

from bench.processes import ServerProcess
from bench.recorded_answers import record
from bench.routing_pairs import Pair, TokenPrices
from routing.table import Floats
from trainer.examples import PairTable

CONCURRENCY = 4
READY_PATH = "/readyz"


@dataclass(frozen=True, slots=True)
class Pass:
    """What one model name did to n held-out prompts; arrays (n,).

    `strong` is 1 where the strong model's answer was served; `cost` counts rejected weak answers; scores are
    NaN where the headers hold none. `unjudged` is 1 where a hard check rejected the weak answer before the
    evaluator saw it. `calls` counts answers of (weak, strong).
    """

    model: str
    quality: Floats
    strong: Floats
    cost: Floats
    route_score: Floats
    evaluator_score: Floats
    unjudged: Floats
    calls: tuple[int, int]
    seconds: float


@contextlib.contextmanager
def serve_pair(pair: Pair, tables: list[Path], bundle: Path, work: Path) -> Iterator[str]:
    """The proxy's base URL, with everything behind it running."""
    with contextlib.ExitStack() as stack:
        servers: list[ServerProcess] = []
        for model in (pair.weak, pair.strong):
            arguments = ["--examples", *map(str, tables), "--model", model]
            log = work / f"recorded-{len(servers)}.log"
            server = stack.enter_context(ServerProcess("bench.recorded", arguments, log))
            servers.append(server)
        for server in servers:
            server.wait_ready("/health")
        _write_settings(pair, [server.base_url for server in servers], work / "upshift.yaml")
        arguments = ["serve", "--config", str(work / "upshift.yaml"), "--bundle", str(bundle)]
        proxy = stack.enter_context(ServerProcess("proxy.cli", arguments, work / "proxy.log"))
        proxy.wait_ready(READY_PATH)
        yield proxy.base_url


def _write_settings(pair: Pair, urls: list[str], path: Path) -> None:
    """The proxy's configuration: two tiers, priced where tokens have prices, and scorers that may take long.

    A scorer that is late fails open, which is right in service; here it would let a busy machine change the
    figures, so there is no limit.
    """
    tiers = []
    for tier, (name, model) in enumerate((("weak", pair.weak), ("strong", pair.strong))):
        settings: dict[str, str | float] = {"name": name, "url": urls[tier], "model": model}
        if isinstance(pair.prices, TokenPrices):
            asked, written = (pair.prices.weak, pair.prices.strong)[tier]
            settings |= {"input_usd_per_mtok": asked, "output_usd_per_mtok": written}
        tiers.append(settings)
    path.write_text(yaml.safe_dump({"tiers": tiers, "routing": {"scorer_timeout_s": 0}}))


class HeldOut:
    """The held-out prompts with what is known of them: recorded answers, true qualities, costs; n prompts."""

    def __init__(self, pair: Pair, table: PairTable) -> None:
        self.pair = pair
        self.table = table
        self.answers = [(record(a), record(b)) for a, b in zip(table.weak, table.strong, strict=True)]
        costs = [
            [pair.prices.cost(answer, bool(tier)) for tier, answer in enumerate(both)]
            for both in self.answers
        ]
        self.cost = np.array(costs)  # (n, 2)
        self.quality = table.quality  # (n, 2)

    def __len__(self) -> int:
        return len(self.table)

    async def run(self, base_url: str, model: str) -> Pass:
        """Send every prompt once under `model`. Raises `RuntimeError` for an answer that cannot be right."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        limit = asyncio.Semaphore(CONCURRENCY)
        timeout = aiohttp.ClientTimeout(total=120.0)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def one(row: int) -> tuple[float, ...]:
                async with limit:
                    return await self._ask(session, base_url, model, row)

            rows = np.array(await asyncio.gather(*(one(row) for row in range(len(self)))))
        strong, cost, route, score, unjudged, weak_called = rows.T
        quality = np.where(strong == 1.0, self.quality[:, 1], self.quality[:, 0])
        calls = (int(weak_called.sum()), int(strong.sum()))
        return Pass(model, quality, strong, cost, route, score, unjudged, calls, loop.time() - begun)

    async def read_scores(self, base_url: str) -> tuple[Floats, Floats]:
        """P(strong should answer) of `/v1/route` by MF and by difficulty, each (n,), NaN for none."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120.0)) as session:
            rows = []
            for example in self.table.weak:
                body = {"model": "upshift-mf", "prompt": example.prompt}
                async with session.post(f"{base_url}/route", json=body) as reply:
                    if reply.status != 200:
                        raise RuntimeError(f"/v1/route: status {reply.status}: {await reply.text()}")
                    told = await reply.json()
                rows.append(
                    [np.nan if told[name] is None else told[name] for name in ("route_score", "difficulty")]
                )
        route, difficulty = np.array(rows, dtype=np.float64).T
        return route, difficulty

    async def _ask(
        self, session: aiohttp.ClientSession, base_url: str, model: str, row: int
    ) -> tuple[float, ...]:
        """One request: strong?, cost, route score, evaluator score, unjudged?, weak called?"""
        prompt = self.table.weak[row].prompt
        body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        async with session.post(f"{base_url}/chat/completions", json=body) as reply:
            if reply.status != 200:
                raise RuntimeError(f"{model}: status {reply.status} for prompt {row}: {await reply.text()}")
            data, headers = await reply.json(), reply.headers
        tier, decision, reason = (headers[f"x-upshift-{name}"] for name in ("tier", "decision", "reason"))
        if tier not in ("weak", "strong") or decision == "degraded" or reason == "scorer_failed":
            raise RuntimeError(f"{model}: prompt {row} was answered by {tier!r}, {decision}, {reason}")
        strong = tier == "strong"
        expected = self.answers[row][strong]
        if data["choices"][0]["message"]["content"] != expected.text:
            raise RuntimeError(f"{model}: prompt {row} was not served the recorded answer of {tier}")
        weak_called = not strong or decision == "escalated"
        cost = float(weak_called * self.cost[row, 0] + strong * self.cost[row, 1])
        self._check_cost(model, row, cost, float(headers["x-upshift-cost-usd"]))
        scores = (float(headers.get(f"x-upshift-{name}-score", "nan")) for name in ("route", "evaluator"))
        return (strong, cost, *scores, reason == "hard_check", weak_called)

    def _check_cost(self, model: str, row: int, cost: float, told: float) -> None:
        """Where tokens have prices, the proxy must have reckoned the same, rejected answers included."""
        if isinstance(self.pair.prices, TokenPrices) and abs(cost - told) > 1e-6 * cost + 1e-12:
            raise RuntimeError(f"{model}: prompt {row} cost {cost} US dollars, the proxy says {told}")
