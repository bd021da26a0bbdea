"""What a bundle says about the prompts it was fitted on, so that serving can tell others from them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from safetensors.numpy import save as encode_tensors

from routing.bundle import Bundle
from scorers.familiar import FAMILIAR, Familiar
from scorers.runtime.neighbours import MOST_VECTORS, Neighbours
from scorers.runtime.scorers import NEIGHBOURS, load_scorers

_UNSEEN = 400  # prompts that the bound on distance is set by; 0.5 % of them is two


def familiarity_files(bundle: Bundle, fitted: Sequence[str], unseen: Sequence[str]) -> dict[str, bytes]:
    """The bundle's `familiar.json` and `familiar.safetensors`.

    `fitted` are the prompts of the train split, `unseen` those of the calibration split. Embeds at most 900
    prompts. Raises `ScoringError`.
    """
    step = max(1, len(fitted) // MOST_VECTORS)
    query = load_scorers(bundle.path, bundle.scorers).query
    vectors = [
        np.asarray(query.embedder.embed(texts))[:, : query.encoder_dimension]  # of the last layer alone
        for texts in (list(fitted[::step][:MOST_VECTORS]), list(unseen[:_UNSEEN]))
    ]
    near = Neighbours.of(*vectors)
    text = Familiar.of([*fitted, *unseen]).to_dict()
    tensors = {
        "vectors": near.vectors.astype(np.float16),
        "least": np.array([near.least], dtype=np.float32),
    }
    return {
        FAMILIAR: (json.dumps(text, indent=1, sort_keys=True) + "\n").encode(),
        NEIGHBOURS: encode_tensors(tensors),
    }
