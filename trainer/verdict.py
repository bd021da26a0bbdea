"""What a judge is asked, and how its reply is read.

A rubric is a text file; its name is its version and stands in the `judge` column, so that a changed rubric
is another judge. The schema goes along as `response_format`; an endpoint that takes none is still told the
form by the rubric, and a reply is read the same way either way: one JSON object, also in a fence or prose.

The material stands between lines that carry a hash of it: an answer cannot know, and so not fake, the line
that ends it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routing.errors import SettingsError

POINTWISE, PAIRWISE = "pointwise", "pairwise"
TOP_SCORE = 10
_CURRENT = {POINTWISE: "pointwise-1.md", PAIRWISE: "pairwise-1.md"}
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_VERDICTS = ("A", "B", "tie")


class Malformed(Exception):
    """A reply that holds no verdict; the message says what is wrong, in words a judge can act on."""


@dataclass(frozen=True, slots=True)
class Rubric:
    """What a judge is told. `mode`: pointwise (a score for one answer) or pairwise (which of two)."""

    mode: str
    version: str
    text: str

    def response_format(self) -> dict[str, Any]:
        """OpenAI's structured output for this mode's verdict."""
        field = {"score": {"type": "integer", "enum": list(range(TOP_SCORE + 1))}}
        if self.mode == PAIRWISE:
            field = {"verdict": {"type": "string", "enum": list(_VERDICTS)}}
        schema = {
            "type": "object",
            "properties": {"reason": {"type": "string"}, **field},
            "required": ["reason", *field],
            "additionalProperties": False,
        }
        return {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": schema},
        }

    def read(self, reply: str) -> tuple[float | str, str]:
        """The score / 10 or the verdict, and the judge's reason. Raises `Malformed`."""
        found = _read_object(reply)
        reason = found.get("reason")
        value = self._score(found) if self.mode == POINTWISE else self._verdict(found)
        return value, reason if isinstance(reason, str) else ""

    def _score(self, found: Mapping[str, Any]) -> float:
        score = found.get("score")
        if isinstance(score, str) and score.strip().isdecimal():
            score = int(score)
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= TOP_SCORE:
            raise Malformed(f"score is {score!r}, an integer from 0 to {TOP_SCORE} was asked for")
        return float(score) / TOP_SCORE

    def _verdict(self, found: Mapping[str, Any]) -> str:
        verdict = str(found.get("verdict")).strip()
        for known in _VERDICTS:
            if verdict.lower() == known.lower():
                return known
        raise Malformed(f'verdict is {found.get("verdict")!r}, "A", "B" or "tie" was asked for')


def load_rubric(mode: str, path: Path | None = None) -> Rubric:
    """The packaged rubric of a mode, or a file of one's own (its version is name and hash). Raises
    `SettingsError`."""
    source = path or Path(__file__).parent / "rubrics" / _CURRENT[mode]
    try:
        text = source.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"rubric {source} cannot be read: {exc}") from exc
    if not text:
        raise SettingsError(f"rubric {source} is empty")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Rubric(mode, f"{source.stem}-{digest}" if path else source.stem, text)


def present(**parts: str | None) -> str:
    """The material as the judge sees it: named parts between lines nobody can fake."""
    blocks = []
    for name, text in parts.items():
        if text is not None:
            mark = f"{name} {hashlib.sha256(f'{name}:{text}'.encode('utf-8', 'replace')).hexdigest()[:12]}"
            blocks.append(f"----- begin {mark} -----\n{text}\n----- end {mark} -----")
    return "\n\n".join(blocks)


def _read_object(reply: str) -> dict[str, Any]:
    match = _OBJECT.search(reply)
    if match is None:
        raise Malformed("there is no JSON object")
    try:
        found = json.loads(match[0])
    except (ValueError, RecursionError) as exc:
        raise Malformed(f"it is not valid JSON ({exc})") from exc
    assert isinstance(found, dict), "what begins with a brace and parses is an object"
    return found
