"""Route a prompt without an answer: `POST /v1/route` and `upshift route`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.call import Call, decode_fields, kind_of, parse_call, string_field
from proxy.gateway import Gateway
from proxy.json_endpoint import JsonEndpoint
from proxy.judge import RequestJudge
from proxy.models import Pinned, Routed
from proxy.wire import Scope, header
from proxy.wire_error import ApiError
from routing.cascade import Start
from routing.errors import ScorerError
from routing.signals import Entry, Signals

_LABEL = "route"
_NULL = b"null"


def route_endpoint(gateway: Gateway) -> JsonEndpoint:
    """`POST /v1/route`: `prompt`, or `messages` and whatever else a chat completion takes."""

    async def answer(body: bytes, scope: Scope) -> dict[str, Any]:
        strategy = header(scope, b"x-upshift-strategy")
        return await dry_run(gateway, body, strategy.decode("latin-1") if strategy else None)

    return JsonEndpoint(gateway, _LABEL, answer)


async def dry_run(gateway: Gateway, body: bytes, strategy_header: str | None) -> dict[str, Any]:
    """Scores, threshold, first tier and reason. Raises `ApiError`."""
    call = parse_call("chat", _completion(decode_fields(body)), gateway.settings.server.max_messages)
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
    return await _route(gateway, call, target)


async def _route(gateway: Gateway, call: Call, target: Routed) -> dict[str, Any]:
    """The first step of the cascade, with scores whether the rule needs them or not."""
    rule = target.rule
    judge = RequestJudge(gateway.scorers, call, gateway.settings.routing.scorer_timeout_s)
    allowed, barred = gateway.rules.allowed_tiers(call, judge.prompt)
    start = gateway.rules.start(call, judge.prompt, None, target.plain)
    signals = Signals(draw=0.5)
    try:
        await gateway.scorers.read_prompt(judge.prompt, signals)
        entry = rule.enter(signals)
    except ScorerError as error:
        raise ApiError(503, f"The scorers failed: {error}.", code="scorer_failed") from error
    if start is not None:
        entry = Entry(start.tier, True)
    elif signals.unfamiliar and target.plain and gateway.settings.routing.out_of_distribution == "strong":
        entry, start = Entry(gateway.ladder.last, False), Start(gateway.ladder.last, "out_of_distribution")
    tier_index = entry.tier
    while not allowed[tier_index]:
        tier_index += 1
    last = gateway.ladder.last
    reason = barred
    if tier_index == entry.tier:
        reason = start.reason if start else ("hard_prompt" if tier_index == last else "easy_prompt")
    route_cut, answer_cut = rule.limits(signals)
    return {
        "decision": "strong" if tier_index == last else "weak",
        "reason": reason,
        "tier": gateway.ladder[tier_index].name,
        "checked": entry.check and tier_index < last,
        "strategy": rule.strategy,
        "threshold": rule.threshold,
        "route_score": signals.route_score,
        "difficulty": signals.difficulty,
        "route_cut": route_cut,
        "answer_cut": answer_cut,
        "policy": gateway.scorers.policy.version,
    }


def _completion(fields: Mapping[str, bytes]) -> bytes:
    """The chat completion that the body stands for. Raises `ApiError` 400."""
    rest = {name: raw for name, raw in fields.items() if name != "prompt"}
    if rest.get("model", _NULL) == _NULL:
        rest["model"] = b'"upshift"'
    if rest.get("messages", _NULL) == _NULL:
        prompt = string_field(fields, "prompt")
        if not prompt:
            got = "an empty one" if prompt == "" else kind_of(prompt)
            raise ApiError(
                400, f"Give 'prompt', a non-empty string (got {got}), or 'messages'.", param="prompt"
            )
        rest["messages"] = b'[{"role":"user","content":' + fields["prompt"] + b"}]"
    options = {name: rest.pop(name) for name in ("strategy", "threshold") if name in rest}
    if options and "upshift" not in rest:
        rest["upshift"] = b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in options.items()) + b"}"
    return b"{" + b",".join(orjson.dumps(name) + b":" + raw for name, raw in rest.items()) + b"}"
