"""Weekdays and months some steps before or after a given one: counting round a circle."""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_word
from demo.tasks.words import NAMES

NAME = "calendar"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAY_LATER = (
    "Today is {}. What day is it in {} days?",
    "It is {}. Which day comes {} days later?",
    "If today is {}, what day will it be in {} days?",
    "{2} leaves on {0} and comes back {1} days later. Which day is that?",
    "{2} has a test {1} days after {0}. On which day?",
)
_DAY_EARLIER = (
    "Today is {}. What day was it {} days ago?",
    "It is {}. Which day was {} days earlier?",
    "If today is {}, what day was it {} days ago?",
    "{2} came back on {0} after {1} days away. On which day did it start?",
    "{2} had a test {1} days before {0}. On which day?",
)
_MONTH_LATER = (
    "It is {}. Which month is it in {} months?",
    "{2} moves {1} months after {0}. In which month?",
)
_MONTH_EARLIER = (
    "It is {}. Which month was it {} months ago?",
    "{2} moved {1} months before {0}. In which month?",
)


def draw(rng: random.Random) -> Task:
    """One question such as `Today is Monday. What day is it in 9 days?`."""
    later = rng.random() < 0.6
    sign, name = "+" if later else "-", rng.choice(NAMES)
    if rng.random() < 0.3:
        steps, start = rng.randint(2, 8), rng.randrange(12)
        result = MONTHS[(start + steps if later else start - steps) % 12]
        prompt = rng.choice(_MONTH_LATER if later else _MONTH_EARLIER).format(MONTHS[start], steps, name)
        return Task(NAME, prompt, result, f"{MONTHS[start]} {sign} {steps} is {result}")
    steps, start = rng.randint(2, rng.choice((7, 14, 20))), rng.randrange(7)
    result = DAYS[(start + steps if later else start - steps) % 7]
    prompt = rng.choice(_DAY_LATER if later else _DAY_EARLIER).format(DAYS[start], steps, name)
    return Task(NAME, prompt, result, f"{DAYS[start]} {sign} {steps} is {result}")


FAMILY = Family(NAME, draw, ends_in_word)
