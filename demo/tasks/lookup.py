"""Finding one fact among several in a given text; the answer is copied, so distractors are what is hard.

Trained on but not judged: models of this size and training end where guessing among the facts would (a third
right, both of them), so it says nothing about when to shift up. See LOG.md.
"""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_word_or_number
from demo.tasks.words import NAMES, THINGS

NAME = "lookup"
_HOW_MANY = (
    "How many {1} does {0} have?",
    "How many {1} are there with {0}?",
    "What is the number of {1} of {0}?",
)
_WHO = ("Who has {} {}?", "Whose are the {} {}?", "Which of them has {} {}?")


def draw(rng: random.Random) -> Task:
    """One question such as `Anna has 4 pens, Ben has 9 pens. How many pens does Ben have?`.

    The solution repeats the fact, so that the answer continues a text which stands in the prompt.
    """
    count = rng.choice((2, 3, 3, 4))
    people = rng.sample(NAMES, count)
    # Few kinds of things: then neither the name nor the thing alone settles which fact is meant.
    kinds = rng.sample(THINGS, 2)
    things = [rng.choice(kinds) for _ in people]
    numbers = rng.sample(range(2, 60), count)
    if count > 2 and rng.random() < 0.4:  # one person appears twice, with the other thing
        people[-1] = people[0]
        things[-1] = kinds[1] if things[0] == kinds[0] else kinds[0]
    facts = [f"{p} has {n} {t}" for p, n, t in zip(people, numbers, things, strict=True)]
    at = rng.randrange(count)
    text = ", ".join(rng.sample(facts, count))
    if rng.random() < 0.65:
        question, result = rng.choice(_HOW_MANY).format(people[at], things[at]), str(numbers[at])
        solution = facts[at]
    else:
        question, result = rng.choice(_WHO).format(numbers[at], things[at]), people[at]
        solution = f"{numbers[at]} {things[at]}: {result}"
    return Task(NAME, f"{text}. {question}", result, solution)


FAMILY = Family(NAME, draw, ends_in_word_or_number, judged=False)
