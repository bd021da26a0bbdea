"""Loading a trained model folder into this process: weights in float32, tokenizer, end token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

MODELS = Path(__file__).parent / "models"
FOLDERS = {"demo-phi": MODELS / "weak", "demo-mistral": MODELS / "strong"}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to generate, with its tokenizer. `context_tokens` bounds prompt and answer together."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    context_tokens: int


def load_model(folder: Path) -> LoadedModel:
    """Read a Hugging Face folder; never asks a hub. Raises `OSError` when files are missing."""
    hf_logging.disable_progress_bar()  # three lines of progress for a fifth of a second
    # float32, because a CPU without bfloat16 instructions is several times slower in it.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return LoadedModel(model, tokenizer, int(model.config.max_position_embeddings))
