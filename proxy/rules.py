"""Rules before any score: which tiers may answer a call at all, and which must."""

from __future__ import annotations

from typing import Any

from proxy.call import Call
from proxy.completion import Usage
from proxy.sessions import Sessions
from proxy.settings import RoutingSettings
from proxy.token_counts import TokenCount
from routing.cascade import Start
from routing.decision import Reason
from routing.tier import Ladder, Tier
from scorers.familiar import Familiar
from scorers.scripts import scripts_of, speaks

_IMAGE_PARTS = frozenset({"image_url", "input_image"})
_AUDIO_PARTS = frozenset({"input_audio"})


def needed_capabilities(call: Call) -> frozenset[str]:
    """What a backend must be able to do for this call."""
    needed = set()
    if offers_tools(call):
        needed.add("tools")
    form: Any = call.value("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        needed.add("json_schema")
    if call.choices > 1:
        needed.add("n")
    for message in call.messages:
        content = message.get("content")
        if isinstance(content, list):
            types = (part.get("type") for part in content if isinstance(part, dict))
            kinds = {kind for kind in types if isinstance(kind, str)}
            if kinds & _IMAGE_PARTS:
                needed.add("images")
            if kinds & _AUDIO_PARTS:
                needed.add("audio")
    return frozenset(needed)


def offers_tools(call: Call) -> bool:
    """Whether the model may call tools."""
    return (
        call.fields.get("tools", b"null") not in (b"null", b"[]")
        or call.fields.get("functions", b"null") != b"null"
    )


def shows_tools(call: Call) -> bool:
    """Whether tools are offered, or were called earlier in the conversation."""
    return offers_tools(call) or any(
        message.get("role") in ("tool", "function") or message.get("tool_calls") for message in call.messages
    )


class Rules:
    """The rules of one server. `counts` holds each tier's token count."""

    def __init__(
        self,
        ladder: Ladder,
        counts: list[TokenCount],
        settings: RoutingSettings,
        familiar: Familiar | None,
        sessions: Sessions,
    ) -> None:
        self._ladder = ladder
        self._counts = counts
        self._settings = settings
        self._familiar = familiar
        self.sessions = sessions
        self._listens = any(tier.languages for tier in ladder.tiers[:-1])

    def allowed_tiers(self, call: Call, prompt: str) -> tuple[list[bool], Reason]:
        """For each tier whether it may answer, and why one may not. The last tier always may.

        `context_window` is given as the reason where it alone bars a tier; any missing ability, a language
        among them, makes it `capability`.
        """
        needed = needed_capabilities(call)
        scripts = scripts_of(prompt) if self._listens else frozenset()
        reason: Reason = "context_window"
        allowed = []
        for tier, count in zip(self._ladder.tiers[:-1], self._counts, strict=False):
            if not needed <= tier.capabilities or not speaks(tier.languages, scripts):
                reason = "capability"
                allowed.append(False)
            else:
                allowed.append(_fits(tier, count, call, prompt))
        allowed.append(True)
        return allowed, reason

    def learn(self, tier: int, call: Call, usage: Usage) -> None:
        """What a backend counted for a prompt of text alone."""
        if usage.known and not needed_capabilities(call):
            self._counts[tier].learn(call.prompt_bytes, usage.prompt_tokens)

    def start(self, call: Call, prompt: str, session: bytes | None, plain: bool) -> Start | None:
        """A first tier that needs no score: the session's, or the last for a prompt of an unknown kind.

        `plain`: the policy in force was asked for. A client that names a strategy or a threshold gets what
        it named.
        """
        tier = self.sessions.tier(session, call)
        if tier is not None and tier <= self._ladder.last:
            return Start(tier, "sticky")
        if not plain or self._familiar is None:
            return None
        settings, last = self._settings, self._ladder.last
        if settings.unseen_tools == "strong" and "tools" not in self._familiar.kinds and shows_tools(call):
            return Start(last, "out_of_distribution")
        if settings.out_of_distribution == "strong" and self._familiar.unlike(prompt):
            return Start(last, "out_of_distribution")
        return None


def _fits(tier: Tier, count: TokenCount, call: Call, prompt: str) -> bool:
    window = tier.context_window_tokens
    if not window:
        return True
    return count.at_most(prompt, len(call.messages)) + (call.max_tokens or 0) <= window
