"""Which is more: numbers side by side, people with a measure, who comes first in a chain of statements."""

from __future__ import annotations

import itertools
import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_word_or_number
from demo.tasks.words import NAMES

NAME = "comparison"
_LARGER = ("Which is larger, {}?", "Which number is the largest: {}?", "Give the largest of {}.")
_SMALLER = ("Which is smaller, {}?", "Which number is the smallest: {}?", "Give the smallest of {}.")
_RELATIONS = (
    ("older", "oldest", "youngest"),
    ("taller", "tallest", "shortest"),
    ("faster", "fastest", "slowest"),
)
_MEASURES = (("is {} years old", "oldest", "youngest"), ("is {} cm tall", "tallest", "shortest"))


def draw(rng: random.Random) -> Task:
    """One question such as `Ben is older than Ann. Ann is older than Carl. Who is the oldest?`."""
    kind = rng.random()
    if kind < 0.4:
        numbers = rng.sample(range(2, rng.choice((60, 100, 200))), rng.choice((2, 3, 4)))
        larger = rng.random() < 0.5
        listed = ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"
        result = str(max(numbers) if larger else min(numbers))
        return Task(NAME, rng.choice(_LARGER if larger else _SMALLER).format(listed), result, result)
    people = rng.sample(NAMES, rng.choice((3, 3, 4)))
    if kind < 0.7:
        measure, most, least = rng.choice(_MEASURES)
        low, high = (5, 90) if "years" in measure else (110, 200)
        values = rng.sample(range(low, high), len(people))
        text = ", ".join(f"{p} {measure.format(v)}" for p, v in zip(people, values, strict=True))
        wants_most = rng.random() < 0.5
        value = max(values) if wants_most else min(values)
        result = people[values.index(value)]
        question = f"{text}. Who is the {most if wants_most else least}?"
        return Task(NAME, question, result, f"{value}: {result}")
    relation, most, least = rng.choice(_RELATIONS)
    links = [f"{a} is {relation} than {b}." for a, b in itertools.pairwise(people)]
    rng.shuffle(links)
    wants_most = rng.random() < 0.5
    result = people[0] if wants_most else people[-1]
    question = f"{' '.join(links)} Who is the {most if wants_most else least}?"
    return Task(NAME, question, result, f"{' > '.join(people)}: {result}")


FAMILY = Family(NAME, draw, ends_in_word_or_number)
