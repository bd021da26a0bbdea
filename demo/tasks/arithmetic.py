"""Sums, differences and products of two numbers, and sums of three.

What makes one hard is a carry, not the size that the eye sees, so the prompt tells little about who can do
it.
"""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_number

NAME = "arithmetic"
_PHRASES = ("What is {}?", "Work out {}.", "Calculate {}.", "How much is {}?", "Find {}.", "{} = ?")


def draw(rng: random.Random) -> Task:
    """One question such as `What is 17 + 28?`, solved as `17 + 28 = 45`."""
    kind = rng.random()
    top = rng.choice((9, 20, 30, 60))
    a, b = rng.randint(1, top), rng.randint(1, top)
    if kind < 0.35:
        question, steps, result = f"{a} + {b}", f"{a} + {b} = {a + b}", a + b
    elif kind < 0.65:
        a, b = max(a, b), min(a, b)
        question, steps, result = f"{a} - {b}", f"{a} - {b} = {a - b}", a - b
    elif kind < 0.8:
        a, b = rng.randint(2, 10), rng.randint(2, 9)
        question, steps, result = f"{a} * {b}", f"{a} * {b} = {a * b}", a * b
    else:
        a, b, c = (rng.randint(1, min(top, 20)) for _ in range(3))
        question, result = f"{a} + {b} + {c}", a + b + c
        steps = f"{a} + {b} = {a + b}, {a + b} + {c} = {result}"
    return Task(NAME, rng.choice(_PHRASES).format(question), str(result), steps)


FAMILY = Family(NAME, draw, ends_in_number)
