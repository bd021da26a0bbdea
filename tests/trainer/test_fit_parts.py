"""The loop, the data set, the budget and the embedding cache, each by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from routing.errors import ExamplesError
from scorers.runtime.heads import ScorerFile
from scorers.runtime.mf import MatrixFactorisation as FoldedMf
from scorers.tokenizer import TokenIds
from trainer.budget import plan_run
from trainer.conditions import Conditions
from trainer.dataset import LengthBucketSampler, TokenRows
from trainer.embeddings import CachedEmbedder
from trainer.fit_difficulty import _try_shares
from trainer.fit_mf import Outcomes, fit_mf, standardiser
from trainer.loop import LoopSettings, train


class Line(nn.Module):
    """y = w x, from w = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


BATCHES = [torch.tensor([[1.0], [2.0]]) for _ in range(20)]


def fit_line(model: Line, **settings: object) -> object:
    chosen = LoopSettings(head_lr=0.1, weight_decay=0.0, **settings)  # type: ignore[arg-type]
    return train(model, BATCHES, line_loss, lambda: float(line_loss(model, BATCHES[0])), chosen)


def line_loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return ((model(x) - 3 * x) ** 2).mean()


def test_the_loop_learns_and_ends_in_its_best_state() -> None:
    model = Line()
    log = fit_line(model, max_epochs=10, patience=99)
    assert log.best == min(log.validation) < 0.05
    assert abs(model.head.weight.item() - 3) < 0.2
    assert not model.training


def test_patience_ends_a_run_and_brings_the_best_back() -> None:
    model = Line()
    scores = iter([1.0, 0.5, 0.9, 0.8, 0.7, 0.6])
    log = train(
        model, BATCHES, line_loss, lambda: next(scores),
        LoopSettings(max_epochs=5, patience=2, head_lr=0.1),
    )  # fmt: skip
    assert log.stopped_by == "patience"
    assert (log.best, log.best_step, log.steps) == (0.5, 20, 60)


def test_deadline_ends_a_run_early_and_says_so() -> None:
    model = Line()
    log = train(
        model, BATCHES, line_loss, lambda: 1.0,
        LoopSettings(max_epochs=50), conditions=Conditions(deadline_s=time.monotonic() - 1),
    )  # fmt: skip
    assert (log.steps, log.stopped_by) == (1, "deadline")


def test_ctrl_c_passes_through() -> None:
    def interrupt(stage: str, done: int, total: int, detail: str = "") -> None:
        if done == 3:
            raise KeyboardInterrupt

    model, conditions = Line(), Conditions(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(model, BATCHES, line_loss, lambda: 1.0, LoopSettings(), conditions=conditions)


def test_buckets_are_random_reproducible_and_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 400)
    first, again = (list(LengthBucketSampler(lengths, 16, seed=1)) for _ in range(2))
    assert first == again
    assert sorted(row for batch in first for row in batch) == list(range(400))
    sampler = LengthBucketSampler(lengths, 16, seed=1)
    assert list(sampler) == list(sampler)  # the epoch is set from outside
    sampler.set_epoch(1)
    assert list(sampler) != first
    padded = sum(len(batch) * max(lengths[batch]) for batch in first)
    assert padded < 1.25 * lengths.sum()


def token_rows(n: int, length: int) -> TokenRows:
    ids = np.zeros(length, dtype=np.int64)
    return TokenRows([TokenIds(ids, ids)] * n, np.zeros((n, 1)))


def test_budget_gives_epochs_then_samples_rows_by_seed() -> None:
    generous = plan_run(token_rows(100, 50), 10_000_000, minutes=30, max_epochs=3, seed=0)
    assert (len(generous.rows), generous.epochs) == (100, 3)
    tight = plan_run(token_rows(4000, 100), 10_000_000, minutes=2, max_epochs=3, seed=0)
    assert tight.epochs == 1
    assert 100 < len(tight.rows) < 2000
    assert tight.to_dict()["rows_of"] == 4000
    again = plan_run(token_rows(4000, 100), 10_000_000, minutes=2, max_epochs=3, seed=0)
    np.testing.assert_array_equal(tight.rows, again.rows)


class CountingEmbedder:
    """A text's length and its first letter, and which texts were asked for."""

    dimension = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail_after = 10**9

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if len(self.asked) + len(texts) > self.fail_after:
            raise ConnectionError("gone")
        self.asked.extend(texts)
        return np.array([[len(t), ord(t[0])] for t in texts], dtype=np.float32)


def test_a_text_is_embedded_once_whatever_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.embeddings.BATCH_ROWS", 2)
    embedder = CountingEmbedder()
    embedder.fail_after = 4
    texts = ["a", "bb", "ccc", "dddd", "eeeee", "a"]
    with pytest.raises(ConnectionError):
        CachedEmbedder(embedder, tmp_path, "enc/1").embed(texts)
    embedder.fail_after = 10**9
    vectors = CachedEmbedder(embedder, tmp_path, "enc/1").embed(texts)
    assert embedder.asked == ["a", "bb", "ccc", "dddd", "eeeee"]
    assert vectors[:, 0].tolist() == [1, 2, 3, 4, 5, 1]
    CachedEmbedder(embedder, tmp_path, "enc/2").embed(["a"])
    assert embedder.asked[-1] == "a"  # another encoder, another cache


