"""Short tasks with checkable answers, drawn without end from a seed: what the embedded models can do.

`draw_tasks(split, count, seed)` is the generator, `is_correct(group, reference, answer)` the judge.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from demo.tasks import (
    arithmetic,
    calendar,
    clock,
    comparison,
    letters,
    lookup,
    sequence,
    sorting,
    spelling,
    story,
)
from demo.tasks.task import SPLITS, Family, Task, find_split, hash_prompt

__all__ = [
    "FAMILIES",
    "JUDGED",
    "SPLITS",
    "Family",
    "Task",
    "draw_held_out",
    "draw_tasks",
    "find_split",
    "hash_prompt",
    "is_correct",
    "iterate",
]

_MODULES = (arithmetic, calendar, clock, comparison, letters, lookup, sequence, sorting, spelling, story)
FAMILIES: dict[str, Family] = {module.NAME: module.FAMILY for module in _MODULES}
JUDGED = tuple(family.name for family in FAMILIES.values() if family.judged)


def iterate(split: str, seed: int = 0) -> Iterator[Task]:
    """Tasks of one split without end, families in turn; the same for the same (split, seed).

    Splits other than `train` hold judged families only. Prompts may repeat. Raises `ValueError` for a split
    that is not in `SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
    rng = random.Random(f"{split}:{seed}")
    families = [family for family in FAMILIES.values() if family.judged or split == "train"]
    while True:
        for family in families:
            task = family.draw(rng)
            while find_split(task.prompt) != split:
                task = family.draw(rng)
            yield task


def draw_held_out(count: int, seed: int = 0) -> dict[str, list[Task]]:
    """`count` tasks no model was trained on, parted by their hash: about 40 % fit, 20 % calibrate, 40 % test.

    The easy prompts of a family are few and used up first, so the more are drawn the harder they get. Drawn
    together and parted by a hash that knows nothing of difficulty, the three splits are exchangeable, which
    three calls of `draw_tasks` with unlike counts would not give.
    """
    rng = random.Random(f"held out:{seed}")
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        for name in JUDGED:
            task = FAMILIES[name].draw(rng)
            while find_split(task.prompt) == "train":
                task = FAMILIES[name].draw(rng)
            tasks.setdefault(task.prompt, task)
    parted: dict[str, list[Task]] = {split: [] for split in SPLITS if split != "train"}
    for task in list(tasks.values())[:count]:
        parted[find_split(task.prompt)].append(task)
    return parted


def draw_tasks(split: str, count: int, seed: int = 0) -> list[Task]:
    """`count` tasks of one split with no prompt twice, families in turn (as far as none repeats)."""
    tasks: dict[str, Task] = {}
    for task in iterate(split, seed):
        if len(tasks) >= count:
            break
        tasks.setdefault(task.prompt, task)
    return list(tasks.values())


def is_correct(group: str, reference: str, answer: str) -> bool:
    """Whether `answer` is right by the check of its family. Raises `KeyError` for an unknown `group`."""
    return FAMILIES[group].is_correct(reference, answer)
