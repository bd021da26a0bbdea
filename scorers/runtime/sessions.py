"""The encoder sessions of one bundle: those that would be equal are one, whatever length they cut at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scorers.encoders import EncoderFolder, resolve_encoder
from scorers.errors import ScorerFileError
from scorers.runtime.graph import Adapter
from scorers.runtime.heads import ScorerFile, read_scorer_file
from scorers.runtime.manifest_entry import field
from scorers.runtime.session import EncoderSession, word_table


class Sessions:
    """Opens encoder sessions, sharing those that would be equal."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._plain: dict[tuple[str, bool, bool], dict[int, EncoderSession]] = {}  # by longest input
        self._tables: dict[str, Any] = {}

    def open(
        self,
        encoder: Mapping[str, Any],
        adapters: Mapping[str, Adapter],
        weights_path: Path | None,
        lower_half: bool = False,
    ) -> EncoderSession:
        """The session of a manifest's `encoder`. Raises `ScorerFileError`, `EncoderError`."""
        folder = check_encoder(encoder)
        max_tokens, int8 = int(encoder["max_tokens"]), bool(encoder.get("int8", False))
        if adapters or weights_path is not None:
            words = self._words(folder, str(encoder["sha256"])) if weights_path is None and not int8 else None
            if any("embeddings" in name for name in adapters):
                words = None
            return EncoderSession(folder, max_tokens, self._threads, adapters, weights_path, int8, words)
        same = self._plain.setdefault((str(encoder["sha256"]), int8, lower_half), {})
        if max_tokens not in same:
            other = next(iter(same.values()), None)
            same[max_tokens] = (
                EncoderSession(
                    folder,
                    max_tokens,
                    self._threads,
                    int8=int8,
                    words=None if int8 else self._words(folder, str(encoder["sha256"])),
                    lower_half=lower_half,
                )
                if other is None
                else other.with_max_tokens(max_tokens)
            )
        return same[max_tokens]

    def open_tuned(
        self, folder: Path, entry: Mapping[str, Any], scorer: str, file: ScorerFile
    ) -> EncoderSession:
        """The encoder that a scorer's `file` was fitted with: adapters in it, or layers beside it. Raises as
        `open`."""
        weights = entry.get("weights")
        return self.open(
            field(entry, scorer, "encoder"), file.adapters, folder / weights if weights else None
        )

    def _words(self, folder: EncoderFolder, sha256: str) -> Any:
        """The word table that all sessions of an encoder share; int8 has one of its own."""
        if sha256 not in self._tables:
            self._tables[sha256] = word_table(folder)
        return self._tables[sha256]


def check_encoder(encoder: Mapping[str, Any]) -> EncoderFolder:
    """The encoder that the manifest names, or a refusal when it is another one by now."""
    name, pinned, dimension = (field(encoder, "encoder", key) for key in ("name", "sha256", "dimension"))
    folder = resolve_encoder(name)
    if folder.dimension != dimension:
        raise ScorerFileError(
            f"manifest field encoder.dimension is {dimension}, encoder {name!r} has {folder.dimension}"
        )
    found = folder.sha256()
    if found != pinned:
        raise ScorerFileError(
            f"manifest field encoder.sha256 is {pinned[:12]}..., encoder {name!r} here has {found[:12]}...: "
            "the bundle was fitted on other weights"
        )
    return folder


def read_entry_file(folder: Path, entry: Mapping[str, Any], scorer: str) -> ScorerFile:
    """The safetensors that a scorer's entry names. Raises `ScorerFileError`."""
    return read_scorer_file(folder / field(entry, scorer, "file"), float(entry.get("adapter_scale", 1.0)))
