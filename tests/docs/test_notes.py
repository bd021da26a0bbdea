"""The formulas of the notes, held against the code they are about."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from routing.calibration import EPSILON, fit_map
from routing.reliability import ece
from scorers.features import N_FEATURES
from scorers.runtime.heads import ScorerFile
from scorers.runtime.mf import MatrixFactorisation as ServedFactorisation
from scorers.runtime.stack import READINGS
from scorers.torch.matrix_factorisation import MatrixFactorisation
from tests.docs.documents import ROOT
from tests.docs.markdown import symbols
from trainer.fit_kernel import KernelFit
from trainer.fit_mf import table_loss
from trainer.loop import LoopSettings, train

NOTES = sorted((ROOT / "docs" / "notes").glob("*.md"))
M, D, K, N = 3, 6, 4, 40  # models, dimension, rank, prompts


def _factorised(form: str = "correctness", bias: bool = True) -> MatrixFactorisation:
    torch.manual_seed(3)
    model = MatrixFactorisation(M, D, K, form, bias)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    model.standardise(np.linspace(-1.0, 1.0, D), np.linspace(0.5, 2.0, D))
    return model


def _file(tensors: dict[str, np.ndarray]) -> ScorerFile:
    return ScorerFile(ROOT / "mf.safetensors", tensors, {})


@pytest.fixture
def queries() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("note", NOTES, ids=lambda n: n.stem)
def test_every_note_names_the_code_it_is_about(note: Path) -> None:
    assert len(symbols(note)) >= 2


# matrix-factorisation.md


def test_the_score_is_hadamard_then_linear(queries: torch.Tensor) -> None:
    """s(m, q) = w2 . (v_m * (W1 v_q + b)) + a_m + u . v_q + c, from the tensors of a bundle."""
    model = _factorised()
    t = {name: tensor.astype(np.float64) for name, tensor in model.export().items()}
    v_q = queries.double().numpy()
    served = ServedFactorisation.read(_file(t), list("abc"), list("abc"), "correctness").logits(v_q)
    for m in range(M):
        s = (t["v"][m] * (v_q @ t["W1"].T + t["b"])) @ t["w2"] + t["a"][m] + v_q @ t["u"] + t["c"]
        index = torch.full((N,), m)
        assert np.allclose(model(index, queries).detach().numpy(), s, atol=1e-4)
        assert np.allclose(model.score_table(queries)[:, m].detach().numpy(), s, atol=1e-4)
        assert np.allclose(served[:, m], s, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False], ids=["with b", "without b"])
def test_one_pair_is_a_linear_probe(queries: torch.Tensor, bias: bool) -> None:
    """delta(s) - delta(w) = ((w2 * (v_s - v_w)) W1) . v_q + (w2 * (v_s - v_w)) . b."""
    model = _factorised("pairwise", bias)
    t = model.export()
    weak, strong = torch.zeros(N, dtype=torch.long), torch.full((N,), 2)
    difference = (model(strong, queries) - model(weak, queries)).detach().numpy()
    between = t["w2"] * (t["v"][2] - t["v"][0])
    assert np.allclose(difference, queries.numpy() @ (between @ t["W1"]) + between @ t["b"], atol=1e-4)
    at_origin = torch.zeros(1, D)
    same = (model(strong[:1], at_origin) - model(weak[:1], at_origin)).item()
    assert (abs(same) < 1e-6) == (not bias), "without b the origin gets exactly one half"


def test_one_model_is_a_linear_probe_in_the_correctness_form(queries: torch.Tensor) -> None:
    t = _factorised().export()
    probe, intercept = (t["w2"] * t["v"][1]) @ t["W1"] + t["u"], (t["w2"] * t["v"][1]) @ t["b"] + t["a"][1]
    served = ServedFactorisation.read(_file(t), list("abc"), ["b"], "correctness")
    assert np.allclose(served.probes[0], probe, atol=1e-5)
    assert np.allclose(served.intercepts[0], intercept + t["c"], atol=1e-5)


def test_ties_teach_the_correctness_form_and_not_the_pairwise(queries: torch.Tensor) -> None:
    tied = torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.5, 1.0]]).repeat(N // 2, 1)
    for form, teaches in (("correctness", True), ("pairwise", False)):
        model = _factorised(form)
        won = torch.cat([tied[:-1], torch.tensor([[0.0, 0.5, 1.0]])])  # one win, or there is no mean
        table_loss(model, queries, won, (0, 2)).backward()
        alone = model.v.weight.grad.clone()
        model.zero_grad()
        table_loss(model, queries[-1:], won[-1:], (0, 2)).backward()
        assert torch.allclose(alone, model.v.weight.grad, atol=1e-5) == (not teaches)


# loss.md


def test_cross_entropy_is_the_log_likelihood(queries: torch.Tensor) -> None:
    """Mean of -y log p - (1 - y) log(1 - p) over the cells that are known, soft labels as they are."""
    model = _factorised()
    quality = torch.rand(N, M, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    quality[::7, 1] = float("nan")  # not asked
    known = ~torch.isnan(quality)
    s, y = model.score_table(queries).detach()[known], quality[known]
    p = torch.sigmoid(s.double())
    likelihood = (y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert float(table_loss(model, queries, quality, (0, 2)).detach()) == pytest.approx(
        -float(likelihood), abs=1e-5
    )
    rows = binary_cross_entropy_with_logits(s.double(), y.double(), reduction="none")
    assert torch.allclose(rows, softplus(s.double()) - y * s)


def test_the_loss_is_least_at_the_true_probability() -> None:
    true, said = 0.3, torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = -true * said.log() - (1 - true) * (1 - said).log()
    assert float(said[expected.argmin()]) == pytest.approx(true)


def test_a_map_of_temperature_is_at_its_optimum() -> None:
    """d/dT of the log loss is 0 where p = sigmoid(logit / T), and its intercept is 0."""
    rng = np.random.default_rng(0)
    logit = rng.normal(0.0, 3.0, 4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-logit / 2.0))).astype(float)  # twice too sure
    fitted = fit_map(np.clip(1 / (1 + np.exp(-logit)), EPSILON, 1 - EPSILON), y, "temperature")
    assert fitted.intercept == 0.0
    assert 1 / fitted.slope == pytest.approx(2.0, rel=0.1)
    p = 1 / (1 + np.exp(-fitted.slope * logit))
    assert abs(float((logit * (p - y)).sum())) < 1.0  # the ridge is one thousandth of an observation


# evaluator.md


def test_ece_is_the_mean_distance_of_equal_bins() -> None:
    rng = np.random.default_rng(4)
    p = rng.random(300)
    y = (rng.random(300) < p**2).astype(float)
    rows = np.argsort(p, kind="stable").reshape(15, 20)
    expected = np.mean([abs(p[b].mean() - y[b].mean()) for b in rows])
    assert ece(p, y) == pytest.approx(float(expected))


def test_the_note_counts_what_the_evaluator_reads() -> None:
    note = (ROOT / "docs" / "notes" / "evaluator.md").read_text(encoding="utf-8")
    assert f"{N_FEATURES} numbers" in note
    listed = re.search(r"\\cdot \[(.*)\]", note)
    assert listed is not None
    assert [name for name in re.findall(r"[a-z]{5,}", listed[1]) if name in READINGS] == list(READINGS)


def test_the_kernel_is_ridge_regression_solved() -> None:
    """alpha = W^1/2 (W^1/2 K W^1/2 + ridge)^-1 W^1/2 (y - mean), and the reading is the sum over the rows."""
    rng = np.random.default_rng(6)
    n, vectors, features, ridge = 30, 8, 3, 0.4
    x, weight, y = rng.normal(size=(n, vectors + features)), rng.uniform(0.5, 2.0, n), rng.random(n)
    fitted = KernelFit.of(x, weight, vectors)
    machine = fitted.solve(y, ridge)
    rows = machine.rows.astype(np.float64)
    kernel = np.exp(-machine.gamma * ((rows[:, None] - rows[None]) ** 2).sum(axis=-1))
    root = np.diag(np.sqrt(weight))
    above = y - np.average(y, weights=weight)
    alpha = root @ np.linalg.solve(root @ kernel @ root + ridge * np.eye(n), root @ above)
    assert np.allclose(machine.alpha, alpha, atol=1e-5)
    new = rng.normal(size=(5, vectors + features))
    distance = ((machine.scaled(new)[:, None].astype(np.float64) - rows[None]) ** 2).sum(axis=-1)
    assert np.allclose(machine.read_answers(new), np.exp(-machine.gamma * distance) @ alpha, atol=1e-4)


# autograd.md


def test_the_first_link_of_the_chain_is_the_error(queries: torch.Tensor) -> None:
    """dL/ds = (sigmoid(s) - y) / cells, through our own loss."""
    model = _factorised()
    quality = torch.rand(N, M, generator=torch.Generator().manual_seed(5))
    s = model.score_table(queries).detach().requires_grad_()
    model.score_table = lambda _: s  # type: ignore[method-assign]
    table_loss(model, queries, quality, (0, 2)).backward()
    assert torch.allclose(s.grad, (torch.sigmoid(s.detach()) - quality) / quality.numel(), atol=1e-7)


def test_the_loop_adds_a_graph_in_training_and_none_in_validation() -> None:
    model = nn.Linear(2, 1)
    seen: dict[str, set[bool]] = {"training": set(), "validation": set()}
    left: list[bool] = []

    def loss_of(net: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        left.append(any(p.grad is not None for p in net.parameters()))  # zero_grad() of the step before
        loss: torch.Tensor = net(batch).square().mean()
        seen["training"].add(loss.requires_grad)
        return loss

    def validate() -> float:
        loss = model(torch.ones(1, 2)).square().mean()
        seen["validation"].add(loss.requires_grad)
        return float(loss)

    train(model, [torch.ones(4, 2)] * 3, loss_of, validate, LoopSettings(max_epochs=2))
    assert seen == {"training": {True}, "validation": {False}}
    assert left == [False] * len(left)
