"""Heads on beginnings: what they learn, and that what is served is what was fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from scorers.encoders import resolve_encoder
from scorers.errors import ScorerFileError
from scorers.features import features_of
from scorers.runtime.heads import read_scorer_file
from scorers.runtime.kernel import KernelReading
from scorers.runtime.prefix_reader import PrefixHeads, PrefixReader
from scorers.runtime.session import EncoderSession
from scorers.runtime.stack import N_COLUMNS, AnswerStack
from trainer.examples import Example
from trainer.fit_prefixes import LEAST_ROWS, fit_prefix_heads
from trainer.fit_stack import FittedStack
from trainer.fit_trees import fit_trees
from trainer.prefixes import cut_answer

WEAK = "tiny-weak"


def example(number: int, sure: bool) -> Example:
    """An answer of some forty tokens; one that will be wrong hedges from the start."""
    begin = "It is clear that" if sure else "Perhaps it is not sure, but maybe"
    text = (
        f"{begin} {number} apples and {number + 3} pears make {2 * number + 3} pieces of fruit"
        + " in all" * 12
    )
    return Example(
        f"{number:016x}", f"How many are {number} and {number + 3}?", WEAK, float(sure), response=text
    )


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    random = np.random.default_rng(0)
    return [example(number, bool(random.random() < 0.5)) for number in range(2 * LEAST_ROWS)]


@pytest.fixture(scope="module")
def fitted(rows: list[Example]) -> FittedStack:
    """A stack whose verdicts of the whole are known, and whose prompt heads say nothing."""
    nothing = np.zeros(N_COLUMNS)
    dimension = resolve_encoder("minilm").dimension
    kernel = KernelReading(nothing, nothing, np.zeros((0, N_COLUMNS)), np.zeros(0), 1.0, 0)
    stack = AnswerStack(
        np.zeros((3, dimension)), np.zeros(3), fit_trees(np.zeros((20, 2)), np.ones(20), np.ones(20), 0),
        nothing, nothing + 1.0, nothing, kernel, np.zeros(4), 0.0,
    )  # fmt: skip
    unseen = {at: 3.0 * row.quality - 1.5 for at, row in enumerate(rows)}
    order = {row.prompt_id: at for at, row in enumerate(rows)}
    return FittedStack(stack, {}, len(rows), unseen, {}, order, np.zeros((len(rows), 3)))


@pytest.fixture(scope="module")
def heads(rows: list[Example], fitted: FittedStack) -> PrefixHeads:
    found = fit_prefix_heads(rows, WEAK, fitted, seed=0)
    assert found is not None
    return found


def test_a_beginning_foretells_the_whole(
    rows: list[Example], fitted: FittedStack, heads: PrefixHeads
) -> None:
    reader = PrefixReader(
        EncoderSession(resolve_encoder("minilm"), 32, threads=1, lower_half=True), fitted.stack, heads
    )
    assert reader.lengths[0] == 4
    assert 32 in reader.lengths
    assert 512 not in reader.lengths, "no answer is as long"
    pairs = [(row.prompt, cut_answer(row, 16)) for row in rows[:12]]
    read = reader.logits(pairs, features_of(pairs))
    assert ((read > 0) == [row.quality > 0.5 for row in rows[:12]]).all()
    again = reader.logits(pairs[:3], features_of(pairs[:3]))  # its prompts are kept
    np.testing.assert_allclose(again, read[:3], atol=1e-6)


def test_heads_are_read_back(heads: PrefixHeads, tmp_path: Path) -> None:
    save_file(heads.tensors(), tmp_path / "h.safetensors")
    read = PrefixHeads.read(read_scorer_file(tmp_path / "h.safetensors"))
    assert read is not None
    random = np.random.default_rng(0)
    columns = heads.center[-1] + random.normal(size=(20, heads.center.shape[1])) * heads.scale[-1]
    tokens = random.integers(1, 100, 20)
    np.testing.assert_allclose(read.logits(columns, tokens), heads.logits(columns, tokens), atol=1e-3)
    save_file({"prefixes.tokens": np.ones(2, dtype=np.float32)}, tmp_path / "bad.safetensors")
    with pytest.raises(ScorerFileError, match=r"prefixes\.center"):
        PrefixHeads.read(read_scorer_file(tmp_path / "bad.safetensors"))
    save_file({"other": np.ones(2, dtype=np.float32)}, tmp_path / "none.safetensors")
    assert PrefixHeads.read(read_scorer_file(tmp_path / "none.safetensors")) is None


def test_the_last_length_that_is_reached_reads() -> None:
    c = 3
    weight = np.zeros((2, c))
    heads = PrefixHeads(np.array([8, 16]), weight, weight + 1.0, weight, np.array([1.0, 2.0]))
    assert heads.logits(np.zeros((4, c)), np.array([4, 8, 15, 40])).tolist() == [1.0, 1.0, 1.0, 2.0]


def test_too_few_answers_give_no_heads(rows: list[Example], fitted: FittedStack) -> None:
    few = replace(fitted, unseen=dict(list(fitted.unseen.items())[: LEAST_ROWS - 1]))
    assert fit_prefix_heads(rows, WEAK, few, seed=0) is None
