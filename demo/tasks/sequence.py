"""The next number of a sequence: equal steps, growing steps, doubling. Which rule holds must be found out."""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_number

NAME = "sequence"
_PHRASES = ("What comes next: {}, ?", "Continue: {}", "Which number follows {}?", "Find the next number: {}")


def draw(rng: random.Random) -> Task:
    """One question such as `What comes next: 3, 7, 11, 15, ?`, solved as `15 + 4 = 19`."""
    kind = rng.random()
    length = rng.choice((3, 4, 4))
    if kind < 0.45:
        step, start = rng.randint(2, 9), rng.randint(1, 30)
        terms = [start + i * step for i in range(length + 1)]
    elif kind < 0.7:
        step = rng.randint(2, 9)
        start = step * length + rng.randint(0, 25)
        terms = [start - i * step for i in range(length + 1)]
    elif kind < 0.9:
        step, start = rng.randint(1, 5), rng.randint(1, 20)
        terms = [start + sum(step + j for j in range(i)) for i in range(length + 1)]
    else:
        start = rng.randint(1, 12)
        terms = [start * 2**i for i in range(length + 1)]
    last, result = terms[-2], terms[-1]
    sign = "+" if result > last else "-"
    shown = ", ".join(map(str, terms[:-1]))
    solution = f"{last} {sign} {abs(result - last)} = {result}"
    return Task(NAME, rng.choice(_PHRASES).format(shown), str(result), solution)


FAMILY = Family(NAME, draw, ends_in_number)
