"""What kind of prompts a bundle was fitted on, as their text shows: length, scripts, system prompts, turns.

A scorer that never saw a kind of input still gives a number for it, and that number means nothing. These
checks cost microseconds and err towards "unlike": a kind counts as seen from half a percent of the prompts
on. What only the meaning shows, `scorers/runtime/neighbours.py` looks for among the query vectors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scorers.scripts import scripts_of

FAMILIAR = "familiar.json"  # its file in a bundle
_SEEN_SHARE = 0.005
_LENGTH_SLACK = 2.0  # beyond the shortest and the longest of the fitted prompts
_KINDS = {
    "system": re.compile(r"(?:\A|\n\n)System(?: \([^)\n]*\))?: "),
    "turns": re.compile(r"\n\n(?:Assistant|User)(?: \([^)\n]*\))?: "),
    "tools": re.compile(r"(?:^|: )\[tool call\] |(?:\A|\n\n)Tool result(?: \([^)\n]*\))?: ", re.MULTILINE),
}


@dataclass(frozen=True, slots=True)
class Familiar:
    """Lengths are characters of the rendered prompt; `kinds` are those of `kinds_of` that were seen."""

    shortest: int
    longest: int
    scripts: frozenset[str]
    kinds: frozenset[str]

    @classmethod
    def of(cls, prompts: Sequence[str]) -> Familiar:
        """From the prompts a bundle was fitted on, at least one."""
        lengths = sorted(map(len, prompts))
        cut = int(_SEEN_SHARE * len(lengths))
        least = max(1, int(_SEEN_SHARE * len(prompts)))
        scripts = Counter(script for prompt in prompts for script in scripts_of(prompt))
        kinds = Counter(kind for prompt in prompts for kind in kinds_of(prompt))
        return cls(
            lengths[cut],
            lengths[-1 - cut],
            frozenset(name for name, count in scripts.items() if count >= least),
            frozenset(name for name, count in kinds.items() if count >= least),
        )

    def unlike(self, prompt: str) -> str | None:
        """What about a prompt was not seen: `length`, `script`, `system`, `turns`; None for nothing.

        Tools are told by `kinds` alone: a call that offers some need not show any in its text.
        """
        if not self.shortest / _LENGTH_SLACK <= len(prompt) <= self.longest * _LENGTH_SLACK:
            return "length"
        if not scripts_of(prompt) <= self.scripts:
            return "script"
        new = kinds_of(prompt) - self.kinds - {"tools"}
        return min(new) if new else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for familiar.json."""
        return {
            "shortest": self.shortest,
            "longest": self.longest,
            "scripts": sorted(self.scripts),
            "kinds": sorted(self.kinds),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Familiar:
        """Read `to_dict`'s data. Raises `KeyError`, `TypeError`, `ValueError`."""
        return cls(
            int(data["shortest"]), int(data["longest"]), frozenset(data["scripts"]), frozenset(data["kinds"])
        )


def kinds_of(prompt: str) -> frozenset[str]:
    """What a rendered prompt is made of besides one user message."""
    return frozenset(name for name, pattern in _KINDS.items() if pattern.search(prompt))
