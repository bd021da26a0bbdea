"""Reading a scorer's safetensors: the head's tensors apart from the encoder's adapters.

One file holds both, since neither means anything without the other. Adapters are named
`adapter.<weight>.down` (r, in) and `adapter.<weight>.up` (out, r); everything else belongs to the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from scorers.errors import ScorerFileError
from scorers.runtime.graph import Adapter

_PREFIX = "adapter."


@dataclass(frozen=True, slots=True)
class ScorerFile:
    """A scorer file split into head tensors (float32) and adapters."""

    path: Path
    head: Mapping[str, np.ndarray]
    adapters: Mapping[str, Adapter]

    def tensor(self, name: str, *shape: int | None) -> np.ndarray:
        """A head tensor of this shape (None: any size). Raises `ScorerFileError` naming file and tensor."""
        if name not in self.head:
            raise ScorerFileError(f"{self.path}: tensor {name!r} is missing")
        value = self.head[name]
        fits = len(value.shape) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise ScorerFileError(f"{self.path}: tensor {name!r} has shape {value.shape}, expected {shape}")
        return value


def read_scorer_file(path: Path, adapter_scale: float = 1.0) -> ScorerFile:
    """Read and split. Raises `ScorerFileError` when it is missing, not safetensors, or holds non-finite
    numbers."""
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as exc:
        raise ScorerFileError(f"{path} cannot be read as safetensors: {exc}") from exc
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ScorerFileError(f"{path}: tensor {name!r} holds numbers that are not finite")
    head = {n: v.astype(np.float32) for n, v in tensors.items() if not n.startswith(_PREFIX)}
    adapters = {}
    for name in tensors:
        if name.startswith(_PREFIX) and name.endswith(".down"):
            stem = name[: -len(".down")]
            if f"{stem}.up" not in tensors:
                raise ScorerFileError(f"{path}: {name!r} has no matching {stem + '.up'!r}")
            adapters[stem[len(_PREFIX) :]] = Adapter(tensors[name], tensors[f"{stem}.up"], adapter_scale)
    return ScorerFile(path, head, adapters)
