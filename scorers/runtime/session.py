"""An encoder running in ONNX Runtime: token ids in, pooled vectors out.

The built graph is cached under UPSHIFT_CACHE (default ~/.cache/upshift) by the hash of everything that
went into it, written to a temporary name and renamed, so a killed build leaves nothing half-written. A
cache folder that cannot be written costs a rebuild at each start (0.6 s for MiniLM), never a failure.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from scorers.encoders import EncoderFolder
from scorers.errors import EncoderError, ScoringFailed
from scorers.runtime.graph import GRAPH_VERSION, LOWER_HALF, OUTPUTS, WORD_TABLE, Adapter, build_graph
from scorers.runtime.int8 import SENTENCES, adds_bytes_exactly, quantise
from scorers.runtime.vectors import VectorCache
from scorers.tokenizer import TextTokenizer, TokenBatch, TokenIds, token_buckets

# A few hundred tokens keep a CPU busy. What is more leaves its caches between one layer and the next (8 x 256
# tokens cost 14 % more a row than 1 x 256), and pads more.
_BATCH_TOKENS = 256
_SLOWER = ["SkipLayerNormFusion"]  # see `graph._add_norm`: it would put the fused operator back
_KEPT_VECTORS = 2_048  # 6 MB for MiniLM


@dataclass(frozen=True, slots=True)
class Pooled:
    """Pooled states of N inputs: masked mean and first token, float32, both (N, d).

    `middle` (N, d) is the masked mean after half of the layers, None where it was not asked for."""

    mean: np.ndarray
    first: np.ndarray
    middle: np.ndarray | None = None

    def unit_mean(self) -> np.ndarray:
        """The mean on the unit sphere: what sentence-transformers calls the embedding."""
        return _on_sphere(self.mean)

    def query(self) -> np.ndarray:
        """The unit mean and, where it was asked for, the middle layer's behind it: (N, d) or (N, 2 d)."""
        if self.middle is None:
            return self.unit_mean()
        return np.concatenate([self.unit_mean(), _on_sphere(self.middle)], axis=1)


class EncoderSession:
    """One encoder, with or without adapters merged in. Thread-safe, as ONNX Runtime's `run` is."""

    def __init__(
        self,
        folder: EncoderFolder,
        max_tokens: int,
        threads: int | None = None,
        adapters: Mapping[str, Adapter] | None = None,
        weights_path: Path | None = None,
        int8: bool = False,
        words: ort.OrtValue | None = None,
        lower_half: bool = False,
    ) -> None:
        """`weights_path` holds tensors that replace the folder's (layers that were fine-tuned); `threads`
        None: ORT's choice; `words` is the table of `word_table`, shared by sessions that do not change it;
        `lower_half` stops after half of the layers, for `embed_middle` alone.

        Raises `EncoderError` when the weights do not make a graph.
        """
        self.folder = folder
        self.tokenizer = TextTokenizer.of(folder, max_tokens)
        model = _load_or_build(folder, adapters or {}, weights_path, int8, lower_half)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if words is not None:
            options.add_initializer(WORD_TABLE, words)
        self._words = words  # ONNX Runtime does not hold it
        # A spinning pool would burn the cores that the event loop and the other scorer need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER
        )
        self._vectors = VectorCache(_KEPT_VECTORS)
        _give_back_memory()

    def with_max_tokens(self, max_tokens: int) -> EncoderSession:
        """The same encoder in the same memory, for inputs of another longest length."""
        twin = copy.copy(self)
        twin.tokenizer = TextTokenizer.of(self.folder, max_tokens)
        twin._vectors = VectorCache(_KEPT_VECTORS)  # a text cut elsewhere has another vector
        return twin

    def pool(self, items: Sequence[TokenIds], with_middle: bool = False) -> Pooled:
        """Run N inputs in batches of similar length; rows come back in the order given."""
        names = OUTPUTS if with_middle else ("mean", "first")
        return Pooled(**self._run(items, names))

    def _run(self, items: Sequence[TokenIds], names: Sequence[str]) -> dict[str, np.ndarray]:
        """The graph's outputs of these names, (N, d) each."""
        pooled = {n: np.zeros((len(items), self.folder.dimension), dtype=np.float32) for n in names}
        for rows in token_buckets([len(item) for item in items], _BATCH_TOKENS):
            batch = self.tokenizer.pad([items[row] for row in rows])
            for name, value in zip(names, self._session.run(list(names), _feed(batch)), strict=True):
                pooled[name][rows] = value
        if not np.isfinite(pooled[names[0]]).all():
            raise ScoringFailed(f"encoder {self.folder.name!r} gave numbers that are not finite")
        return pooled

    def embed_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Query vectors, shape (N, d), float32, unit length."""
        return self.pool(self.tokenizer.encode_prompts(prompts)).unit_mean()

    def embed_layers(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the last and the middle layer side by side, shape (N, 2 d), each unit length.

        Kept by text hash: an answer's scorers want the vector of the prompt that was routed a moment ago.
        """
        return self._vectors.fill(texts, self._embed_layers)

    def embed_middle(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the middle layer, shape (N, d), each unit length; kept like those of `embed_layers`."""
        return self._vectors.fill(texts, self._embed_middle)

    def _embed_middle(self, texts: Sequence[str]) -> np.ndarray:
        return _on_sphere(self._run(self.tokenizer.encode_prompts(texts), LOWER_HALF)["middle"])

    def _embed_layers(self, texts: Sequence[str]) -> np.ndarray:
        return self.pool(self.tokenizer.encode_prompts(texts), with_middle=True).query()


def _on_sphere(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def cache_folder() -> Path:
    return Path(os.environ.get("UPSHIFT_CACHE") or Path.home() / ".cache" / "upshift")


def _load_or_build(
    folder: EncoderFolder,
    adapters: Mapping[str, Adapter],
    weights_path: Path | None,
    int8: bool,
    lower_half: bool,
) -> bytes | Path:
    """The model's file, or its bytes where none can be kept: from a file it takes half the memory."""
    key = _cache_key(folder, adapters, weights_path, int8) + ("-half" if lower_half else "")
    path = cache_folder() / "graphs" / f"{key}.onnx"
    if path.is_file():
        return path
    changed = {} if weights_path is None else _load(weights_path)
    model = build_graph(folder.read_config(), _load(folder.weights_path), adapters, changed, lower_half)
    data: bytes = quantise(model, _sentences(folder)) if int8 else model.SerializeToString()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, data)
        return path
    return data


