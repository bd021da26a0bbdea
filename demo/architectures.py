"""The two architectures: a small Phi that is cheap and often wrong, a larger Mistral that is mostly right.

Heads are 32 wide because vLLM serves no narrower ones, and Phi's output layer has its own weights and bias
because vLLM's Phi shares none. Both read 1,024 positions although training texts are under 128 tokens long:
prompts that long are served, not understood.
"""

from __future__ import annotations

from typing import Any

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
    return PhiForCausalLM(config)


def build_strong(vocab_size: int, token_ids: dict[str, int]) -> MistralForCausalLM:
    """A Mistral with random weights. `token_ids` as in `build_weak`."""
    config = MistralConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        sliding_window=None,
        tie_word_embeddings=True,
        initializer_range=0.05,
        **_common(token_ids),
    )
    return MistralForCausalLM(config)


def _common(token_ids: dict[str, int]) -> dict[str, Any]:
    return {**token_ids, "attn_implementation": "sdpa"}


def count_parameters(model: Any) -> int:
    """Weights of a model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
