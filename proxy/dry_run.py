"""Route a prompt without an answer: what `/v1/route` and `upshift route` tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from proxy.call import parse_call
from proxy.judge import RequestJudge
from proxy.models import Pinned
from proxy.rules import allowed_tiers
from proxy.wire_error import ApiError
from routing.errors import ScorerError
from routing.policy import Signals

if TYPE_CHECKING:
    from proxy.gateway import Gateway


async def dry_run(gateway: Gateway, body: dict[str, Any], strategy_header: str | None) -> dict[str, Any]:
    """Scores, threshold, first tier and reason. Raises `ApiError`."""
    prompt = body.pop("prompt", None)
    if "messages" not in body:
        if not prompt:
            raise ApiError(400, "Give 'prompt' or 'messages'.", param="prompt")
        body["messages"] = [{"role": "user", "content": prompt}]
    call = parse_call("chat", orjson.dumps(body), gateway.settings.server.max_messages)
    policy = gateway.scorers.policy
    target = gateway.names.resolve(call.model, strategy_header, call.options, policy)
    if isinstance(target, Pinned):
        tier = gateway.ladder[target.tier].name
        return {
            "decision": "pinned",
            "reason": "pinned",
            "tier": tier,
            "checked": False,
            "policy": policy.version,
        }
    rule = target.rule
    judge = RequestJudge(gateway.scorers, call, gateway.settings.routing.scorer_timeout_s)
    allowed, barred = allowed_tiers(call, gateway.ladder, judge.prompt)
    signals = Signals(draw=0.5)
    try:
        await gateway.scorers.read_prompt(judge.prompt, signals)
        entry = rule.enter(signals)
    except ScorerError as error:
        raise ApiError(503, f"The scorers failed: {error}.", code="scorer_failed") from error
    tier_index = entry.tier
    while not allowed[tier_index]:
        tier_index += 1
    last = gateway.ladder.last
    reason = barred if tier_index != entry.tier else ("hard_prompt" if tier_index == last else "easy_prompt")
    return {
        "decision": "strong" if tier_index == last else "weak",
        "reason": reason,
        "tier": gateway.ladder[tier_index].name,
        "checked": entry.check and tier_index < last,
        "strategy": rule.strategy,
        "threshold": rule.threshold,
        "route_score": signals.route_score,
        "difficulty": signals.difficulty,
        "policy": policy.version,
    }
