"""Capability rules: which tiers may answer a call at all, before any score is asked for."""

from __future__ import annotations

from typing import Any

from proxy.call import Call
from routing.decision import Reason
from routing.tier import Ladder, Tier

_CHARS_PER_TOKEN = 3.0  # fewer than any common tokenizer averages on English: errs towards the larger window
_MESSAGE_TOKENS = 4  # what a chat template adds around a message
_IMAGE_PARTS = frozenset({"image_url", "input_image"})
_AUDIO_PARTS = frozenset({"input_audio"})


def needed_capabilities(call: Call) -> frozenset[str]:
    """What a backend must be able to do for this call."""
    needed = set()
    if (
        call.fields.get("tools", b"null") not in (b"null", b"[]")
        or call.fields.get("functions", b"null") != b"null"
    ):
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


def estimate_tokens(call: Call, prompt: str) -> int:
    """Prompt tokens from above, without a tokenizer."""
    return int(len(prompt.encode()) / _CHARS_PER_TOKEN) + _MESSAGE_TOKENS * max(1, len(call.messages))


def allowed_tiers(call: Call, ladder: Ladder, prompt: str) -> tuple[list[bool], Reason]:
    """For each tier whether it may answer, and why one may not. The last tier always may.

    `context_window` is given as the reason where it alone bars a tier; any missing ability makes it
    `capability`.
    """
    needed = needed_capabilities(call)
    tokens = -1
    reason: Reason = "context_window"
    allowed = []
    for tier in ladder.tiers[:-1]:
        if not needed <= tier.capabilities:
            reason = "capability"
            allowed.append(False)
            continue
        if tier.context_window_tokens:
            if tokens < 0:
                tokens = estimate_tokens(call, prompt) + (call.max_tokens or 0)
            allowed.append(_fits(tier, tokens))
        else:
            allowed.append(True)
    allowed.append(True)
    return allowed, reason


def _fits(tier: Tier, tokens: int) -> bool:
    return tokens <= tier.context_window_tokens
