"""Which scripts a text is written in: what can be told of its language in microseconds, without a model.

Languages that share a script are not told apart: a tier for `en` also gets German. That is enough for the
common case, a small model that was trained on one script and fails silently on others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LEAST_SHARE = 0.2  # of the letters: a name or a quotation in another script is no other language
_MOST_CHARS = 4_000  # of a long text the beginning is looked at

_RANGES = {
    "latin": "A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "cyrillic": "\u0400-\u052f",
    "armenian": "\u0531-\u058f",
    "hebrew": "\u0590-\u05ff",
    "arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff",
    "devanagari": "\u0900-\u097f",
    "bengali": "\u0980-\u09ff",
    "gurmukhi": "\u0a00-\u0a7f",
    "gujarati": "\u0a80-\u0aff",
    "tamil": "\u0b80-\u0bff",
    "telugu": "\u0c00-\u0c7f",
    "kannada": "\u0c80-\u0cff",
    "malayalam": "\u0d00-\u0d7f",
    "sinhala": "\u0d80-\u0dff",
    "thai": "\u0e00-\u0e7f",
    "georgian": "\u10a0-\u10ff",
    "ethiopic": "\u1200-\u137f",
    "khmer": "\u1780-\u17ff",
    "hangul": "\u1100-\u11ff\uac00-\ud7af",
    "kana": "\u3040-\u30ff",
    "han": "\u3400-\u9fff",
}
_PATTERNS = {name: re.compile(f"[{chars}]") for name, chars in _RANGES.items()}
_LATIN = (
    "af ca cs cy da de en es et eu fi fr ga gl hr hu id is it lt lv ms mt nl no pl pt ro sk sl sq sv sw tl tr"
    " vi"
)
SCRIPT_OF_LANGUAGE: dict[str, frozenset[str]] = {
    **{code: frozenset({"latin"}) for code in _LATIN.split()},
    **{code: frozenset({"cyrillic"}) for code in ("be", "bg", "kk", "mk", "ru", "uk")},
    **{code: frozenset({"arabic"}) for code in ("ar", "fa", "ur")},
    **{code: frozenset({"devanagari"}) for code in ("hi", "mr", "ne")},
    "sr": frozenset({"cyrillic", "latin"}),
    "el": frozenset({"greek"}), "hy": frozenset({"armenian"}), "he": frozenset({"hebrew"}),
    "bn": frozenset({"bengali"}), "pa": frozenset({"gurmukhi"}), "gu": frozenset({"gujarati"}),
    "ta": frozenset({"tamil"}), "te": frozenset({"telugu"}), "kn": frozenset({"kannada"}),
    "ml": frozenset({"malayalam"}), "si": frozenset({"sinhala"}), "th": frozenset({"thai"}),
    "ka": frozenset({"georgian"}), "am": frozenset({"ethiopic"}), "km": frozenset({"khmer"}),
    "ko": frozenset({"hangul", "han"}), "ja": frozenset({"kana", "han"}), "zh": frozenset({"han"}),
}  # fmt: skip


def scripts_of(text: str) -> frozenset[str]:
    """The scripts that at least a fifth of the letters are in; empty for a text without letters."""
    text = text[:_MOST_CHARS]
    if text.isascii():
        return frozenset({"latin"}) if _PATTERNS["latin"].search(text) else frozenset()
    counts = {name: len(pattern.findall(text)) for name, pattern in _PATTERNS.items()}
    letters = sum(counts.values())
    return frozenset(name for name, count in counts.items() if count and count >= LEAST_SHARE * letters)


def speaks(languages: Iterable[str], scripts: frozenset[str]) -> bool:
    """Whether a tier for these languages (empty: any) may get a prompt in these scripts."""
    allowed: set[str] = set()
    for code in languages:
        allowed |= SCRIPT_OF_LANGUAGE[code]
    return not allowed or scripts <= allowed
