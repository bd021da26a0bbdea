"""Messages -> the one text that every scorer sees, in serving and in training.

A scorer is only as good as the match between the text it was fitted on and the text it is served, so
both sides call these functions and a bundle records `TEXT_TEMPLATE`; a server refuses a bundle made with
another template. Change the rendering, change the constant.

A lone user message renders as exactly its text: most traffic and nearly every public data set look like
that, and a label around it would only move the encoder away from what it was pre-trained on. Everything
else renders as a conversation with role labels. Nothing here raises on odd input: what a client sent has
been validated elsewhere, and a scorer that sees a placeholder is better than a request that fails.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

TEXT_TEMPLATE = "upshift-text/1"

_ROLE_LABELS = {
    "system": "System",
    "developer": "System",
    "user": "User",
    "assistant": "Assistant",
    "tool": "Tool result",
    "function": "Tool result",
}

# Parts that are not text, by OpenAI's `type`; the encoder only learns that something was there.
_PART_PLACEHOLDERS = {
    "image_url": "[image]",
    "input_image": "[image]",
    "image": "[image]",
    "input_audio": "[audio]",
    "audio": "[audio]",
    "file": "[file]",
    "input_file": "[file]",
    "video_url": "[video]",
}


def render_prompt(messages: Sequence[Mapping[str, Any]] | None) -> str:
    """The text of a chat prompt: `messages` as in OpenAI's chat API, oldest first.

    Returns the bare text for one user message, "" for none, otherwise one labelled block a message,
    blocks separated by an empty line. Never raises on missing or null fields.
    """
    turns = [m for m in messages or () if isinstance(m, Mapping)]
    if len(turns) == 1 and turns[0].get("role", "user") == "user":
        return render_content(turns[0].get("content"))
    blocks = [f"{_label(turn)}: {_render_turn(turn)}".rstrip() for turn in turns]
    return "\n\n".join(blocks)


def render_answer(message: Mapping[str, Any] | None) -> str:
    """The text of an assistant message: its content, else its refusal, then its tool calls."""
    if not isinstance(message, Mapping):
        return ""
    return _render_turn(message)


def render_content(content: object) -> str:
    """The text of a message's `content`: a string, a list of parts, or null.

    Neighbouring text parts are joined by a newline; images and the like become a short placeholder.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _render_part(content)
    if isinstance(content, Sequence):
        return "\n".join(piece for part in content if (piece := _render_part(part)))
    return str(content)


def normalise_whitespace(text: str) -> str:
    """Every run of whitespace as one space, none at the ends."""
    return " ".join(text.split())


def prompt_id(prompt: str) -> str:
    """First 16 hex digits of sha256 of the whitespace-normalised prompt: the example table's key."""
    normal = normalise_whitespace(prompt).encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(normal).hexdigest()[:16]


def _render_part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    for key in ("text", "refusal"):
        value = part.get(key)
        if isinstance(value, str):
            return value
    kind = part.get("type")
    if not isinstance(kind, str):
        return ""
    return _PART_PLACEHOLDERS.get(kind, f"[{kind}]")


def _render_turn(turn: Mapping[str, Any]) -> str:
    pieces = [render_content(turn.get("content"))]
    refusal = turn.get("refusal")
    if isinstance(refusal, str):
        pieces.append(refusal)
    calls = turn.get("tool_calls")
    if isinstance(calls, Sequence) and not isinstance(calls, str):
        pieces.extend(_render_call(call) for call in calls)
    if isinstance(turn.get("function_call"), Mapping):  # the form before `tool_calls`
        pieces.append(_render_call({"function": turn["function_call"]}))
    return "\n".join(piece for piece in pieces if piece)


def _render_call(call: object) -> str:
    """`[tool call] name(arguments)`, arguments as the model wrote them."""
    if not isinstance(call, Mapping):
        return ""
    function = call.get("function") or call.get("custom")
    if not isinstance(function, Mapping):
        return f"[tool call] {call.get('type') or 'unknown'}"
    arguments = function.get("arguments", function.get("input"))
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, default=str)
    return f"[tool call] {function.get('name') or 'unknown'}({arguments})"


def _label(turn: Mapping[str, Any]) -> str:
    role = turn.get("role")
    label = _ROLE_LABELS.get(role, role) if isinstance(role, str) and role else "User"
    name = turn.get("name")
    return f"{label} ({name})" if isinstance(name, str) and name else label


def text_key(text: str) -> bytes:
    """16 bytes that stand for a text in a cache, lone surrogates included."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
