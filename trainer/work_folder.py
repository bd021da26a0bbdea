"""`OUT.work/`: what a fit has finished so far, so that a killed one goes on instead of starting over.

    inputs.json            what the parts below were made from: data, options, encoders, versions, code
    mf/, evaluator/, ...   one folder a finished part: its files, and last `part.json` with their sha256
    checkpoints/           training loops in progress (`trainer.checkpoint`)

A part counts only when its `part.json` is there and every file is what that says, so whatever a kill leaves
behind is either whole or made again. Where the inputs are other ones than last time, everything is dropped
and the log says which input changed. The folder is removed once the bundle is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.artifact import beside, replace_file
from trainer.checkpoint import EVERY_S, CheckpointFolder

SUFFIX = ".work"
_LOG = logging.getLogger(__name__)
_INPUTS, _PART = "inputs.json", "part.json"


@dataclass(slots=True)
class Part:
    """A finished part of a fit: files for the bundle, its entry in the manifest, and its training log."""

    files: dict[str, bytes] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)


class WorkFolder:
    """The work folder of one artifact. One process at a time: the caller holds the artifact's lock."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key

    @classmethod
    def open(cls, artifact: Path, inputs: Mapping[str, Any]) -> WorkFolder:
        """The folder of `artifact`, emptied when it was made from other inputs. Raises `StageError`."""
        path = beside(artifact, SUFFIX)
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        old = _read_json(path / _INPUTS)
        if old != json.loads(json.dumps(inputs)):
            if old is not None:
                changed = sorted(k for k in {*old, *inputs} if old.get(k) != inputs.get(k))
                _LOG.warning("%s was made from another %s: starting anew", path, " and ".join(changed))
            shutil.rmtree(path, ignore_errors=True)
            replace_file(path / _INPUTS, json.dumps(inputs, indent=1, sort_keys=True).encode())
        return cls(path, key)

    def load(self, name: str) -> Part | None:
        """A finished part, None where it is missing, cut off or damaged."""
        told = _read_json(self.path / name / _PART)
        if told is None:
            return None
        files: dict[str, bytes] = {}
        for file, digest in told["files"].items():
            try:
                data = (self.path / name / file).read_bytes()
            except OSError:
                return None
            if hashlib.sha256(data).hexdigest() != digest:
                return None
            files[file] = data
        return Part(files, told["entry"], told["log"])

    def store(self, name: str, part: Part) -> None:
        """Keep a part. Raises `StageError` when the disk refuses."""
        for file, data in part.files.items():
            replace_file(self.path / name / file, data)
        digests = {file: hashlib.sha256(data).hexdigest() for file, data in part.files.items()}
        told = {"files": digests, "entry": part.entry, "log": part.log}
        replace_file(self.path / name / _PART, json.dumps(told).encode())

    def checkpoints(self, every_s: float = EVERY_S) -> CheckpointFolder:
        return CheckpointFolder(self.path / "checkpoints", self.key, every_s)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
