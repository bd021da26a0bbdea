"""The response evaluator: BERT on `prompt [SEP] response` and a custom head fused with cheap features.

    text  = gelu(T [ln(mean) ; ln(first)] + t)
    other = gelu(F standardised features + f)
    logit = o . [text ; other] + o0

Additive fusion: the halves meet only in the last layer. The feature half is fitted first, over every row and
in seconds, and the text half starts silent: what fine-tuning adds comes on top of what arithmetic and
log-probabilities already say, however few steps the budget leaves it. In training the text half is dropped
now and then (`text_drop`), which keeps an encoder that has learnt its few hundred prompts by heart from
silencing the features; on new prompts those carry over best. The log-probability block is dropped too,
since many backends give none.

`outputs=1` is a scalar head with binary cross-entropy, `outputs=2` a softmax over (inadequate, adequate);
their
log-odds are the same kind of number and serving treats them alike. Outputs are raw: calibration is a later
stage, fitted on prompts that this model has not seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from scorers.features import LOGPROB_BLOCK, N_FEATURES
from scorers.torch.encoder import TextEncoder

FEATURE_BOUND = 5.0


class Evaluator(nn.Module):
    """Log-odds of adequate, shape (B,)."""

    def __init__(
        self,
        encoder: TextEncoder,
        text_units: int = 48,
        feature_units: int = 48,
        outputs: int = 1,
        dropout: float = 0.1,
        text_drop: float = 0.15,
        logprob_drop: float = 0.1,
    ) -> None:
        super().__init__()
        if outputs not in (1, 2):
            raise ValueError(f"outputs is {outputs}; 1 (scalar) or 2 (softmax)")
        d = encoder.folder.dimension
        self.encoder = encoder
        self.norm = nn.LayerNorm(d, elementwise_affine=False)
        self.text = nn.Linear(2 * d, text_units)
        self.feature = nn.Linear(N_FEATURES, feature_units)
        self.out = nn.Linear(text_units + feature_units, outputs)
        with torch.no_grad():  # the text half says nothing until it has learnt something
            self.out.weight[:, :text_units] = 0.0
        self.dropout = nn.Dropout(dropout)
        self.text_drop, self.logprob_drop = text_drop, logprob_drop
        self.center: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("center", torch.zeros(N_FEATURES))
        self.register_buffer("scale", torch.ones(N_FEATURES))

    def fit_standardiser(self, features: np.ndarray) -> None:
        """Centre and scale by the training rows (N, N_FEATURES), log-probabilities by the rows that have
        them."""
        center, scale = features.mean(0), features.std(0)
        present = features[features[:, LOGPROB_BLOCK.start] < 0.5]
        if len(present):
            center[LOGPROB_BLOCK], scale[LOGPROB_BLOCK] = (
                present[:, LOGPROB_BLOCK].mean(0),
                present[:, LOGPROB_BLOCK].std(0),
            )
        scale[scale < 1e-3] = 1.0  # a feature that never moves stays where it is
        self.center.copy_(torch.from_numpy(center))
        self.scale.copy_(torch.from_numpy(scale))

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        mean, first = self.encoder(ids, mask, type_ids)
        return self._fuse(self._read_text(mean, first), features)

    def from_features(self, features: torch.Tensor) -> torch.Tensor:
        """Log-odds by the features alone, the text half silent: thousands of rows a second."""
        return self._fuse(features.new_zeros(len(features), self.text.out_features), features)

    def add_to_log_odds(self, offset: float) -> None:
        """Shift every answer's log-odds, as for a model whose answers are seldom right."""
        with torch.no_grad():
            self.out.bias[-1] += offset  # of two classes the second is *adequate*

    def _read_text(self, mean: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.norm(mean), self.norm(first)], dim=1)  # (B, 2 d)
        text = nn.functional.gelu(self.text(self.dropout(both)))
        if self.training and self.text_drop:
            text = text * (torch.rand(len(text), 1, device=text.device) >= self.text_drop)
        return text

    def _fuse(self, text: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        other = nn.functional.gelu(self.feature(self._standardise(features)))
        out = self.out(torch.cat([self.dropout(text), self.dropout(other)], dim=1))
        logits: torch.Tensor = out[:, 0] if out.shape[1] == 1 else out[:, 1] - out[:, 0]
        return logits

    def _standardise(self, features: torch.Tensor) -> torch.Tensor:
        values = ((features - self.center) / self.scale).clamp(-FEATURE_BOUND, FEATURE_BOUND)
        indicator = LOGPROB_BLOCK.start
        missing = features[:, indicator] > 0.5
        if self.training and self.logprob_drop:
            missing = missing | (torch.rand(len(features), device=features.device) < self.logprob_drop)
        kept = (~missing).unsqueeze(1).to(values.dtype)
        block = values[:, LOGPROB_BLOCK] * kept
        block = torch.cat([missing.unsqueeze(1).to(values.dtype), block[:, 1:]], dim=1)
        return torch.cat([values[:, :indicator], block], dim=1)

    def export(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
        """(head and adapter tensors, encoder weights or None), as the bundle holds them."""
        tensors, weights = self.encoder.export()
        head = {
            "feature.center": self.center,
            "feature.scale": self.scale,
            "text.weight": self.text.weight,
            "text.bias": self.text.bias,
            "feature.weight": self.feature.weight,
            "feature.bias": self.feature.bias,
            "out.weight": self.out.weight,
            "out.bias": self.out.bias,
        }
        tensors.update({name: value.detach().cpu().numpy() for name, value in head.items()})
        return tensors, weights
