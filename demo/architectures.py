"""The two architectures: a small Phi that is cheap and often wrong, a larger Mistral that is mostly right.

Heads are 32 wide because vLLM serves no narrower ones. Both output layers have their own weights: vLLM's Phi
shares none, and the Mistral learned faster without. Both read 1,024 positions although training texts are
under 128 tokens long: prompts that long are served, not understood.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM, PhiConfig, PhiForCausalLM

CONTEXT_TOKENS = 1024
WEAK_ID, STRONG_ID = "demo-phi", "demo-mistral"


def build_weak(vocab_size: int, token_ids: dict[str, int]) -> PhiForCausalLM:
    """A Phi with random weights. `token_ids` names bos_token_id, eos_token_id and pad_token_id."""
    config = PhiConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        partial_rotary_factor=0.5,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attention_dropout=0.0,
        initializer_range=0.05,
        **_common(token_ids),
    )
    model = PhiForCausalLM(config)
    for layer in model.model.layers:
        _start_silent(layer.self_attn.dense, layer.mlp.fc2)
    return model


def build_strong(vocab_size: int, token_ids: dict[str, int]) -> MistralForCausalLM:
    """A Mistral with random weights. `token_ids` as in `build_weak`."""
    config = MistralConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        sliding_window=None,
        tie_word_embeddings=False,
        initializer_range=0.05,
        **_common(token_ids),
    )
    model = MistralForCausalLM(config)
    for layer in model.model.layers:
        _start_silent(layer.self_attn.o_proj, layer.mlp.down_proj)
    return model


def _common(token_ids: dict[str, int]) -> dict[str, Any]:
    return {**token_ids, "attn_implementation": "sdpa"}


def _start_silent(*outputs: torch.nn.Linear) -> None:
    """Zero what a layer first adds to the residual stream: worth a third of the first 300 steps here."""
    for output in outputs:
        torch.nn.init.zeros_(output.weight)


def count_parameters(model: Any) -> int:
    """Weights of a model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
