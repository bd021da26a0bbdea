"""Matrix factorisation over (model, prompt), RouteLLM's scoring (Ong et al., 2024, section 4.2) in two forms.

Why the name: write a table with a row for every model and a column for every prompt, adequate or not in each
cell, most cells empty. Taken to be of rank k it is V diag(w2) X, the models' vectors V (M, k) times the
prompts' vectors X (k, N), as films are recommended. But prompts are new each time, so X is not learnt column
by column: it is computed from the prompt's embedding, x_q = W1 v_q + b. Only models keep vectors of their
own.

Pairwise, as RouteLLM trains it:

    delta(m, q) = w2 . (v_m * (W1 v_q + b)),   P(strong wins) = sigmoid(delta(strong, q) - delta(weak, q))

Why Hadamard and then linear: v_m * x then w2 is a bilinear form v_m^T diag(w2) (W1 v_q + b); the prompt is
projected into the models' space, the model's vector says how much each direction of it counts, and w2 scales
the directions (it adds no power, it could be folded into v_m).

For one fixed pair it is a linear probe: delta(s) - delta(w) = [(w2 * (v_s - v_w)) W1] . v_q +
(w2 * (v_s - v_w)) . b. The first bracket is one vector, so factors buy nothing there but regularisation; the
intercept is there only if b is kept (the paper has b, RouteLLM's code has not): without b, P = 1/2 at the
origin and the base rate must be bought with a direction of v_q. Ties say nothing of who wins and are
dropped, so a prompt that both fail or both solve is never seen, and its score is whatever its
neighbours say: high where both fail.

Correctness, our default:

    s(m, q) = w2 . (v_m * (W1 v_q + b)) + a_m + u . v_q + c,   P(m adequate | q) = sigmoid(s)

What it adds: every model of the table and every tie teaches (binary cross-entropy on quality in 0..1);
u . v_q + c is how hard the prompt is for anyone, a_m how good the model is anywhere, and the product what is
left, who is good at what. Two probabilities come out instead of one preference, so prompts can be ranked by
the gain sigmoid(s_strong) - sigmoid(s_weak), which is small where both fail. For one fixed model it is a
linear probe too, p_m = (w2 * v_m) W1 + u with an intercept: with two models, two logistic regressions that
share what they have in common through u.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

FORMS = ("correctness", "pairwise")


class MatrixFactorisation(nn.Module):
    """Vectors for M models over query vectors of dimension d, rank k.

    Inputs are standardised inside, x = (v_q - centre) * scale, so that one penalty fits all coordinates;
    `export` folds that into W1, u and the intercepts.
    """

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, n_models: int, dimension: int, rank: int = 32, form: str = "correctness", bias: bool = True
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form {form!r} is unknown; there are: {', '.join(FORMS)}")
        self.form = form
        self.register_buffer("centre", torch.zeros(dimension))
        self.register_buffer("scale", torch.full((dimension,), dimension**0.5))
        self.v = nn.Embedding(n_models, rank)
        self.W1 = nn.Linear(dimension, rank, bias=bias)
        self.w2 = nn.Parameter(torch.ones(rank))
        nn.init.normal_(self.v.weight)
        nn.init.normal_(self.W1.weight, std=1.0 / dimension)
        self.a = nn.Embedding(n_models, 1)
        self.u = nn.Linear(dimension, 1)  # its bias is c
        for parameter in (self.a.weight, self.u.weight, self.u.bias):
            nn.init.zeros_(parameter)
        if form == "pairwise":  # RouteLLM's form has none of the three
            for parameter in (self.a.weight, self.u.weight, self.u.bias):
                parameter.requires_grad_(False)

    def standardise(self, centre: np.ndarray, scale: np.ndarray) -> None:
        """Set the input's centre and scale, both (d,). Without a bias a centre would be one, so it stays
        0."""
        if self.W1.bias is not None:
            self.centre.copy_(torch.from_numpy(np.asarray(centre, np.float32)))
        self.scale.copy_(torch.from_numpy(np.asarray(scale, np.float32)))

    def forward(self, model: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """s(m, q) for models (B,) int64 and query vectors (B, d): shape (B,)."""
        x = (query - self.centre) * self.scale
        product = (self.v(model) * self.W1(x)) @ self.w2
        return product + self.a(model)[:, 0] + self.u(x)[:, 0]

    def score_table(self, query: torch.Tensor) -> torch.Tensor:
        """s(m, q) of every model for query vectors (B, d): shape (B, M), the same numbers in one product."""
        x = (query - self.centre) * self.scale
        return (self.W1(x) * self.w2) @ self.v.weight.T + self.a.weight[:, 0] + self.u(x)

    def penalty(self) -> torch.Tensor:
        """Sum of squares of the probes that the factors make, a mean over models, plus the shared probe's.

        On the product and not on its factors: squares of factors add up to the nuclear norm (Srebro et al.,
        2005), which would take the difference between two models away first, and that is the signal.
        """
        probes = (self.v.weight * self.w2) @ self.W1.weight  # (M, d)
        return (probes**2).sum(1).mean() + (self.u.weight**2).sum()

    def export(self) -> dict[str, np.ndarray]:
        """Tensors as the bundle holds them, float32: v (M, k), W1 (k, d), b (k,), w2 (k,), a (M,), u
        (d,), c ()."""
        with torch.no_grad():
            W1, u = self.W1.weight * self.scale, self.u.weight[0] * self.scale
            bias = self.W1.bias if self.W1.bias is not None else torch.zeros_like(self.w2)
            tensors = {
                "v": self.v.weight,
                "W1": W1,
                "b": bias - W1 @ self.centre,
                "w2": self.w2,
                "a": self.a.weight[:, 0],
                "u": u,
                "c": self.u.bias[0] - u @ self.centre,
            }
        return {name: value.detach().cpu().numpy().astype(np.float32) for name, value in tensors.items()}
