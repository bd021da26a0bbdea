"""The difficulty classifier: a fine-tuned encoder that reads the prompt and tells both tiers' chances.

Two heads (default), P(weak right) and P(strong right), trained on both models' outcomes and ranked by their
difference. One head, P(strong should answer), is the option: on MMLU it ranked at .572 APGR where the
two-head gain had .726, because it also sends up what both models fail.

The head is linear on last layer, middle layer and prompt features, and starts from the probes of a matrix
factorisation on the latter two: first probe, then fine-tune (Kumar et al., 2022), so that the encoder is
never bent to serve a random head. What the last layer says counts for nothing at the start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from scorers.prompt_features import N_PROMPT_FEATURES
from scorers.torch.encoder import TextEncoder
from scorers.torch.matrix_factorisation import MatrixFactorisation


class DifficultyClassifier(nn.Module):
    """Logits (B, outputs); outputs is 2 (weak, strong) or 1 (strong should answer).

    Its input is D = 2 d + F wide, standardised inside as the matrix factorisation's is.
    """

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, encoder: TextEncoder, outputs: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if outputs not in (1, 2):
            raise ValueError(f"outputs is {outputs}; 2 (both tiers' chances) or 1 (strong should answer)")
        self.encoder = encoder
        width = 2 * encoder.folder.dimension + N_PROMPT_FEATURES
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.frozen_share = 0.0  # of the start's own log-odds in the served ones
        self._start: tuple[torch.Tensor, torch.Tensor] | None = None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def start_from(
        self, start: MatrixFactorisation, pair: tuple[int, int], last: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """Take a factorisation's standardisation and, with two outputs, its probes of (weak, strong). It is
        one on the middle layer and the features; `last` is the last layer's centre and scale, (d,) each."""
        d = self.encoder.folder.dimension
        with torch.no_grad():
            centre, scale = map(torch.from_numpy, last)
            self.centre.copy_(torch.cat((centre, start.centre)))
            self.scale.copy_(torch.cat((scale, start.scale)))
            if len(self.head.bias) == 2:
                weighted = start.v.weight[list(pair)] * start.w2  # (2, k)
                probes = weighted @ start.W1.weight + start.u.weight
                self.head.weight[:, d:] = probes
                bias = 0.0 if start.W1.bias is None else weighted @ start.W1.bias
                self.head.bias.copy_(bias + start.a.weight[list(pair), 0] + start.u.bias)
                self._start = (probes.clone(), self.head.bias.clone())

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        x = torch.cat((*self.layers(ids, mask, type_ids), features), dim=1)  # (B, D)
        x = (x - self.centre) * self.scale
        logits: torch.Tensor = self.head(self.dropout(x))
        return logits

    def layers(
        self, ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last and the middle layer's vectors, (B, d) each, on the unit sphere."""
        mean, middle = self.encoder.forward_with_middle(ids, mask, type_ids)
        return nn.functional.normalize(mean, dim=1), nn.functional.normalize(middle, dim=1)

    def export(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
        """(head and adapter tensors, encoder weights or None), as the bundle holds them; the head is folded
        to act on raw query vectors."""
        tensors, weights = self.encoder.export()
        with torch.no_grad():
            heads = {"head": (self.head.weight, self.head.bias)}
            if self._start is not None and self.frozen_share:
                heads["frozen"] = self._start
                tensors["frozen.share"] = np.array([self.frozen_share], dtype=np.float32)
            for name, (weight, bias) in heads.items():
                # The probes' columns are without the last layer's, which come first.
                columns = slice(len(self.scale) - weight.shape[1], None)
                folded = weight.cpu() * self.scale[columns].cpu()
                tensors[f"{name}.weight"] = folded.numpy()
                tensors[f"{name}.bias"] = (bias.cpu() - folded @ self.centre[columns].cpu()).numpy()
        return tensors, weights
