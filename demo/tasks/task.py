"""A task: a short question in plain English whose answer a program can check.

The prompt alone decides the split (by its hash), so a prompt can never be both trained on and tested on,
whatever seed drew it. Drawing costs about 15 microseconds; a split that holds a tenth of all prompts costs
ten draws for each one kept.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# The share of all prompts in each split, in twentieths. `train` is what the two language models see; the
# other three are for the scorers fitted on the models' answers: fit, calibrate, and test.
_TWENTIETHS: Mapping[str, range] = {
    "train": range(15),
    "fit": range(15, 17),
    "calibrate": range(17, 18),
    "test": range(18, 20),
}
SPLITS = tuple(_TWENTIETHS)


@dataclass(frozen=True, slots=True)
class Task:
    """One question.

    `reference` is the bare right answer (`45`); `solution` is a full answer as a model is trained to give it
    (`17 + 28 = 45`): its last number, word, time or list is the reference.
    """

    group: str
    prompt: str
    reference: str
    solution: str


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of task: `draw` makes one from a random source, `is_correct(reference, answer)` checks one.

    A family that is not `judged` is only trained on: its tasks are in no other split.
    """

    name: str
    draw: Callable[[random.Random], Task]
    is_correct: Callable[[str, str], bool]
    judged: bool = True


def hash_prompt(prompt: str) -> str:
    """sha256 of the whitespace-normalised prompt, 64 hex digits; the first 16 are its `prompt_id`."""
    return hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest()


def find_split(prompt: str) -> str:
    """The split a prompt belongs to, one of `SPLITS`."""
    twentieth = int(hash_prompt(prompt)[-8:], 16) % 20
    return next(name for name, share in _TWENTIETHS.items() if twentieth in share)