def test_a_vector_without_its_key_is_overwritten(tmp_path: Path) -> None:
    embedder = CountingEmbedder()
    CachedEmbedder(embedder, tmp_path, "e").embed(["a", "bb"])
    (keys,) = tmp_path.glob("*/keys.txt")
    keys.write_text(keys.read_text()[:80])  # killed in the middle of the second key
    vectors = CachedEmbedder(embedder, tmp_path, "e").embed(["ccc", "bb", "a"])
    assert vectors[:, 0].tolist() == [3, 2, 1]
    assert embedder.asked == ["a", "bb", "bb", "ccc"]


@pytest.mark.parametrize("form", ["correctness", "pairwise"])
def test_mf_finds_who_is_good_at_what(form: str) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hard = vectors[:, 0] > 0
    quality = np.stack([~hard, np.ones(300, bool)], axis=1).astype(
        float
    )  # weak fails on the hard, strong never

    if form == "pairwise":  # someone must win on easy prompts too
        quality[~hard] = [1.0, 0.0]
    fitted = fit_mf(Outcomes(vectors[:250], quality[:250]), (0, 1), form)
    assert fitted.form == form
    test = torch.from_numpy(vectors[250:])
    with torch.no_grad():
        weak, strong = (fitted.model(torch.full((50,), m), test).numpy() for m in (0, 1))
    ranked = strong - weak
    assert ranked[hard[250:]].mean() > ranked[~hard[250:]].mean() + 1
    assert ((ranked > np.median(ranked)) == hard[250:]).mean() > 0.8


def noisy_outcomes(n: int, signal: float) -> Outcomes:
    """Two models over 12 dimensions; the first says where strong is ahead, as far as `signal` goes."""
    random = np.random.default_rng(3)
    vectors = random.normal(size=(n, 12)).astype(np.float32)
    chance = 1 / (1 + np.exp(-np.stack([-signal * vectors[:, 0], signal * vectors[:, 0]], axis=1)))
    return Outcomes(vectors, (random.random((n, 2)) < chance).astype(float))


def test_mf_trusts_noise_less_than_signal_and_twice_alike() -> None:
    clear, noise = (fit_mf(noisy_outcomes(400, signal), (0, 1), "correctness") for signal in (2.0, 0.0))
    assert clear.penalty <= 0.1
    assert noise.penalty >= 3.0
    again = fit_mf(noisy_outcomes(400, 2.0), (0, 1), "correctness")
    for name, value in clear.model.export().items():
        np.testing.assert_array_equal(value, again.model.export()[name])


def test_mf_keeps_the_correctness_form_unless_the_other_is_clearly_better() -> None:
    fitted = fit_mf(noisy_outcomes(300, 1.0), (0, 1))
    assert fitted.form == "correctness"
    assert {name.split()[0] for name in fitted.tried} == {"correctness", "pairwise"}


def test_mf_learns_from_other_models_and_gaps() -> None:
    outcomes = noisy_outcomes(300, 2.0)
    twin = outcomes.quality[:, :1].copy()  # a third model just like the first
    holed = np.concatenate([outcomes.quality, twin], axis=1)
    holed[::3, 0] = np.nan
    fitted = fit_mf(Outcomes(outcomes.vectors, holed), (0, 1), "correctness")
    with torch.no_grad():
        scores = fitted.model.score_table(torch.from_numpy(outcomes.vectors)).numpy()
    assert np.corrcoef(scores[:, 0], -outcomes.vectors[:, 0])[0, 1] > 0.9
    assert np.corrcoef(scores[:, 0], scores[:, 2])[0, 1] > 0.95


def test_mf_without_a_prompt_that_both_answered_says_so() -> None:
    outcomes = noisy_outcomes(20, 1.0)
    outcomes.quality[::2, 0], outcomes.quality[1::2, 1] = np.nan, np.nan
    with pytest.raises(ExamplesError, match="0 prompts with outcomes of both models"):
        fit_mf(outcomes, (0, 1))


def test_export_folds_the_standardisation_in() -> None:
    outcomes = noisy_outcomes(200, 1.0)
    outcomes = Outcomes(outcomes.vectors * 3 + 1, outcomes.quality)
    model = fit_mf(outcomes, (0, 1), "correctness", blocks=((8, 1.0, False), (4, 0.5, True))).model
    served = FoldedMf.read(ScorerFile(Path("mf"), model.export(), {}), ["w", "s"], ["w", "s"], "correctness")
    with torch.no_grad():
        wanted = model.score_table(torch.from_numpy(outcomes.vectors)).numpy()
    np.testing.assert_allclose(served.logits(outcomes.vectors), wanted, atol=1e-4)
    assert np.ptp(wanted) > 0.5


def test_standardiser_keeps_a_vectors_shape_and_levels_features() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(500, 5)) * [1, 2, 10, 100, 0] + 7
    inputs = standardiser(table, ((2, 1.0, False), (3, 0.5, True)))
    x = (table - inputs.centre) * inputs.scale
    assert x[:, 1].std() / x[:, 0].std() == pytest.approx(2, rel=0.2)  # its directions keep their weight
    np.testing.assert_allclose(x[:, 2:4].std(axis=0), 0.5, rtol=1e-6)
    assert np.abs(x[:, 4]).max() == 0.0  # a feature that never moves
    with pytest.raises(ValueError, match="do not add up to 5 columns"):
        standardiser(table, ((2, 1.0, False),))


def test_frozen_probes_get_a_share_where_the_two_err_differently() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 20)
    right = 4 * targets - 2
    noise = torch.from_numpy(np.random.default_rng(0).normal(scale=4, size=(2, 40, 2)))
    tried = _try_shares(right + noise[0], targets.double(), right + noise[1])
    assert min(tried, key=lambda share: tried[share]) == 0.5
    assert list(_try_shares(right, targets, None)) == [0.0]
