"""The scored artifact: validated on the way in, whole on disk."""

from __future__ import annotations

import numpy as np
import pytest

from routing.errors import ExamplesError
from tests.trainer.population import draw_population
from trainer.scored import ScoredPairs, array_names


def make(n=4, **changes) -> ScoredPairs:
    base = {
        "weak": "w",
        "strong": "s",
        "prompt_id": [f"p{i}" for i in range(n)],
        "q_weak": np.zeros(n),
        "q_strong": np.ones(n),
        "prompt_chars": np.ones(n),
    }
    return ScoredPairs(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_weak": [0, 0, 1.5, 0]}, r"'q_weak', row 2 \(prompt_id 'p2'\): 1.5 is not in \[0, 1\]"),
        ({"q_strong": [0, np.nan, 1, 0]}, r"'q_strong', row 1 .*nan is not in"),
        ({"adequate_raw": [0, 0, 0, -1]}, r"'adequate_raw', row 3"),
        ({"gain_raw": [0, np.inf, 0, 0]}, r"'gain_raw', row 1 .*inf is not a finite number"),
        ({"cost_weak": [0, 0, 0, -2]}, r"'cost_weak', row 3 .*not at least 0"),
        ({"q_weak": [0, 0]}, r"must have shape \(4,\); it has \(2,\)"),
        ({"prompt_id": ["a", "b", "a", "c"]}, "'a' stands in more than one row"),
        ({"group": ["x"]}, "4 prompts but 1 groups"),
    ],
)
def test_bad_columns_are_named_with_their_row(changes, message):
    with pytest.raises(ExamplesError, match=message):
        make(**changes)


def test_no_pairs_at_all():
    with pytest.raises(ExamplesError, match="no prompt has answers of both 'w' and 's'"):
        make(0)


def test_save_load_subset(tmp_path):
    scored = draw_population(50)
    path = tmp_path / "scored.safetensors"
    scored.save(path)
    again = ScoredPairs.load(path)
    assert (again.weak, again.strong, again.prompt_id) == (scored.weak, scored.strong, scored.prompt_id)
    for name in array_names():
        assert np.array_equal(getattr(again, name), getattr(scored, name), equal_nan=True)
    some = again.subset([3, 1])
    assert some.prompt_id == [scored.prompt_id[3], scored.prompt_id[1]]
    assert some.q_weak.tolist() == [scored.q_weak[3], scored.q_weak[1]]
    assert len(again.subset(scored.q_weak > 0.5)) == int(scored.q_weak.sum())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x00" * 64])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "scored.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExamplesError, match=r"scored\.safetensors"):
        ScoredPairs.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ExamplesError, match=r"none\.safetensors"):
        ScoredPairs.load(tmp_path / "none.safetensors")
