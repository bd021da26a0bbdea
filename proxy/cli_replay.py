"""`upshift replay`: what another policy would have done on the traffic in the decision log."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proxy.time_span import span_s
from routing.errors import PolicyError, ScorerError, SettingsError
from routing.policy import Policy
from routing.protocols import Answer
from routing.replay import LoggedRow, replay
from routing.rules import Rule
from routing.signals import Signals

_COLUMNS = (
    "entry", "reason", "decision", "propensity", "explore_share", "scorers", "route_score", "difficulty",
    "answer_score", "cost_usd", "baseline_usd", "prompt", "judged", "judged_finish", "judged_logprobs",
)  # fmt: skip


@dataclass(slots=True)
class _Taken:
    """What became of the log's rows: `rows` are replayed, the rest is counted by why it was left out."""

    rows: list[LoggedRow]
    rescored: int = 0
    chosen_by_client: int = 0
    unscored: int = 0

    def to_dict(self) -> dict[str, int]:
        return {
            "replayed": len(self.rows),
            "rescored": self.rescored,
            "chosen_by_client": self.chosen_by_client,
            "unscored": self.unscored,
        }


def add_replay(commands: Any) -> None:
    """The subcommand `replay`, for `proxy.cli`."""
    parser = commands.add_parser(
        "replay", help="what another policy over the same scorers would have done on logged traffic"
    )
    parser.add_argument("--log", required=True, metavar="URL", help="sqlite:///PATH or postgresql://...")
    parser.add_argument("--bundle", required=True, type=Path, help="whose policy is replayed")
    parser.add_argument("--strategy", help="another than the bundle's own: mf, evaluator, cascade, ...")
    parser.add_argument("--threshold", type=float, help="another than the calibrated one")
    parser.add_argument("--since", default="", help="only traffic of the last 12h, 7d, 4w (default: all)")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    if not 0.0 < options.confidence < 1.0:
        raise SettingsError(f"--confidence must lie in (0, 1); it is {options.confidence}")
    since = time.time() - _seconds(options.since) if options.since else 0.0
    report = asyncio.run(_report(options, since))
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


async def _report(options: argparse.Namespace, since: float) -> dict[str, Any]:
    from proxy.bundle_scorers import load_bundle
    from proxy.settings import RoutingSettings

    scorers = load_bundle(options.bundle, RoutingSettings())
    try:
        policy = scorers.policy
        rule = policy.rule(options.strategy, options.threshold)
        taken = await _take(options.log, since, scorers, rule)
    finally:
        await scorers.close()
    if not taken.rows:
        raise SettingsError(_nothing(taken, policy))
    result = replay(taken.rows, policy, rule, options.confidence)
    return {
        "policy": policy.version,
        "strategy": rule.strategy,
        "threshold": rule.threshold,
        "confidence": options.confidence,
        "log": taken.to_dict(),
        **result.to_dict(),
    }


async def _take(url: str, since: float, scorers: Any, rule: Rule) -> _Taken:
    from proxy.log_reader import read_log

    taken = _Taken([])
    for record in read_log(url, _COLUMNS, since):
        if record["explore_share"] is None or not record["entry"]:
            taken.chosen_by_client += 1
            continue
        row = _logged(record)
        same = record["scorers"] == scorers.policy.scorers
        if not row.outside and not (same and _has_scores(row, rule)):
            rescored = await _rescored(row, record, scorers)
            if rescored is None:
                taken.unscored += 1
                continue
            row, taken.rescored = rescored, taken.rescored + 1
        taken.rows.append(row)
    return taken


def _logged(record: Mapping[str, Any]) -> LoggedRow:
    return LoggedRow(
        entry=record["entry"],
        reason=record["reason"],
        strong_ran=record["decision"] in ("strong", "escalated", "degraded"),
        propensity=1.0 if record["propensity"] is None else float(record["propensity"]),
        explore_share=float(record["explore_share"]),
        route_score=record["route_score"],
        difficulty=record["difficulty"],
        answer_score=record["answer_score"],
        cost_usd=float(record["cost_usd"] or 0.0),
        baseline_usd=float(record["baseline_usd"] or 0.0),
    )


def _has_scores(row: LoggedRow, rule: Rule) -> bool:
    """Whether the prompt scores are there that the rule needs: the strategy in force may not have asked."""
    scores = {"mf": row.route_score, "difficulty": row.difficulty}
    return all(scores[name] is not None for name in rule.needs_prompt_scores)


async def _rescored(row: LoggedRow, record: Mapping[str, Any], scorers: Any) -> LoggedRow | None:
    """The row with this bundle's scores of its stored text; None where the text is not there."""
    if record["prompt"] is None or (row.answer_score is not None and record["judged"] is None):
        return None
    signals = Signals()
    try:
        await scorers.read_prompt(record["prompt"], signals)
        score = None
        if row.answer_score is not None:
            (score,) = await scorers.score_answers(record["prompt"], [_judged(record)])
    except ScorerError as error:
        raise PolicyError(f"the stored text cannot be scored: {error}") from error
    return replace(row, route_score=signals.route_score, difficulty=signals.difficulty, answer_score=score)


def _judged(record: Mapping[str, Any]) -> Answer:
    logprobs = record["judged_logprobs"]
    return Answer(
        record["judged"], record["judged_finish"], None if logprobs is None else json.loads(logprobs)
    )


def _nothing(taken: _Taken, policy: Policy) -> str:
    if taken.unscored:
        return (
            f"replay: the {taken.unscored} rows of the log lack the scores of this bundle's scorers "
            f"({policy.scorers}) and hold no text to score; replay a bundle of the same scorers and a "
            "strategy that asks for the same scores, or collect traffic with log.store_text: true"
        )
    return (
        f"replay: the log holds no row that a policy was free to decide "
        f"({taken.chosen_by_client} were chosen by the client)"
    )


def _seconds(text: str) -> float:
    try:
        seconds = span_s(text)
    except ValueError:
        seconds = None
    if seconds is None or not 0.0 <= seconds < math.inf:
        raise SettingsError(f"--since {text!r}: expected a time like 12h, 7d or 4w")
    return seconds
