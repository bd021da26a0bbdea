"""`publish`: a checked, trimmed, versioned copy of a bundle for servers, and a model card.

    DIR/
      3f2a91c07b1d/            one folder a version, never changed once it is there
        manifest.json ...      what serving reads
        curve.safetensors      the calibration prompts' scores and labels, without what names a prompt: the
                               console's curve, the plan and the drift signals are drawn from them
        MODEL_CARD.md
      current -> 3f2a91c07b1d  what a server is given; moved in one step, then SIGHUP or POST /admin/reload

Every sha256 is checked before anything is written and again after. A server needs neither torch nor
transformers: ONNX graphs are built from the safetensors when a bundle is loaded, and `warm` builds them here
into UPSHIFT_CACHE, for images that are to start fast. With `--to FILE.tar.gz` the same folder is packed, with
no times or owners in it: equal bundles give equal files.

int8 is a claim about scores, so it is measured: on the bundle's own prompts (`--examples` has
their text) the 99th percentile of the change of any score must stay under .02 and at least 99.5 % of the
decisions at the operating point must be the same, else the encoders stay at fp32.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file
from safetensors.numpy import save as encode_tensors

from routing.bundle import Bundle, open_bundle, write_bundle
from routing.curve import CURVE_COLUMNS, CURVE_FILE
from routing.errors import BundleError
from scorers.errors import ScoringError
from scorers.runtime.scorers import load_scorers
from scorers.text import TEXT_TEMPLATE
from trainer.artifact import hold, replace_file
from trainer.fit import CALIBRATION_SCORES
from trainer.model_card import CARD, render_card
from trainer.progress import Progress, no_progress
from trainer.publish_int8 import Int8Verdict, as_int8, try_int8

CURRENT = "current"
ARCHIVE = ".tar.gz"


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """`examples` (tables with the bundle's prompts) are needed to try int8; without them encoders
    stay at fp32. `licence` and `report` (a report.json) go into the card. `warm` loads the result once."""

    examples: Sequence[str | Path] = ()
    licence: str = ""
    report: Path | None = None
    warm: bool = True


@dataclass(frozen=True, slots=True)
class Published:
    """`path` is the version's folder or the archive; `verdict` None where int8 was not tried."""

    path: Path
    version: str
    verdict: Int8Verdict | None


def publish_bundle(
    bundle_dir: str | Path,
    to: str | Path,
    options: PublishOptions | None = None,
    progress: Progress = no_progress,
) -> Published:
    """Publish a bundle to a folder of versions, or to one archive.

    Running it again changes nothing. Raises `BundleError` for a bundle that is damaged, not calibrated, or
    cannot be loaded; `StageError` when the disk refuses; `ExamplesError` for `examples` that do not fit.
    """
    options, target = options or PublishOptions(), Path(to)
    bundle = open_bundle(bundle_dir, TEXT_TEMPLATE)
    for name in ("policy.json", "calibration.json"):
        if not bundle.has(name):
            raise BundleError(f"{bundle.path}: file {name!r} is missing: run upshift calibrate first")
    progress("publish", 0, 3)
    verdict = try_int8(bundle, options.examples, progress) if options.examples else None
    progress("publish", 1, 3)
    archive = target.name.endswith(ARCHIVE)
    folder = target.parent if archive else target
    with hold(target if archive else target / CURRENT):
        for leftover in folder.glob(".publishing-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed; we hold the lock
        staging = Path(tempfile.mkdtemp(prefix=".publishing-", dir=folder))
        try:
            copy = _copy(bundle, staging, verdict is not None and verdict.kept)
            card = render_card(copy, verdict, options.licence, options.report)
            replace_file(copy.path / CARD, card.encode())
            if options.warm:
                _load(copy)
            progress("publish", 2, 3)
            path = _pack(copy, target) if archive else _install(copy, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    progress("publish", 3, 3)
    return Published(path, copy.version, verdict)


def _copy(bundle: Bundle, staging: Path, int8: bool) -> Bundle:
    """What serving needs, under the version that its content makes."""
    files: dict[str, bytes | Path] = {
        name: bundle.path / name for name in bundle.manifest["files"] if name != CALIBRATION_SCORES
    }
    if bundle.has(CALIBRATION_SCORES):
        files[CURVE_FILE] = _curve(bundle.path / CALIBRATION_SCORES)
    manifest = {**bundle.manifest, "published_from": bundle.version}
    if int8:
        manifest["scorers"] = as_int8(bundle.scorers)
    draft = write_bundle(staging / "bundle", manifest, files)
    named = staging / draft.version
    draft.path.rename(named)
    return open_bundle(named, TEXT_TEMPLATE)


def _curve(scores: Path) -> bytes:
    """The columns that serving reads (64 bytes a prompt), scored in fp32."""
    columns = load_file(scores)
    return encode_tensors({name: columns[name] for name in CURVE_COLUMNS if name in columns})


def _load(copy: Bundle) -> None:
    """Load it as a server would: builds and caches the ONNX graphs, and finds what cannot be served."""
    try:
        load_scorers(copy.path, copy.scorers, threads=1).score_prompts(["warm up"])
    except ScoringError as exc:
        raise BundleError(f"{copy.path}: cannot be served: {exc}") from exc


def _install(copy: Bundle, target: Path) -> Path:
    """Put the version's folder in its place, then move the pointer."""
    final = target / copy.version
    if final.is_dir() and _is_whole(final):
        replace_file(final / CARD, (copy.path / CARD).read_bytes())
    else:
        shutil.rmtree(final, ignore_errors=True)
        copy.path.rename(final)
    pointer = target / CURRENT
    if pointer.exists() and not pointer.is_symlink():
        raise BundleError(f"{pointer} is no link: it was not written by publish, and is left as it is")
    fresh = target / f".{CURRENT}.partial"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(copy.version)
    os.replace(fresh, pointer)
    return final


def _is_whole(folder: Path) -> bool:
    try:
        open_bundle(folder, TEXT_TEMPLATE)
    except BundleError:
        return False
    return True


def _pack(copy: Bundle, target: Path) -> Path:
    """The version's folder as an archive of the same bytes every time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(copy.path.iterdir()):
            entry = tarfile.TarInfo(f"{copy.version}/{path.name}")
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file:
        file.write(raw.getvalue())
    replace_file(target, packed.getvalue())
    return target
