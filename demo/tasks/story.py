"""Small word problems: who has how many in the end. Two or three steps, each shown in the answer."""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_number
from demo.tasks.words import NAMES, THINGS

NAME = "story"
_GAINS = ("buys {} more", "finds {} more", "gets {} from {}")
_LOSSES = ("loses {}", "sells {}", "gives {} to {}")
_ENDINGS = ("How many {1} does {0} have now?", "How many {1} has {0} in the end?", "How many {1} are left?")


def draw(rng: random.Random) -> Task:
    """One question such as `Anna has 12 nuts. She buys 7 more and loses 5. How many nuts are left?`."""
    who, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    if rng.random() < 0.25:
        bags, each = rng.randint(2, 6), rng.randint(2, 9)
        total = bags * each
        spent = rng.randint(1, total - 1)
        text = (
            f"{who} has {bags} bags with {each} {thing} each and {rng.choice(_LOSSES).format(spent, other)}."
        )
        steps = [f"{bags} * {each} = {total}", f"{total} - {spent} = {total - spent}"]
        total -= spent
    else:
        total = rng.randint(3, rng.choice((10, 20, 30)))
        text, steps = f"{who} has {total} {thing}", []
        for _ in range(rng.choice((1, 2, 2))):
            gain = total < 4 or rng.random() < 0.5
            amount = rng.randint(1, rng.choice((9, 20)) if gain else total - 1)
            text += f" and {rng.choice(_GAINS if gain else _LOSSES).format(amount, other)}"
            after = total + amount if gain else total - amount
            steps.append(f"{total} {'+' if gain else '-'} {amount} = {after}")
            total = after
        text += "."
    ending = rng.choice(_ENDINGS).format(who, thing)
    return Task(NAME, f"{text} {ending}", str(total), ", ".join(steps))


FAMILY = Family(NAME, draw, ends_in_number)
