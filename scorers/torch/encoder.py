"""A pre-trained encoder for fine-tuning: pooled states out, with the parts that train chosen by name.

    frozen   nothing trains; heads on fixed vectors
    lora     low-rank adapters on attention and feed-forward (default): under 2 MB in a bundle
    top-K    the last K layers in full (`top-2`)
    full     everything but the embeddings

What a bundle needs of it comes out of `export`: adapters, or the layers that were trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from scorers.encoders import EncoderFolder
from scorers.errors import EncoderError
from scorers.runtime.graph import middle_layer
from scorers.torch.lora import LoraLinear, add_adapters

ADAPTER_PASSES = 2.4  # forward 1, backward to activations 1, adapters and attention the rest
TUNINGS = ("frozen", "lora", "top-K", "full")


class TextEncoder(nn.Module):
    """Wraps `transformers.AutoModel`: (ids, mask, type_ids), each (B, T), to (mean, first), each (B, d)."""

    def __init__(
        self,
        folder: EncoderFolder,
        tuning: str = "lora",
        rank: int = 8,
        alpha: float | None = None,
        adapter_dropout: float = 0.05,
        lora_layers: int | None = None,
    ) -> None:
        """`alpha` defaults to 2 r; `lora_layers` puts adapters into the last so many layers only (None: all).

        Raises `EncoderError` when the folder cannot be loaded or the tuning is unknown.
        """
        super().__init__()
        self.folder = folder
        self.tuning = tuning
        self.model = _load(folder)
        self.n_layers = int(self.model.config.num_hidden_layers)
        self.adapters: dict[str, LoraLinear] = {}
        self.model.requires_grad_(False)
        if tuning == "lora":
            first = self.n_layers - (lora_layers if lora_layers is not None else self.n_layers)
            scale = 2.0 * rank if alpha is None else alpha
            layers = range(max(first, 0), self.n_layers)
            self.adapters = add_adapters(self.model, rank, scale, adapter_dropout, layers)
        elif tuning != "frozen":
            self._unfreeze(_trained_layers(tuning, self.n_layers))

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self._run(ids, mask, type_ids).last_hidden_state  # (B, T, d)
        return _masked_mean(hidden, mask), hidden[:, 0]

    def forward_with_middle(
        self, ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The masked means of the last and of the middle layer, each (B, d): the parts of a query vector."""
        states = self._run(ids, mask, type_ids, output_hidden_states=True).hidden_states
        return _masked_mean(states[-1], mask), _masked_mean(states[middle_layer(self.n_layers)], mask)

    def _run(self, ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor, **options: bool) -> Any:
        extra = {"token_type_ids": type_ids} if self.model.config.type_vocab_size > 1 else {}
        return self.model(input_ids=ids, attention_mask=mask, **extra, **options)

    def training_passes(self) -> float:
        """What a training step costs, in forward passes: backward to the activations 1, to the weights 1, for
        the layers from the lowest that trains upwards. Adapters need the weights' part for little of each."""
        if self.tuning in ("frozen", "lora"):
            return ADAPTER_PASSES
        return 1.0 + 2.0 * _trained_layers(self.tuning, self.n_layers) / self.n_layers

    def parameters_per_token(self) -> int:
        """Weights of the transformer layers: forward and backward cost in proportion to this."""
        return sum(p.numel() for p in self.model.encoder.parameters())

    def export(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
        """(adapter tensors in float16, None), or ({}, the trained layers' weights)."""
        if self.tuning in ("frozen", "lora"):
            tensors: dict[str, np.ndarray] = {}
            for name, adapter in self.adapters.items():
                tensors[f"adapter.{name}.down"] = _half(adapter.down)
                # The scale goes into `up`, so a file needs no second number to be read right.
                tensors[f"adapter.{name}.up"] = _half(adapter.up * adapter.scale)
            return tensors, None
        return {}, {name: _half(p) for name, p in self.model.named_parameters() if p.requires_grad}

    def _unfreeze(self, last_layers: int) -> None:
        for layer in self.model.encoder.layer[self.n_layers - last_layers :]:
            layer.requires_grad_(True)


def load_adapters(encoder: TextEncoder, tensors: Mapping[str, np.ndarray]) -> None:
    """Put a bundle's adapter tensors back into an encoder made with the same tuning and rank."""
    with torch.no_grad():
        for name, adapter in encoder.adapters.items():
            down, up = tensors[f"adapter.{name}.down"], tensors[f"adapter.{name}.up"]
            adapter.down.copy_(torch.from_numpy(down.astype(np.float32)))
            adapter.up.copy_(torch.from_numpy(up.astype(np.float32)) / adapter.scale)


def _masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    kept = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * kept).sum(1) / kept.sum(1).clamp_min(1e-9)


def _half(value: torch.Tensor) -> np.ndarray:
    return np.asarray(value.detach().cpu().to(torch.float16).numpy())


def _load(folder: EncoderFolder) -> nn.Module:
    was_shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it would report the pooling layer that nobody asked for
    try:
        model: nn.Module = AutoModel.from_pretrained(
            folder.path, dtype=torch.float32, add_pooling_layer=False
        )
    except (OSError, ValueError, TypeError) as exc:
        raise EncoderError(f"encoder {folder.name!r} at {folder.path} cannot be loaded: {exc}") from exc
    finally:
        transformers_logging.set_verbosity(level)
        if was_shown:
            transformers_logging.enable_progress_bar()
    return model


def _trained_layers(tuning: str, n_layers: int) -> int:
    if tuning == "full":
        return n_layers
    kind, _, count = tuning.partition("-")
    if kind == "top" and count.isdigit() and 1 <= int(count) <= n_layers:
        return int(count)
    raise EncoderError(
        f"tuning {tuning!r} is unknown; there are: {', '.join(TUNINGS)} (K from 1 to {n_layers})"
    )
