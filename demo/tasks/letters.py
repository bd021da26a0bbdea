"""Questions about single letters of a quoted word: which stands where, and how many there are."""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_word_or_number
from demo.tasks.words import draw_spellable

NAME = "letters"
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "last")
_PLACE = (
    "What is the {0} letter of '{1}'?",
    "Which letter comes {0} in '{1}'?",
    "Give the {0} letter of '{1}'.",
)
_COUNT = ("How many letters are in '{}'?", "How long is '{}'?", "Count the letters in '{}'.")
_OCCUR = (
    "How many times is '{0}' in '{1}'?",
    "Count the letter '{0}' in '{1}'.",
    "How often is '{0}' in '{1}'?",
)
_NEXT = ("Which letter comes after '{0}' in '{1}'?", "What letter follows '{0}' in '{1}'?")


def draw(rng: random.Random) -> Task:
    """One question such as `What is the third letter of 'planet'?`."""
    word = draw_spellable(rng, rng.choice((5, 8, 10)))
    kind = rng.random()
    if kind < 0.45:
        place = rng.choice((*_PLACES[: min(6, len(word))], "last"))
        result = word[-1] if place == "last" else word[_PLACES.index(place)]
        prompt = rng.choice(_PLACE).format(place, word)
    elif kind < 0.65:
        result, prompt = str(len(word)), rng.choice(_COUNT).format(word)
    elif kind < 0.8:
        letter = rng.choice(word)
        result, prompt = str(word.count(letter)), rng.choice(_OCCUR).format(letter, word)
    else:
        at = rng.randrange(len(word) - 1)
        at = word.index(word[at]) if word.index(word[at]) < len(word) - 1 else at
        result, prompt = word[at + 1], rng.choice(_NEXT).format(word[at], word)
    return Task(NAME, prompt, result, result)


FAMILY = Family(NAME, draw, ends_in_word_or_number)
