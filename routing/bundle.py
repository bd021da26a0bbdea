"""A bundle: everything a decision rests on, in one folder that is whole or refused.

    manifest.json             what it is, made from what, and the sha256 of every other file
    mf.safetensors ...        scorers (read by `scorers.runtime`)
    splits.json               the prompt_ids it was fitted on, by split
    policy.json ...           calibration maps, thresholds, certificate

Weights never travel without the text template, the encoder and the data they were fitted with, so all of
that is in the manifest and `open_bundle` checks it. The version is a hash of the content: two fits that
give the same bytes are the same bundle. No pickle anywhere; numbers live in safetensors or JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routing.errors import BundleError

SCHEMA_VERSION = 1
ANY_MODEL = "*"  # a tier of a bundle that goes in front of any model
MANIFEST = "manifest.json"
SPLITS = "splits.json"
_REQUIRED = ("schema_version", "version", "text_template", "encoder", "tiers", "scorers", "files")
_SCORE_FILES = ("mf.safetensors", "difficulty.safetensors", "evaluator.safetensors", "calibration.json")
_ALLOWED_SUFFIXES = (".safetensors", ".json")


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle whose files are what its manifest says."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Short content hash, 12 hex digits."""
        return str(self.manifest["version"])

    @property
    def tiers(self) -> list[str]:
        """Model names, cheapest first; `ANY_MODEL` where any will do."""
        return [str(tier["model"]) for tier in self.manifest["tiers"]]

    @property
    def scorers(self) -> Mapping[str, Any]:
        """The section that `scorers.runtime.scorers.load_scorers` reads."""
        section: Mapping[str, Any] = self.manifest["scorers"]
        return section

    @property
    def scorers_fingerprint(self) -> str:
        """12 hex digits of what scores come from: weights, encoder, calibration maps; not of the policy."""
        files = self.manifest["files"]
        parts = [self.manifest["encoder"], self.manifest["scorers"]]
        parts += [files[name] for name in sorted(files) if name in _SCORE_FILES]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def has(self, name: str) -> bool:
        return name in self.manifest["files"]

    def read_json(self, name: str) -> Any:
        """A JSON file of the bundle. Raises `BundleError` when it is not listed or not JSON."""
        if not self.has(name):
            raise BundleError(f"{self.path}: the bundle has no file {name!r}")
        return _read_json(self.path / name)

    def prompt_ids(self) -> dict[str, list[str]]:
        """The prompt_ids it was fitted on, by split (`train`, `validation`, `calibration`, ...)."""
        splits: dict[str, list[str]] = self.read_json(SPLITS) if self.has(SPLITS) else {}
        return splits


