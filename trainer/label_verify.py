"""Labels from a rule: the answer against the reference, or against a form; no model, no request."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from routing.errors import ExamplesError, SettingsError
from scorers.verifiers import UnknownVerifier, Verifier, find_verifier
from trainer.label_rows import Labelled, LabelRow
from trainer.progress import Progress

_STEP_ROWS = 1000


def verify_rows(rows: Sequence[LabelRow], name: str, pattern: str, progress: Progress) -> Labelled:
    """A quality for every row. `pattern` stands in for the reference of `regex`.

    Raises `SettingsError` (an unknown verifier, a pattern that is none), `ExamplesError` when no row has
    the reference it needs.
    """
    try:
        verifier = find_verifier(name)
    except UnknownVerifier as exc:
        raise SettingsError(f"--verify: {exc}") from exc
    if pattern and name != "regex":
        raise SettingsError(f"--pattern belongs to --verify regex, not to {name}")
    if verifier.needs_reference and not pattern and all(row.reference is None for row in rows):
        raise ExamplesError(f"no row has a reference, which --verify {name} compares with")
    out = Labelled(f"verify {name}" + (f" {pattern}" if pattern else ""))
    for done, row in enumerate(rows):
        _verify(out, verifier, row, pattern)
        if done % _STEP_ROWS == 0:
            progress("label", done, len(rows))
    progress("label", len(rows), len(rows))
    return out


def _verify(out: Labelled, verifier: Verifier, row: LabelRow, pattern: str) -> None:
    reference = pattern or row.reference
    if row.response is None:
        out.fail(row, "the row has no answer to verify")
    elif verifier.needs_reference and reference is None:
        out.fail(row, f"the row has no reference, which {verifier.name} compares with")
    else:
        try:
            quality = verifier.check(row.response, reference)
        except re.error as exc:
            raise SettingsError(f"{reference!r} is no regular expression: {exc}") from exc
        if quality is None:
            out.fail(row, f"{verifier.name} has nothing to say about this answer")
        elif not 0.0 <= quality <= 1.0 or math.isnan(quality):
            raise SettingsError(f"verifier {verifier.name!r} gave {quality!r}, outside 0..1")
        else:
            out.quality[row.number] = float(quality)
