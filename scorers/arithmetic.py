"""Recomputes the arithmetic a text shows: "17 + 28 = 46" is wrong, and that costs microseconds to know.

A small recursive-descent parser of our own, because `eval` on model output is not an option. It reads
numbers (with thousands commas, a currency sign or a percent sign), + - * / x × ÷ · and parentheses.
Only the expression directly before an equals sign counts; prose around it ends it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

NUMBER = re.compile(r"(?<![\w.])[-+]?\$?\d[\d,]*(?:\.\d+)?(?![\w])|(?<![\w.])[-+]?\$?\.\d+")

_TOKEN = re.compile(r"\s*(?:(\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)%?)|([-+*/()x×÷·−]))")
_RUN = re.compile(r"[-+*/()x×÷·−$%\d.,=\t ]*\d[-+*/()x×÷·−$%\d.,=\t ]*")
_RESULT = re.compile(r"\s*(-?\s*\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+))(%?)")
_BREAK = re.compile(r"[,.;]\s+|,$|\.$")  # a clause that ends inside a run
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_SAME = {"x": "*", "×": "*", "·": "*", "÷": "/", "−": "-"}
_MAX_EQUATIONS = 64  # a bound on work, far above what an honest answer shows


@dataclass(frozen=True, slots=True)
class Equation:
    """One shown equation: what was written right of `=`, and what the left side comes to."""

    written: float
    computed: float

    @property
    def holds(self) -> bool:
        """Whole numbers must agree exactly, others within rounding (half a percent, or a cent)."""
        if self.written.is_integer() and abs(self.computed - round(self.computed)) < 1e-9:
            return self.written == round(self.computed)
        return math.isclose(self.written, self.computed, rel_tol=5e-3, abs_tol=1.1e-2)


def read_number(text: str) -> float:
    """`$1,234.50` -> 1234.5. Raises `ValueError` on anything else."""
    return float(text.replace(",", "").replace("$", "").replace(" ", "").rstrip("%"))


def find_numbers(text: str) -> list[float]:
    """Every number standing by itself in the text, in order."""
    return [read_number(match.group()) for match in NUMBER.finditer(text)]


def find_equations(text: str) -> list[Equation]:
    """Every `expression = number` in the text whose left side has at least one operator.

    A chain (`2 + 3 = 5 + 1 = 6`) is one equation for each equals sign.
    """
    found: list[Equation] = []
    for line in text.splitlines():
        if "=" not in line:
            continue
        for run in _RUN.findall(_BULLET.sub("", line)):
            sides = run.split("=")
            for left, right in pairwise(sides):
                equation = _equation(_BREAK.split(left)[-1], _BREAK.split(right.strip())[0])
                if equation is not None:
                    found.append(equation)
            if len(found) >= _MAX_EQUATIONS:
                return found
    return found


def _equation(left: str, right: str) -> Equation | None:
    computed = evaluate(left)
    if computed is None:
        return None
    written = evaluate(right)
    if written is None:
        match = _RESULT.match(right)
        if match is None:
            return None
        written = read_number(match.group(1))
        # "12 / 48 * 100 = 25%" and "12 / 48 = 25%" are both right.
        if match.group(2) and not math.isclose(written, computed, rel_tol=5e-3):
            written /= 100
    return Equation(written, computed)


def evaluate(expression: str) -> float | None:
    """The value of an arithmetic expression with at least one operator, or None if it is not one."""
    tokens = _tokenise(expression)
    if not any(t in ("+", "-", "*", "/") for t in tokens[1:] if isinstance(t, str)):
        return None
    try:
        value, rest = _sum(tokens, 0)
    except (ValueError, ZeroDivisionError, IndexError, RecursionError):
        return None
    return value if rest == len(tokens) and math.isfinite(value) else None


def _tokenise(expression: str) -> list[float | str]:
    tokens: list[float | str] = []
    position = 0
    text = expression.strip().lstrip(",.) \t\n%")
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return []
        number, operator = match.groups()
        if number:
            value = read_number(number)
            tokens.append(value / 100 if number.endswith("%") else value)
        else:
            tokens.append(_SAME.get(operator, operator))
        position = match.end()
        if not text[position:].strip():
            break
    while tokens and tokens[0] in ("+", "*", "/"):  # the tail of a list bullet, or of a cut expression
        tokens = tokens[1:]
    return tokens


def _sum(tokens: list[float | str], at: int) -> tuple[float, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in ("+", "-"):
        right, after = _product(tokens, at + 1)
        value = value + right if tokens[at] == "+" else value - right
        at = after
    return value, at


def _product(tokens: list[float | str], at: int) -> tuple[float, int]:
    value, at = _factor(tokens, at)
    while at < len(tokens) and tokens[at] in ("*", "/"):
        right, after = _factor(tokens, at + 1)
        value = value * right if tokens[at] == "*" else value / right
        at = after
    return value, at


def _factor(tokens: list[float | str], at: int) -> tuple[float, int]:
    token = tokens[at]
    if token == "-":
        value, at = _factor(tokens, at + 1)
        return -value, at
    if token == "(":
        value, at = _sum(tokens, at + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise ValueError("unclosed parenthesis")
        return value, at + 1
    if isinstance(token, str):
        raise ValueError(f"{token!r} where a number was expected")
    return token, at + 1
