"""The difficulty classifier: a fine-tuned encoder that reads the prompt and tells both tiers' chances.

Two heads (default), P(weak right) and P(strong right), trained on both models' outcomes and ranked by their
difference. One head, P(strong should answer), is the option: on MMLU it ranked at .572 APGR where the
two-head gain had .726, because it also sends up what both models fail.

The head is linear on the unit-length mean vector, the very input of the matrix factorisation, and starts
from its probes: first probe, then fine-tune (Kumar et al., 2022), so that the encoder is never bent to
serve a random head.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from scorers.torch.encoder import TextEncoder


class DifficultyClassifier(nn.Module):
    """Logits (B, outputs); outputs is 2 (weak, strong) or 1 (strong should answer)."""

    def __init__(self, encoder: TextEncoder, outputs: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if outputs not in (1, 2):
            raise ValueError(f"outputs is {outputs}; 2 (both tiers' chances) or 1 (strong should answer)")
        self.encoder = encoder
        self.input_scale = math.sqrt(encoder.folder.dimension)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.folder.dimension, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def start_from(self, probes: np.ndarray, intercepts: np.ndarray) -> None:
        """Begin at linear probes (outputs, d) and intercepts (outputs,) over unit vectors."""
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(np.asarray(probes, np.float32)) / self.input_scale)
            self.head.bias.copy_(torch.from_numpy(np.asarray(intercepts, np.float32)))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor) -> torch.Tensor:
        mean, _ = self.encoder(ids, mask, type_ids)
        unit = nn.functional.normalize(mean, dim=1) * self.input_scale
        logits: torch.Tensor = self.head(self.dropout(unit))
        return logits

    def export(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
        """(head and adapter tensors, encoder weights or None), as the bundle holds them."""
        tensors, weights = self.encoder.export()
        tensors["head.weight"] = (self.head.weight * self.input_scale).detach().cpu().numpy()
        tensors["head.bias"] = self.head.bias.detach().cpu().numpy()
        return tensors, weights
