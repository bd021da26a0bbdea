"""Verifiers: rules that tell whether an answer is right or well formed, none of them a model.

With a reference they label answers (`exact`, `numeric`, `choice`, `regex`); without one they check a form
(`json`, `python`, `arithmetic`). Each is a function of (answer, reference) that returns how good the answer
is in [0, 1], or None where it has nothing to say, as `python` to an answer without code. Microseconds each.
One's own: `register` it, or name it `module:function` on the command line.

A rule is only as right as its reading of an answer's end, so each takes the last statement: models correct
themselves forwards.
"""

from __future__ import annotations

import ast
import importlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from scorers.arithmetic import find_equations, find_numbers

Check = Callable[[str, str | None], float | None]


@dataclass(frozen=True, slots=True)
class Verifier:
    """A named check. `needs_reference`: without one it has nothing to compare with."""

    name: str
    check: Check
    needs_reference: bool


class UnknownVerifier(LookupError):
    """No verifier of this name; the message lists what there is."""


_REGISTRY: dict[str, Verifier] = {}


def register(name: str, needs_reference: bool) -> Callable[[Check], Check]:
    """Decorator: make a check known under `name`. Raises `ValueError` for a name that is taken."""

    def add(check: Check) -> Check:
        if name in _REGISTRY:
            raise ValueError(f"verifier {name!r} is registered already")
        _REGISTRY[name] = Verifier(name, check, needs_reference)
        return check

    return add


def verifier_names() -> tuple[str, ...]:
    return tuple(_REGISTRY)


def find_verifier(name: str) -> Verifier:
    """A registered one, or `module:function` (which is given a reference where there is one). Raises
    `UnknownVerifier`."""
    if name in _REGISTRY:
        return _REGISTRY[name]
    module, _, function = name.partition(":")
    if not function:
        raise UnknownVerifier(f"no verifier {name!r}; there are: {', '.join(_REGISTRY)}, or MODULE:FUNCTION")
    try:
        check = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise UnknownVerifier(f"verifier {name!r} cannot be imported: {exc}") from exc
    return _REGISTRY.get(name) or Verifier(name, check, needs_reference=False)


_MARKED = re.compile(
    r"(?:####|\\boxed\{|(?:final |correct |the )answer(?: is)?\s*[:=]?|answer\s*[:=]|answer is)\s*",
    re.IGNORECASE,
)
_EDGES = " \t\n\r.,;:!?\"'`*_()[]{}$"
_ARTICLE = re.compile(r"\A(the|an|a)\s+")


def final_part(answer: str) -> str:
    """What follows the last mark of a final answer (`####`, `\\boxed{`, "the answer is"), else all of it."""
    marks = list(_MARKED.finditer(answer))
    return answer[marks[-1].end() :] if marks else answer


@register("exact", needs_reference=True)
def check_exact(answer: str, reference: str | None) -> float | None:
    """The same words: the whole answer, its last line, or what follows "the answer is". Case, articles,
    outer punctuation and runs of whitespace do not count."""
    if reference is None:
        return None
    lines = [line for line in answer.splitlines() if line.strip()] or [""]
    wanted = _normal(reference)
    return float(wanted in {_normal(answer), _normal(lines[-1]), _normal(final_part(answer))})


def _normal(text: str) -> str:
    return _ARTICLE.sub("", " ".join(text.lower().split()).strip(_EDGES))


@register("numeric", needs_reference=True)
def check_numeric(answer: str, reference: str | None) -> float | None:
    """The final number of the answer is the final number of the reference (as GSM8K writes it, after
    `####`), within 1e-6 of it; None where the reference has no number."""
    if reference is None:
        return None
    wanted, given = _final_number(reference), _final_number(answer)
    if wanted is None:
        return None
    return float(given is not None and math.isclose(given, wanted, rel_tol=1e-6, abs_tol=1e-9))


def _final_number(text: str) -> float | None:
    """The first number after the last mark (an explanation may follow), else the last one there is."""
    marks = list(_MARKED.finditer(text))
    if marks and (after := find_numbers(text[marks[-1].end() :])):
        return after[0]
    numbers = find_numbers(text)
    return numbers[-1] if numbers else None


_LETTER = re.compile(r"(?<![A-Za-z0-9'’])\(?([A-J])\)?(?![A-Za-z0-9'’])")
_LEADING = re.compile(r"\A\W*(?:option |choice )?\(?([A-J])\)?(?:[.):,]|\s*\Z)", re.IGNORECASE)


@register("choice", needs_reference=True)
def check_choice(answer: str, reference: str | None) -> float | None:
    """The letter (A to J) the answer settles on is the reference's; None where the reference has none."""
    if reference is None:
        return None
    wanted = find_choice(reference)
    return None if wanted is None else float(find_choice(answer) == wanted)


def find_choice(text: str) -> str | None:
    """The letter a text settles on: after "the answer is", at its very beginning, else the last capital
    that stands by itself ("A" before a word is an article, not a choice)."""
    if _MARKED.search(text) and (found := _first_choice(final_part(text))):
        return found
    leading = _LEADING.match(text)
    if leading:
        return leading[1].upper()
    letters = [m[1] for m in _LETTER.finditer(text) if not _is_article(text, m)]
    return letters[-1] if letters else None


def _first_choice(text: str) -> str | None:
    leading = _LEADING.match(text)
    if leading:
        return leading[1].upper()
    for match in _LETTER.finditer(text):
        if not _is_article(text, match):
            return match[1]
    return None


def _is_article(text: str, match: re.Match[str]) -> bool:
    """`A` or `I` used as a word: bare, with a lower-case word behind it."""
    return match[0] in ("A", "I") and re.match(r"\s+[a-z]", text[match.end() :]) is not None


@register("regex", needs_reference=True)
def check_regex(answer: str, reference: str | None) -> float | None:
    """The reference, a regular expression, is found in the answer. Raises `re.error` for none."""
    return None if reference is None else float(re.search(reference, answer) is not None)


_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+-]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


@register("json", needs_reference=False)
def check_json(answer: str, reference: str | None) -> float | None:
    """The answer, or its one fenced block, is JSON."""
    blocks = [code for language, code in _FENCE.findall(answer) if language.lower() in ("", "json")]
    try:
        json.loads(blocks[-1] if blocks else answer)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


@register("python", needs_reference=False)
def check_python(answer: str, reference: str | None) -> float | None:
    """Every fenced block of Python parses; None where there is none. Nothing is run."""
    blocks = [code for language, code in _FENCE.findall(answer) if language.lower() in ("python", "py")]
    return float(all(map(_parses_as_python, blocks))) if blocks else None


def _parses_as_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


@register("arithmetic", needs_reference=False)
def check_arithmetic(answer: str, reference: str | None) -> float | None:
    """The share of the equations shown that hold; None where none is shown."""
    equations = find_equations(answer)
    return sum(e.holds for e in equations) / len(equations) if equations else None