def word_table(folder: EncoderFolder) -> ort.OrtValue | None:
    """The word embeddings of an encoder, half of MiniLM's weights, for several sessions; None where they are
    not found under a usual name.
    """
    with contextlib.suppress(SafetensorError, OSError), safe_open(str(folder.weights_path), "numpy") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            if name.endswith("embeddings.word_embeddings.weight"):
                return ort.OrtValue.ortvalue_from_numpy(np.asarray(file.get_tensor(name), dtype=np.float32))
    return None


def _give_back_memory() -> None:
    """What loading took for a moment: glibc would keep 30 MB of it for MiniLM; others keep nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        weights: dict[str, np.ndarray] = load_file(str(path))
    except (SafetensorError, OSError) as exc:
        raise EncoderError(f"{path} cannot be read as safetensors: {exc}") from exc
    return weights


def _sentences(folder: EncoderFolder) -> dict[str, np.ndarray]:
    """The graph's input for `SENTENCES`."""
    tokenizer = TextTokenizer.of(folder, 64)
    batch = tokenizer.pad(tokenizer.encode_prompts(SENTENCES))
    return _feed(batch)


def _feed(batch: TokenBatch) -> dict[str, np.ndarray]:
    return {"ids": batch.ids, "mask": batch.mask, "type_ids": batch.type_ids}


def _write_atomically(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".building-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _cache_key(
    folder: EncoderFolder, adapters: Mapping[str, Adapter], weights_path: Path | None, int8: bool
) -> str:
    arithmetic = f"int8 {adds_bytes_exactly()}" if int8 else "fp32"
    digest = hashlib.sha256(f"{GRAPH_VERSION} {folder.sha256()} {arithmetic}".encode())
    if weights_path is not None:
        digest.update(hashlib.sha256(weights_path.read_bytes()).digest())
    for name in sorted(adapters):
        adapter = adapters[name]
        digest.update(f"{name} {adapter.scale} {adapter.down.shape} {adapter.down.dtype}".encode())
        digest.update(adapter.down.tobytes() + adapter.up.tobytes())
    return digest.hexdigest()
