"""The demo's tour: held-out prompts through the running proxy, and the tables that come of it.

Each prompt is asked over the OpenAI API: of the weak model (its answer scored), of the strong model, of
`upshift` (here the evaluator decides) and of the strategies beside it. The verifier of the prompt's task says
what was right, so accuracy, cost and the curves below are measured, not assumed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from openai import AsyncOpenAI

from demo.tasks import Task, draw_tasks, is_correct
from trainer.metrics import apgr, sweep_scores, trace

_AT_ONCE = 12
_SAMPLES = 14
_PROMPT_CHARS = 58
_BESIDE = ("upshift-mf", "upshift-cascade")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as the client got it. Scores are None where the proxy did not ask for them."""

    text: str
    tier: str
    right: bool
    cost_usd: float
    route_score: float | None
    evaluator_score: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """One prompt of the tour and its answers."""

    task: Task
    weak: Reply
    strong: Reply
    routed: Reply
    beside: dict[str, Reply]  # by model name
    mf_score: float


async def take_tour(client: AsyncOpenAI, prompts: int, seed: int = 7) -> list[Stop]:
    """Ask everything; `prompts` held-out tasks the models and scorers never saw."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def visit(task: Task) -> Stop:
        async with gate:
            weak = await _ask(client, "upshift-evaluator-1", task)  # at 1 nothing is rejected, all is scored
            strong = await _ask(client, "strong", task)
            routed = await _ask(client, "upshift", task)
            beside = {model: await _ask(client, model, task) for model in _BESIDE}
            told = await client.post("/route", body={"prompt": task.prompt}, cast_to=dict[str, object])
            return Stop(task, weak, strong, routed, beside, float(str(told["route_score"])))

    return list(await asyncio.gather(*(visit(task) for task in draw_tasks("test", prompts, seed))))


async def _ask(client: AsyncOpenAI, model: str, task: Task) -> Reply:
    answer = await client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": task.prompt}]
    )
    told, text = answer.headers, answer.parse().choices[0].message.content or ""
    return Reply(
        text=text,
        tier=told["x-upshift-tier"],
        right=is_correct(task.group, task.reference, text),
        cost_usd=float(told["x-upshift-cost-usd"]),
        route_score=_number(told.get("x-upshift-route-score")),
        evaluator_score=_number(told.get("x-upshift-evaluator-score")),
        reason=told["x-upshift-reason"],
    )


def describe_tour(stops: Sequence[Stop]) -> str:
    """Both tables as text."""
    return f"\n{_samples_table(stops)}\n\n{_summary_table(stops)}\n"


def _samples_table(stops: Sequence[Stop]) -> str:
    lines = [
        f"{'prompt':{_PROMPT_CHARS}}  {'tier':6}  {'P(strong)':>9}  {'P(good)':>7}  {'u$':>6}  reason",
        "-" * (_PROMPT_CHARS + 50),
    ]
    for stop in _varied(stops):
        reply = stop.routed
        prompt = " ".join(stop.task.prompt.split())
        if len(prompt) > _PROMPT_CHARS:
            prompt = prompt[: _PROMPT_CHARS - 3] + "..."
        scores = f"{_shown(stop.mf_score):>9}  {_shown(reply.evaluator_score):>7}"
        cost = f"{reply.cost_usd * 1e6:6.2f}"
        right = "right" if reply.right else "wrong"
        lines.append(f"{prompt:{_PROMPT_CHARS}}  {reply.tier:6}  {scores}  {cost}  {reply.reason}, {right}")
    return "\n".join(lines)


def _varied(stops: Sequence[Stop]) -> list[Stop]:
    """Some of each tier, spread over the task families."""
    shown: list[Stop] = []
    for tier in ("weak", "strong"):
        mine = [stop for stop in stops if stop.routed.tier == tier]
        by_group: dict[str, Stop] = {}
        for stop in mine:
            by_group.setdefault(stop.task.group, stop)
        rest = [stop for stop in mine if stop is not by_group[stop.task.group]]
        shown += (list(by_group.values()) + rest)[: _SAMPLES // 2]
    return shown


def _summary_table(stops: Sequence[Stop]) -> str:
    weak, strong, routed = ([getattr(stop, name) for stop in stops] for name in ("weak", "strong", "routed"))
    best = _accuracy(strong)
    lines = [f"{len(stops)} held-out prompts   accuracy  of strong's  strong calls  u$ a prompt", "-" * 72]
    rows = {"always weak": weak, "always strong": strong, "upshift": routed}
    rows |= {model: [stop.beside[model] for stop in stops] for model in _BESIDE}
    for name, replies in rows.items():
        calls = np.mean([reply.tier == "strong" for reply in replies])
        cost = np.mean([reply.cost_usd for reply in replies]) * 1e6
        accuracy = _accuracy(replies)
        lines.append(f"{name:23}  {accuracy:8.1%}  {accuracy / best:11.1%}  {calls:12.1%}  {cost:11.2f}")
    evaluator, mf = gap_recovered(stops)
    lines.append("")
    lines.append(
        "Share of the quality gap recovered, mean over all shares of strong calls (APGR; random .50):"
    )
    lines.append(f"evaluator {evaluator:.3f}, MF pre-router {mf:.3f}")
    return "\n".join(lines)


def gap_recovered(stops: Sequence[Stop]) -> tuple[float, float]:
    """APGR of the evaluator and of the MF pre-router over the tour; nan where strong is no better."""
    q_weak = np.array([float(stop.weak.right) for stop in stops])
    q_strong = np.array([float(stop.strong.right) for stop in stops])
    evaluator = np.array([1.0 - (stop.weak.evaluator_score or 0.0) for stop in stops])
    mf = np.array([stop.mf_score for stop in stops])
    zero = np.zeros(len(stops))
    curves = [trace(sweep_scores(score, zero, zero), q_weak, q_strong) for score in (evaluator, mf)]
    found = [apgr(curve, float(q_weak.mean()), float(q_strong.mean())) for curve in curves]
    evaluator_apgr, mf_apgr = (float("nan") if value is None else value for value in found)
    return evaluator_apgr, mf_apgr


def _accuracy(replies: Sequence[Reply]) -> float:
    return float(np.mean([reply.right for reply in replies]))


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
