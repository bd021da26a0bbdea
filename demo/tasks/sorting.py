"""Putting numbers in order, up or down, and animals in the order of the alphabet."""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import is_same_list
from demo.tasks.words import SORTABLE

NAME = "sorting"
_UP = ("Sort {} from small to large.", "Put {} in rising order.", "Order these numbers upwards: {}.")
_DOWN = ("Sort {} from large to small.", "Put {} in falling order.", "Order these numbers downwards: {}.")
_ALPHABET = ("Sort {} by the alphabet.", "Put {} in alphabetical order.", "Order these words: {}.")


def draw(rng: random.Random) -> Task:
    """One question such as `Sort 41, 7, 23 from small to large.`, answered `Sorted: 7, 23, 41`."""
    length = rng.choice((3, 3, 4, 5))
    if rng.random() < 0.35:
        items = rng.sample(SORTABLE, length)
        phrases, result = _ALPHABET, sorted(items)
    else:
        numbers = rng.sample(range(1, 100), length)
        up = rng.random() < 0.6
        phrases = _UP if up else _DOWN
        items, result = [str(n) for n in numbers], [str(n) for n in sorted(numbers, reverse=not up)]
    answer = ", ".join(result)
    return Task(NAME, rng.choice(phrases).format(", ".join(items)), answer, f"Sorted: {answer}")


FAMILY = Family(NAME, draw, is_same_list)
