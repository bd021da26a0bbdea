"""What a bundle says about the prompts it was fitted on, so that serving can tell others from them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from safetensors.numpy import save as encode_tensors

from routing.bundle import Bundle
from scorers.familiar import FAMILIAR, Familiar
from scorers.runtime.neighbours import FAR_SHARE, LEAST, MOST_VECTORS, TENSORS, Neighbours
from scorers.runtime.query import QueryVectors
from scorers.runtime.scorers import JUDGED, NEIGHBOURS, load_scorers

_UNSEEN = 400  # prompts that the bound on distance is set by; 0.5 % of them is two


def familiarity_files(
    bundle: Bundle,
    fitted: Sequence[str],
    unseen: Sequence[str],
    judged: tuple[Sequence[str], Sequence[str]] | None = None,
    far_share: float = FAR_SHARE,
) -> dict[str, bytes]:
    """The bundle's `familiar.json` and `familiar.safetensors`.

    `fitted` are the prompts of the train split, `unseen` those of the calibration split; `judged` are both
    again, those with answers alone, where not all have one. Embeds at most 900 prompts, or twice that.
    Raises `ScoringError`.
    """
    query = load_scorers(bundle.path, bundle.scorers).query
    text = Familiar.of([*fitted, *unseen]).to_dict()
    layer = "middle" if "middle" in query.layers else "last"
    tensors = _tensors(query, fitted, unseen, layer, far_share)
    if judged is not None:
        own = _tensors(query, *judged, layer, far_share)
        tensors |= {f"{JUDGED}{name}": value for name, value in own.items()}
    return {
        FAMILIAR: (json.dumps(text, indent=1, sort_keys=True) + "\n").encode(),
        NEIGHBOURS: encode_tensors(tensors),
    }


def _tensors(
    query: QueryVectors, fitted: Sequence[str], unseen: Sequence[str], layer: str, far_share: float
) -> dict[str, np.ndarray]:
    known, new = (
        query.layer(np.asarray(query.embedder.embed(texts)), layer)
        for texts in (_spread(fitted, MOST_VECTORS), _spread(unseen, _UNSEEN))
    )
    near = Neighbours.of(known, new, layer, far_share)
    return {
        TENSORS[layer]: near.vectors.astype(np.float16),
        LEAST: np.array([near.least], dtype=np.float32),
    }


def _spread(texts: Sequence[str], most: int) -> list[str]:
    """At most so many of them, evenly from all."""
    step = max(1, len(texts) // most)
    return list(texts[::step][:most])
