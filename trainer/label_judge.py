"""Labels from a stronger model: a score for each answer, or which of two answers is better.

Pointwise, each answer is scored by itself, with the reference where the row has one. Pairwise, each answer is
compared with the strong model's in both orders: judges favour a place (Zheng et al., "Judging
LLM-as-a-judge", 2023, section 3.3), so a win counts only when both orders agree on it and everything else is
a tie. It costs twice the requests and maps to strong 1, the other 1, 0.5 or 0.

A reply without a verdict is told so and asked for again, a bounded number of times; the temperature is 0.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from routing.errors import ExamplesError
from trainer.chat_client import ChatClient, Patience, RowFailed
from trainer.collect import describe_client
from trainer.endpoint import Endpoint
from trainer.gather import gather, open_tally
from trainer.journal import Journal, Key
from trainer.label_rows import Labelled, LabelRow
from trainer.progress import Progress
from trainer.verdict import PAIRWISE, Malformed, Rubric, present

FIRST, SECOND = "strong-first", "strong-second"
_POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Who judges, by what, and how patiently."""

    endpoint: Endpoint
    rubric: Rubric
    strong: str = ""  # pairwise: the model all others are compared with
    max_tokens: int = 1024
    verdict_attempts: int = 3
    concurrency: int = 16
    patience: Patience = field(default_factory=Patience)
    retry_failed: bool = False

    @property
    def name(self) -> str:
        """What stands in the column `judge`."""
        against = f" against {self.strong}" if self.rubric.mode == PAIRWISE else ""
        return f"{self.endpoint.model} {self.rubric.version}{against}"


@dataclass(frozen=True, slots=True)
class Case:
    """One question to the judge."""

    key: Key
    material: str


def judge_rows(
    rows: Sequence[LabelRow], settings: JudgeSettings, journal: Journal, progress: Progress
) -> Labelled:
    """A quality for every row, or the reason why it has none. Raises `StageError`, `ExamplesError`."""
    plan = _pairwise(rows, settings.strong) if settings.rubric.mode == PAIRWISE else _pointwise(rows)
    cases = {case.key: case for found in plan for case in found}
    tally = open_tally(journal, "label", cases.keys(), settings.retry_failed, progress)
    missing = [case for key, case in cases.items() if key not in journal.entries]
    told = asyncio.run(_ask(missing, settings, journal, tally.take)) if missing else {}
    return _settle(rows, plan, settings, journal, told)


def _pointwise(rows: Sequence[LabelRow]) -> list[list[Case]]:
    """For each row the cases that decide it; none where the answer is empty, which is 0."""
    return [
        [Case(row.key, present(prompt=row.prompt, reference=row.reference, answer=row.response))]
        if (row.response or "").strip()
        else []
        for row in rows
    ]


def _pairwise(rows: Sequence[LabelRow], strong: str) -> list[list[Case]]:
    opponents: dict[str, dict[int, LabelRow]] = {}
    for row in rows:
        if row.model == strong:
            opponents.setdefault(row.prompt_id, {})[row.sample] = row
    if not opponents:
        models = ", ".join(sorted({row.model for row in rows}))
        raise ExamplesError(f"no answer of {strong!r} to compare with; there are: {models}")
    plan: list[list[Case]] = []
    for row in rows:
        found = opponents.get(row.prompt_id, {})
        other = found.get(row.sample) or next(iter(found.values()), None)
        plan.append([] if row.model == strong or other is None else _both_orders(row, other))
    return plan


def _both_orders(row: LabelRow, strong: LabelRow) -> list[Case]:
    if not ((row.response or "").strip() and (strong.response or "").strip()):
        return []
    pair = hashlib.sha256(f"{row.digest}{strong.digest}".encode()).hexdigest()[:12]
    out = []
    for order in (FIRST, SECOND):
        a, b = (strong, row) if order == FIRST else (row, strong)
        material = present(
            prompt=row.prompt, reference=row.reference, answer_A=a.response, answer_B=b.response
        )
        out.append(Case((*row.key[:3], pair, order), material))
    return out


