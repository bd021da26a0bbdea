"""What `train` has finished: `train.json` in the work folder, one entry a stage.

An entry holds the stage's key (its options and the digests of what it read) and the digest of what it wrote.
A stage is skipped when both still hold: same options, same inputs, artifact untouched. Otherwise it runs
again, and so does what reads from it if its artifact turns out another one. Written in one step after each
stage; a kill in between costs the comparison, not the stage, since every stage resumes by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.artifact import replace_file
from trainer.manifest import fingerprint

FILE = "train.json"
# Beside an artifact, never part of it.
_COMPANIONS = (".lock", ".manifest.json")


class StageLedger:
    """The ledger of one work folder."""

    def __init__(self, work: Path) -> None:
        self._path = work / FILE
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            found = {}
        self._entries: dict[str, dict[str, Any]] = found if isinstance(found, dict) else {}

    def key(self, options: Any, inputs: Sequence[Path]) -> str:
        """sha256 over options (JSON) and the digests of the inputs."""
        text = json.dumps([options, [digest_of(path) for path in inputs]], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def is_done(self, stage: str, key: str, artifact: Path) -> bool:
        entry = self._entries.get(stage)
        if entry is None or entry.get("key") != key or not artifact.exists():
            return False
        return bool(entry.get("digest") == digest_of(artifact))

    def told(self, stage: str) -> str:
        """What the stage had to say when it ran."""
        return str(self._entries.get(stage, {}).get("told", ""))

    def note(self, stage: str, key: str, artifact: Path, told: str = "") -> None:
        """Enter a finished stage. Raises `StageError` when the disk refuses."""
        self._entries[stage] = {"key": key, "digest": digest_of(artifact), "told": told}
        replace_file(self._path, (json.dumps(self._entries, indent=1) + "\n").encode())


def digest_of(path: Path) -> str:
    """sha256 of a file, or over the names and bytes below a folder. Raises `StageError`."""
    if not path.is_dir():
        return fingerprint(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.endswith(_COMPANIONS)):
        digest.update(f"{file.relative_to(path)} {fingerprint(file)}\n".encode())
    return digest.hexdigest()
