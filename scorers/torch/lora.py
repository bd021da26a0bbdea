"""Low-rank adapters (Hu et al., "LoRA", 2021): y = W x + (alpha / r) B A x, with W frozen.

Ours, because it is forty lines and a bundle must say exactly what is in it. A starts random, B at zero,
so training begins at the pre-trained encoder.
"""

from __future__ import annotations

import math

import torch
from torch import nn

ATTENTION_TARGETS = ("query", "key", "value", "attention.output.dense")
FFN_TARGETS = ("intermediate.dense", "output.dense")


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank change: down (r, in), up (out, r)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., in) -> (..., out)
        changed: torch.Tensor = (self.dropout(x) @ self.down.T) @ self.up.T * self.scale
        return self.base(x) + changed


def add_adapters(
    encoder: nn.Module, rank: int, alpha: float, dropout: float, layers: range, ffn: bool = True
) -> dict[str, LoraLinear]:
    """Put adapters into the encoder's attention (and feed-forward) layers; returns them by weight name."""
    if rank < 1:
        raise ValueError(f"LoRA rank is {rank}; at least 1 is needed (or tuning='frozen')")
    targets = ATTENTION_TARGETS + (FFN_TARGETS if ffn else ())
    adapters: dict[str, LoraLinear] = {}
    for name, module in list(encoder.named_modules()):
        layer = _layer_of(name)
        if layer is None or layer not in layers or not isinstance(module, nn.Linear):
            continue
        if name.endswith(targets):
            adapter = LoraLinear(module, rank, alpha, dropout)
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, adapter)
            adapters[name] = adapter
    return adapters


def _layer_of(name: str) -> int | None:
    """`encoder.layer.3.attention.self.query` -> 3."""
    parts = name.split(".")
    if "layer" not in parts[:-1]:
        return None
    number = parts[parts.index("layer") + 1]
    return int(number) if number.isdigit() else None