def open_bundle(path: str | os.PathLike[str], text_template: str | None = None) -> Bundle:
    """Open and verify a bundle.

    `text_template` is the reader's own (`scorers.text.TEXT_TEMPLATE`); a bundle made with another is refused.
    Raises `BundleError` naming file and field: missing, unknown schema, damaged file, other template.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"bundle {str(folder)!r} does not exist or is not a folder")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"bundle {str(folder)!r} has no {MANIFEST}")
    manifest = _read_json(folder / MANIFEST)
    _check_manifest(folder, manifest)
    if text_template is not None and manifest["text_template"] != text_template:
        raise BundleError(
            f"{folder / MANIFEST}: text_template is {manifest['text_template']!r}, this version renders "
            f"{text_template!r}; fit the bundle again"
        )
    _check_files(folder, manifest["files"])
    if manifest["version"] != _version_of(manifest):
        raise BundleError(
            f"{folder / MANIFEST}: version is {manifest['version']!r}, its content makes "
            f"{_version_of(manifest)!r}: the manifest was changed by hand"
        )
    return Bundle(folder, manifest)


def write_bundle(
    out: str | os.PathLike[str], manifest: Mapping[str, Any], files: Mapping[str, bytes | Path]
) -> Bundle:
    """Write a bundle in one step: a reader finds the old one, none, or the whole new one.

    `files` maps a name to its bytes or to a file to copy; `manifest` needs everything but `schema_version`,
    `version` and `files`, which are filled in here. A folder at `out` that is not a bundle is never replaced.
    Raises `BundleError`.
    """
    target = Path(out).absolute()
    if (
        target.exists()
        and not (target / MANIFEST).is_file()
        and (not target.is_dir() or any(target.iterdir()))
    ):
        raise BundleError(f"{target} exists and is not a bundle: not replacing it")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.writing-"))
    try:
        listed = {name: _stage(staging, name, content) for name, content in sorted(files.items())}
        full = {**manifest, "schema_version": SCHEMA_VERSION, "files": listed}
        full["version"] = _version_of(full)
        _check_manifest(staging, full)
        _stage(staging, MANIFEST, (json.dumps(full, indent=1, sort_keys=True) + "\n").encode())
        staging.chmod(0o755)
        _swap(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return open_bundle(target)


def rewrite_bundle(
    bundle: Bundle,
    files: Mapping[str, bytes | Path],
    changes: Mapping[str, Any] | None = None,
    remove: Iterable[str] = (),
) -> Bundle:
    """The same bundle with files added, replaced or removed, and manifest fields changed; a new version."""
    dropped = set(remove)
    kept: dict[str, bytes | Path] = {
        name: bundle.path / name for name in bundle.manifest["files"] if name not in dropped
    }
    return write_bundle(bundle.path, {**bundle.manifest, **(changes or {})}, {**kept, **files})


def recover_bundle(path: str | os.PathLike[str]) -> None:
    """Put right what a killed writer left beside a bundle: half-written folders go, and where it died between
    the two renames of a swap the old bundle comes back. For whoever holds the bundle's lock."""
    target = Path(path).absolute()
    if not target.parent.is_dir():
        return
    for leftover in target.parent.glob(f".{target.name}.writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in target.parent.glob(f".{target.name}.old-*"):
        if not target.exists() and (leftover / "bundle" / MANIFEST).is_file():
            (leftover / "bundle").rename(target)
        shutil.rmtree(leftover, ignore_errors=True)


def _stage(folder: Path, name: str, content: bytes | Path) -> dict[str, Any]:
    if Path(name).name != name or not name.endswith(_ALLOWED_SUFFIXES):
        raise BundleError(
            f"bundle file {name!r}: a plain name ending in {' or '.join(_ALLOWED_SUFFIXES)} is needed"
        )
    data = content if isinstance(content, bytes) else content.read_bytes()
    with (folder / name).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _swap(staging: Path, target: Path) -> None:
    """Put the new folder in the old one's place; the gap between the two renames is microseconds."""
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old-"))
    target.rename(old / "bundle")
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _version_of(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "version"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise BundleError(f"{path} cannot be read as JSON: {exc}") from exc


def _check_manifest(folder: Path, manifest: object) -> None:
    where = folder / MANIFEST
    if not isinstance(manifest, Mapping):
        raise BundleError(f"{where} holds {type(manifest).__name__}, an object was expected")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            f"{where}: schema_version is {manifest.get('schema_version')!r}, "
            f"this version reads {SCHEMA_VERSION}"
        )
    for field in _REQUIRED:
        if manifest.get(field) is None:
            raise BundleError(f"{where}: field {field!r} is missing")
    for field in ("encoder", "scorers", "files"):
        if not isinstance(manifest[field], Mapping):
            raise BundleError(f"{where}: field {field!r} is {type(manifest[field]).__name__}, not an object")
    for field in ("name", "dimension", "sha256"):
        if manifest["encoder"].get(field) is None:
            raise BundleError(f"{where}: field 'encoder.{field}' is missing")
    tiers = manifest["tiers"]
    if (
        not isinstance(tiers, list)
        or len(tiers) < 2
        or not all(isinstance(t, Mapping) and "model" in t for t in tiers)
    ):
        raise BundleError(f"{where}: field 'tiers' must list at least two tiers, each with its 'model'")


def _check_files(folder: Path, files: Mapping[str, Any]) -> None:
    for name, entry in files.items():
        path = folder / name
        if Path(name).name != name:
            raise BundleError(f"{folder / MANIFEST}: files: {name!r} is not a plain name")
        if not path.is_file():
            raise BundleError(f"bundle {str(folder)!r}: file {name!r} is listed in {MANIFEST} and missing")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        wanted = entry.get("sha256") if isinstance(entry, Mapping) else None
        if found != wanted:
            raise BundleError(
                f"{path} is damaged: sha256 is {found[:12]}..., {MANIFEST} says {str(wanted)[:12]}..."
            )
