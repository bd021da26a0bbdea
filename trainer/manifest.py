"""The manifest beside every artifact: what made it, from what, and what came of it.

`answers.parquet` has `answers.parquet.manifest.json`: stage, seed, git revision, versions, options, each
input with its sha256, the artifact's own sha256, counts, and when the stage started and finished. Times and
counts of retries differ between two runs, the artifact does not: which is why none of this stands in it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as fields_of
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from routing.errors import StageError
from trainer.artifact import beside, replace_file

SUFFIX = ".manifest.json"
VERSION = 1
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
_LIBRARIES = ("upshift", "numpy", "pyarrow", "aiohttp", "torch", "transformers", "onnxruntime", "ray")


@dataclass(slots=True)
class StageRecord:
    """A stage in progress. Made when it starts, filled while it runs, written by `publish_manifest`.

    `options` is a dataclass or a mapping; a field whose name ends in `key` is never written.
    """

    stage: str
    options: Any
    seed: int
    inputs: Sequence[Path] = ()
    counts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)  # whatever else the stage has to tell
    started: datetime = field(default_factory=lambda: datetime.now(UTC))


def publish_manifest(record: StageRecord, artifact: Path) -> Path:
    """Write the manifest of a finished artifact (a file, or a folder without one sha256); returns its path.

    Raises `StageError` when an input is gone or the disk refuses.
    """
    finished = datetime.now(UTC)
    files = [{"name": str(path), "sha256": fingerprint(path)} for path in record.inputs]
    manifest = {
        "manifest": VERSION,
        "stage": record.stage,
        "artifact": artifact.name,
        "sha256": fingerprint(artifact) if artifact.is_file() else None,
        "seed": record.seed,
        "git_revision": git_revision(),
        "versions": versions(),
        "options": plain(record.options),
        "data": {"fingerprint": fingerprint_all(record.inputs), "files": files},
        "counts": record.counts,
        **record.notes,
        "started": record.started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - record.started).total_seconds(), 3),
    }
    path = beside(artifact, SUFFIX)
    replace_file(path, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def read_manifest(artifact: Path) -> dict[str, Any] | None:
    """The manifest of an artifact, None where there is none. Raises `StageError` when it cannot be read."""
    path = beside(artifact, SUFFIX)
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise StageError(f"{path} is not a manifest: {exc}") from exc
    if not isinstance(manifest, dict) or manifest.get("manifest") != VERSION:
        raise StageError(f"{path} is not a manifest of version {VERSION}")
    return manifest


def fingerprint(path: Path) -> str:
    """sha256 of a file's bytes, in hex. Raises `StageError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise StageError(f"{path} cannot be read: {exc}") from exc


def fingerprint_all(paths: Sequence[Path]) -> str:
    """sha256 over the files' own, in the order given: which data this was."""
    return hashlib.sha256("".join(fingerprint(path) for path in paths).encode()).hexdigest()


def git_revision() -> str | None:
    """Revision of the code that runs, None outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def versions() -> dict[str, str]:
    """Python and the installed libraries that can change a result."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plain(value: Any) -> Any:
    """Options as JSON can hold them: dataclasses as objects, paths as text, sets sorted, no keys, and URLs
    without the user and password in them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: plain(getattr(value, item.name))
            for item in fields_of(value)
            if not item.name.endswith("key")
        }
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items() if not str(name).endswith("key")}
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return _CREDENTIALS.sub("://", value)
    return str(value) if isinstance(value, Path) else value
