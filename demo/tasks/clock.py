"""Times of day some minutes later or earlier; hard where the hour is passed."""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_time

NAME = "clock"
_LATER = (
    "It is {}. What time is it in {} minutes?",
    "The film starts at {} and takes {} minutes. When does it end?",
    "The train leaves at {} and takes {} minutes. When does it arrive?",
    "What time is {1} minutes after {0}?",
)
_EARLIER = (
    "It is {}. What time was it {} minutes ago?",
    "The lesson ended at {} and took {} minutes. When did it start?",
    "What time is {1} minutes before {0}?",
)


def draw(rng: random.Random) -> Task:
    """One question such as `What time is 35 minutes after 9:40?`."""
    step = 1 if rng.random() < 0.12 else 5
    start = rng.randint(2, 21) * 60 + rng.randrange(0, 60, step)
    minutes = rng.randrange(5, 60, step)
    later = rng.random() < 0.65
    end = start + minutes if later else start - minutes
    begin_text, result = f"{start // 60}:{start % 60:02d}", f"{end // 60}:{end % 60:02d}"
    prompt = rng.choice(_LATER if later else _EARLIER).format(begin_text, minutes)
    return Task(NAME, prompt, result, f"{begin_text} {'+' if later else '-'} {minutes} minutes is {result}")


FAMILY = Family(NAME, draw, ends_in_time)
