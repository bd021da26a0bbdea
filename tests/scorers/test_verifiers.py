"""Verifiers: what counts as right, and what they have nothing to say to."""

from __future__ import annotations

import pytest

from scorers.verifiers import UnknownVerifier, find_verifier, register, verifier_names


def always_half(answer: str, reference: str | None) -> float | None:
    return 0.5


@pytest.mark.parametrize(
    ("name", "answer", "reference", "expected"),
    [
        ("exact", "Paris", "paris.", 1.0),
        ("exact", "It lies on the Seine.\nThe answer is: Paris", "Paris", 1.0),
        ("exact", "**The Hague**", "Hague", 1.0),
        ("exact", "Paris, or perhaps Lyon", "Paris", 0.0),
        ("exact", "", "Paris", 0.0),
        ("numeric", "5 * 4 = 20\n#### 20", "She has 20.\n#### 20", 1.0),
        ("numeric", "So there are 1,234 of them.", "1234", 1.0),
        ("numeric", "The answer is $18.00 because 9 * 2 = 18, not 17", "18", 1.0),
        ("numeric", "First 12, then 13", "12", 0.0),
        ("numeric", "I do not know", "12", 0.0),
        ("numeric", r"\boxed{-3}", "-3", 1.0),
        ("numeric", "12", "twelve", None),
        ("choice", "B", "B", 1.0),
        ("choice", "(b)", "B", 1.0),
        ("choice", "B. Because mass is conserved.", "B", 1.0),
        ("choice", "A is wrong, C is wrong, so the answer is D.", "D", 1.0),
        ("choice", "A cell divides. I think it is C", "C", 1.0),
        ("choice", "The correct answer is (A) osmosis, not B.", "A", 1.0),
        ("choice", "Answer: a", "A", 1.0),
        ("choice", "none of them", "A", 0.0),
        ("choice", "C", "no letter", None),
        ("regex", "on 2024-05-01", r"\d{4}-\d\d-\d\d", 1.0),
        ("regex", "in May", r"\d{4}", 0.0),
        ("json", '{"a": [1, 2]}', None, 1.0),
        ("json", 'Here:\n```json\n{"a": 1}\n```\n', None, 1.0),
        ("json", "{'a': 1}", None, 0.0),
        ("json", "[" * 100_000, None, 0.0),
        ("python", "```python\ndef f(x):\n    return x\n```", None, 1.0),
        ("python", "```py\ndef f(x)\n    return x\n```", None, 0.0),
        ("python", "```python\nx = 1\n```\nand\n```python\ny = (\n", None, 0.0),
        ("python", "no code here", None, None),
        ("arithmetic", "2 + 2 = 4 and 3 * 3 = 10", None, 0.5),
        ("arithmetic", "nothing shown", None, None),
        ("tests.scorers.test_verifiers:always_half", "x", None, 0.5),
    ],
)
def test_verdicts(name: str, answer: str, reference: str | None, expected: float | None) -> None:
    assert find_verifier(name).check(answer, reference) == expected


def test_those_with_a_reference_say_nothing_without_one() -> None:
    for name in verifier_names():
        verifier = find_verifier(name)
        if verifier.needs_reference:
            assert verifier.check("42", None) is None


def test_unknown_names_list_what_there_is_and_no_name_is_taken_twice() -> None:
    with pytest.raises(UnknownVerifier, match="no verifier 'vibes'; there are: exact, numeric, choice"):
        find_verifier("vibes")
    with pytest.raises(UnknownVerifier, match="cannot be imported: No module named 'no_such'"):
        find_verifier("no_such:check")
    with pytest.raises(ValueError, match="verifier 'exact' is registered already"):
        register("exact", needs_reference=True)(always_half)
