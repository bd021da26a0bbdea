"""The kernel machine is the ridge regression it says it is; the teacher knows what only references tell."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import roc_auc_score

from scorers.features import features_of
from scorers.prompt_features import features_of_prompts
from scorers.runtime.kernel import similarity
from trainer.examples import Example
from trainer.fit_kernel import KernelFit
from trainer.fit_teacher import teach
from trainer.prefixes import answer_of


def test_it_is_weighted_kernel_ridge_regression() -> None:
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(60, 11)), random.uniform(0.2, 1.0, 60)
    target = random.random(60)
    fit = KernelFit.of(x, weight, vectors=8)
    machine = fit.solve(target, ridge=0.7)
    gram = similarity(machine.rows, machine.rows, machine.gamma)
    above = target - np.average(target, weights=weight)
    theirs = KernelRidge(alpha=0.7, kernel="precomputed").fit(gram, above, sample_weight=weight)
    np.testing.assert_allclose(machine.alpha, theirs.dual_coef_, atol=1e-5)
    np.testing.assert_allclose(machine.read_answers(x), theirs.predict(gram), atol=2e-2)  # half precision
    assert machine.silenced().read_answers(x).tolist() == [0.0] * 60


def test_it_learns_what_depends_on_prompt_and_answer_together() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(600, 8))
    right = (x[:, 0] * x[:, 4] > 0).astype(np.float64)  # a column of the prompt's vector, one of the answer's
    machine = KernelFit.of(x[:400], np.ones(400), vectors=8).solve(right[:400], ridge=1.0)
    assert roc_auc_score(right[400:], machine.read_answers(x[400:])) > 0.8


def rows_beside_references(n: int, reference: bool = True) -> list[Example]:
    """An answer is good where it is longer than the reference, which nothing else tells."""
    random = np.random.default_rng(2)
    rows = []
    for at in range(n):
        length, wanted = (int(k) for k in random.integers(5, 60, 2))
        rows.append(
            Example(
                prompt_id=f"{at:016x}",
                prompt=f"Tell me about number {at}",
                model="weak",
                response="word " * length,
                quality=float(length > wanted),
                judge="length",
                reference="term " * wanted if reference else None,
            )
        )
    return rows


@pytest.mark.parametrize("reference", [True, False])
def test_the_teacher_needs_references_and_uses_them(reference: bool) -> None:
    rows = rows_beside_references(400, reference)
    y = np.array([row.quality for row in rows])
    opinion = teach(
        rows,
        features_of([(row.prompt, answer_of(row)) for row in rows]),
        features_of_prompts([row.prompt for row in rows]),
        y,
        np.ones(len(rows)),
        np.arange(len(rows)) % 5,
        seed=0,
    )
    if reference:
        assert opinion is not None
        assert roc_auc_score(y, opinion) > 0.95
    else:
        assert opinion is None
