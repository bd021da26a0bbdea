"""Query vectors with a cache on disk: a text is embedded once, whatever is killed in between.

Under the cache folder stands one pair of files an encoder: `vectors.f32` (rows of d float32, appended) and
`keys.txt` (one sha256 of the text a line, appended after its vector is on disk). A kill between the two
leaves a vector without a key, which the next run overwrites; so at most one batch is paid for twice. A lock
keeps two runs that embed with the same encoder from writing at once: the second waits, and finds the first
one's vectors.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from routing.errors import ExamplesError
from scorers.embedders import Embedder
from trainer.progress import Progress, no_progress

BATCH_ROWS = 256  # texts between two writes


class CachedEmbedder:
    """An embedder that remembers. `encoder_key` names the encoder and its version: another one, another
    file."""

    def __init__(
        self, embedder: Embedder, folder: Path, encoder_key: str, progress: Progress = no_progress
    ) -> None:
        self._embedder = embedder
        self._folder = folder / hashlib.sha256(encoder_key.encode()).hexdigest()[:16]
        self._progress = progress

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, shape (N, d), float32, in the order asked."""
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, or the process dies
            return self._embed_missing(keys, texts)

    def _embed_missing(self, keys: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        known = self._read_keys()
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        pending = sorted(missing.items(), key=lambda item: len(item[1]))  # like lengths together
        for start in range(0, len(pending), BATCH_ROWS):
            batch = pending[start : start + BATCH_ROWS]
            vectors = self._embedder.embed([text for _, text in batch])
            self._append(len(known), [key for key, _ in batch], vectors)
            known.update({key: len(known) + i for i, (key, _) in enumerate(batch)})
            self._progress("embed", min(start + BATCH_ROWS, len(pending)), len(pending))
        return self._read_vectors(len(known))[[known[key] for key in keys]]

    def _read_keys(self) -> dict[str, int]:
        path = self._folder / "keys.txt"
        if not path.is_file():
            return {}
        text = path.read_text(encoding="ascii")
        whole = text.rfind("\n") + 1  # a line without its end was cut by a kill
        if whole < len(text):
            os.truncate(path, whole)
        return {key: row for row, key in enumerate(text[:whole].splitlines())}

    def _append(self, row: int, keys: list[str], vectors: np.ndarray) -> None:
        path = self._folder / "vectors.f32"
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(row * vectors.shape[1] * 4)
            file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        with (self._folder / "keys.txt").open("a", encoding="ascii") as file:
            file.write("".join(f"{key}\n" for key in keys))

    def _read_vectors(self, rows: int) -> np.ndarray:
        flat = np.fromfile(self._folder / "vectors.f32", dtype="<f4")
        if rows == 0 or flat.size % rows:
            raise ExamplesError(
                f"{self._folder}: {flat.size} numbers are no {rows} vectors; delete the folder"
            )
        return flat.reshape(rows, -1)