async def _ask(cases: Sequence[Case], settings: JudgeSettings, journal: Journal, take: Any) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=settings.concurrency)
    async with aiohttp.ClientSession(connector=connector, trust_env=True) as session:
        client = ChatClient(settings.endpoint, session, settings.patience)

        async def ask(case: Case) -> dict[str, Any]:
            return await _ask_one(client, case, settings)

        await gather(cases, lambda case: case.key, ask, settings.concurrency, take)
        return describe_client(client)


async def _ask_one(client: ChatClient, case: Case, settings: JudgeSettings) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": settings.rubric.text},
        {"role": "user", "content": case.material},
    ]
    spent_usd: float | None = None
    for attempt in range(settings.verdict_attempts):
        reply = await client.complete(
            {
                "messages": messages,
                "max_tokens": settings.max_tokens,
                "temperature": 0.0,
                "response_format": settings.rubric.response_format(),
            }
        )
        if reply.cost_usd is not None:
            spent_usd = (spent_usd or 0.0) + reply.cost_usd
        try:
            value, reason = settings.rubric.read(reply.text)
        except Malformed as fault:
            told = str(fault)
            correction = f"That cannot be read: {told}. Reply again, with the JSON object alone."
            messages = [
                *messages[:2],
                {"role": "assistant", "content": reply.text},
                {"role": "user", "content": correction},
            ]
        else:
            return {"verdict": value, "reason": reason, "malformed": attempt, "cost_usd": spent_usd}
    raise RowFailed(f"no verdict in {settings.verdict_attempts} replies of the judge: {told}")


def _settle(
    rows: Sequence[LabelRow],
    plan: Sequence[Sequence[Case]],
    settings: JudgeSettings,
    journal: Journal,
    client: dict[str, Any],
) -> Labelled:
    pairwise = settings.rubric.mode == PAIRWISE
    answered = {row.prompt_id: row for row in rows if row.model == settings.strong}
    out = Labelled(settings.name)
    outcomes: Counter[str] = Counter()
    for row, cases in zip(rows, plan, strict=True):
        entries = [journal.entries[case.key] for case in cases]
        errors = [entry["error"] for entry in entries if "error" in entry]
        if errors:
            out.fail(row, errors[0])
        elif row.response is None:
            out.fail(row, "the row has no answer to judge")
        elif pairwise and row.prompt_id not in answered:
            out.fail(row, f"no answer of {settings.strong!r} to compare with")
        elif pairwise:
            outcome = _outcome(row, answered[row.prompt_id], [entry["verdict"] for entry in entries])
            outcomes[outcome] += row.model != settings.strong
            out.quality[row.number] = 1.0 if row.model == settings.strong else _POINTS[outcome.split()[0]]
        else:
            out.quality[row.number] = entries[0]["verdict"] if entries else 0.0
    used = [journal.entries[case.key] for cases in plan for case in cases]
    costs = [entry["cost_usd"] for entry in used if entry.get("cost_usd") is not None]
    out.notes = {
        "asked": len(used),
        "malformed_verdicts": sum(entry.get("malformed", settings.verdict_attempts) for entry in used
                                  if "error" not in entry or "no verdict" in entry["error"]),
        "judge_cost_usd": sum(costs) if costs else None,
        "endpoint": client or None,
        "judges_itself": settings.endpoint.model in {row.model for row in rows},
        **({"pairwise": dict(sorted(outcomes.items()))} if pairwise else {}),
    }  # fmt: skip
    return out


def _outcome(row: LabelRow, strong: LabelRow, verdicts: Sequence[str]) -> str:
    """`win`, `loss`, `tie`, or `tie (orders differ)`, from the row's side."""
    if not verdicts:  # an empty answer loses against one that is not
        here, there = bool((row.response or "").strip()), bool((strong.response or "").strip())
        return "tie" if here == there else "win" if here else "loss"
    seen = {_side(verdict, first) for verdict, first in zip(verdicts, (True, False), strict=True)}
    if len(seen) == 1:
        return seen.pop()
    return "tie (orders differ)"


def _side(verdict: str, strong_first: bool) -> str:
    if verdict == "tie":
        return "tie"
    return "loss" if (verdict == "A") == strong_first else "win"
