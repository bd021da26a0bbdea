"""Rewriting a quoted word letter by letter: backwards, without a letter, with one swapped, doubled."""

from __future__ import annotations

import random

from demo.tasks.task import Family, Task
from demo.tasks.verifier import ends_in_word
from demo.tasks.words import draw_spellable

NAME = "spelling"
_REVERSE = (
    "Spell '{}' backwards.",
    "Write '{}' in reverse.",
    "Reverse the word '{}'.",
    "What is '{}' backwards?",
)
_DROP = ("Write '{0}' without '{1}'.", "Remove every '{1}' from '{0}'.")
_SWAP = ("In '{0}', replace '{1}' by '{2}'.", "Write '{0}' with '{2}' for '{1}'.")


def draw(rng: random.Random) -> Task:
    """One question such as `Spell 'planet' backwards.`, answered by one word."""
    kind = rng.random()
    word = draw_spellable(rng, rng.choice((4, 5, 7)))
    if kind < 0.5:
        result, prompt = word[::-1], rng.choice(_REVERSE).format(word)
    elif kind < 0.75:
        letter = rng.choice(word)
        result, prompt = word.replace(letter, ""), rng.choice(_DROP).format(word, letter)
    else:
        letter, other = rng.choice(word), rng.choice("aeiourstl")
        result, prompt = word.replace(letter, other), rng.choice(_SWAP).format(word, letter, other)
    return Task(NAME, prompt, result, result)


FAMILY = Family(NAME, draw, ends_in_word)
