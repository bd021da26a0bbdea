from __future__ import annotations

import itertools

import pytest

from demo.tasks import FAMILIES, JUDGED, SPLITS, draw_held_out, draw_tasks, find_split, is_correct


@pytest.fixture(scope="module")
def drawn():
    return {split: draw_tasks(split, 1000, seed=3) for split in SPLITS}


def test_same_seed_draws_same_tasks_and_another_seed_others(drawn):
    assert draw_tasks("test", 1000, seed=3) == drawn["test"]
    assert draw_tasks("test", 1000, seed=4) != drawn["test"]


def test_no_prompt_is_in_two_splits_or_twice_in_one(drawn):
    prompts = [task.prompt for tasks in drawn.values() for task in tasks]
    assert len(set(prompts)) == len(prompts)
    assert all(find_split(task.prompt) == split for split, tasks in drawn.items() for task in tasks)


def test_held_out_splits_are_of_a_kind():
    parted = draw_held_out(3000, seed=1)
    assert parted == draw_held_out(3000, seed=1)
    prompts = [task.prompt for tasks in parted.values() for task in tasks]
    assert len(set(prompts)) == len(prompts) == 3000
    for split, share in (("fit", 0.4), ("calibrate", 0.2), ("test", 0.4)):
        assert len(parted[split]) == pytest.approx(3000 * share, rel=0.15)
        assert all(find_split(task.prompt) == split for task in parted[split])
        length = sum(len(task.prompt) for task in parted[split]) / len(parted[split])
        assert length == pytest.approx(sum(map(len, prompts)) / 3000, rel=0.05)


def test_whitespace_does_not_move_a_prompt_to_another_split(drawn):
    for task in drawn["test"][:50]:
        assert find_split("  " + task.prompt.replace(" ", "  ") + "\n") == "test"


def test_every_family_is_drawn_and_its_solution_is_right(drawn):
    for split, tasks in drawn.items():
        assert {task.group for task in tasks} == set(FAMILIES if split == "train" else JUDGED)
        assert all(is_correct(task.group, task.reference, task.solution) for task in tasks)
        assert all(is_correct(task.group, task.reference, task.reference) for task in tasks)


def test_another_tasks_answer_is_wrong(drawn):
    for family in FAMILIES:
        tasks = [task for task in drawn["train"] if task.group == family]
        for one, other in itertools.pairwise(tasks):
            same = one.reference == other.reference
            assert is_correct(family, one.reference, other.reference) == same


@pytest.mark.parametrize(
    ("group", "reference", "answer", "right"),
    [
        ("arithmetic", "45", "17 + 28 = 45", True),
        ("arithmetic", "45", "The answer is 45.", True),
        ("arithmetic", "45", "45 or 46", False),
        ("arithmetic", "45", "", False),
        ("arithmetic", "45", "145", False),
        ("arithmetic", "5", "-5", False),
        ("calendar", "Friday", "It is friday.", True),
        ("calendar", "Friday", "Friday or Monday", False),
        ("clock", "9:05", "09:05", True),
        ("clock", "9:05", "9:5", False),
        ("letters", "n", "N", True),
        ("letters", "3", "three", False),
        ("spelling", "tac", "The answer is tac", True),
        ("spelling", "tac", "cat", False),
        ("sorting", "3, 7, 9", "Sorted: 3, 7, 9.", True),
        ("sorting", "3, 7, 9", "3 7 9", True),
        ("sorting", "3, 7, 9", "3, 7, 7, 9", False),
        ("sorting", "ant, bear", "ant, bear, cat", False),
        ("lookup", "Anna", "Anna.", True),
        ("lookup", "12", "Anna has 12", True),
    ],
)
def test_verifier(group, reference, answer, right):
    assert is_correct(group, reference, answer) is right


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'dev'"):
        draw_tasks("dev", 1)
