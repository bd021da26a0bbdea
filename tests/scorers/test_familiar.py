"""Telling prompts of a kind that was fitted on from others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scorers.familiar import Familiar, kinds_of
from scorers.runtime.neighbours import Neighbours
from scorers.scripts import scripts_of
from scorers.text import render_prompt


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("", set()),
        ("1 + 1 = 2!", set()),
        ("plain English", {"latin"}),
        ("Привет, мир", {"cyrillic"}),
        ("東京はどこですか", {"han", "kana"}),
        ("a long English sentence about the word 猫", {"latin"}),
        ("half наполовину", {"latin", "cyrillic"}),
    ],
)
def test_scripts_by_share_of_letters(text: str, scripts: set[str]) -> None:
    assert scripts_of(text) == scripts


def test_kinds_are_read_from_the_text_that_scorers_see() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
    ]
    assert kinds_of(render_prompt(messages[:1] + messages[1:2])) == {"system", "turns"}
    assert kinds_of(render_prompt(messages)) == {"system", "turns", "tools"}
    assert kinds_of(render_prompt([{"role": "user", "content": "What is a System: a noun?"}])) == frozenset()


def test_a_kind_counts_as_seen_from_half_a_percent_on() -> None:
    plain = [f"question {number} about things" for number in range(995)]
    rare = Familiar.of([*plain, *["System: be brief\n\nUser: hi"] * 2])
    assert rare.unlike("System: be kind\n\nUser: hi") in ("system", "turns")
    common = Familiar.of([*plain, *["System: be brief\n\nUser: hi"] * 20])
    assert common.unlike("System: be kind\n\nUser: hi") is None
    assert Familiar.from_dict(json.loads(json.dumps(common.to_dict()))) == common


def test_lengths_have_slack() -> None:
    known = Familiar.of(["x" * length for length in range(100, 1100)])
    assert known.unlike("x" * 60) is None
    assert known.unlike("x" * 2_000) is None
    assert known.unlike("x" * 30) == "length"
    assert known.unlike("x" * 3_000) == "length"


def test_vectors_from_elsewhere_are_far_and_most_of_the_same_kind_are_not() -> None:
    random = np.random.default_rng(0)
    center = random.normal(size=64)

    def near(count: int) -> np.ndarray:
        return center + 0.8 * random.normal(size=(count, 64))

    neighbours = Neighbours.of(near(400), near(200))
    assert neighbours.far(near(2_000)).mean() < 0.02
    assert neighbours.far(random.normal(size=(500, 64))).mean() > 0.99
    assert neighbours.far(7.0 * near(100)).mean() < 0.05, "length says nothing"
