"""The model card beside a published bundle: what a person has to know before trusting its decisions.

Everything on it is read from the bundle (and from a report.json, where one is given); it has no clock in it,
so the same bundle gives the same card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routing.bundle import ANY_MODEL, Bundle
from routing.errors import BundleError
from scorers.embedders import is_remote

CARD = "MODEL_CARD.md"
_FIGURES = ("apgr", "auroc", "adequacy_auroc", "ece", "calls_saved_at_95", "cost_at_95")


def render_card(bundle: Bundle, verdict: object | None, licence: str, report: Path | None) -> str:
    """The card as markdown. `verdict` is what was measured about int8; None: encoders run in fp32.

    Raises `BundleError` when the report is no report of this pair.
    """
    manifest = bundle.manifest
    sections = [
        f"# Upshift bundle {bundle.version}",
        _purpose(bundle),
        "## Data",
        _data(manifest["data"], licence, manifest["tiers"]),
        "## Scorers",
        _scorers(bundle, verdict),
        "## Certificate",
        _certificate(bundle),
        "## Figures",
        _figures(bundle, report),
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(sections) + "\n"


_LIMITS = """\
- It judges prompts like those it was fitted on. Traffic that drifts away from them is not covered; fit again
  from your own log.
- *Adequate* means what the judge named above calls adequate. Another judge may see it otherwise.
- Answers that were pinned, degraded (a tier failed) or let through because a scorer failed are outside every
  promise.
- It decides which model answers. It checks no facts and filters no content."""


def _purpose(bundle: Bundle) -> str:
    decides = "Decides, prompt by prompt and answer by answer, which of these models answers"
    if ANY_MODEL in bundle.tiers:
        return f"{decides}: any cheap one, any dear one.\n\n{bundle.manifest.get('notice', '')}".rstrip()
    return f"{decides}: {' -> '.join(f'`{name}`' for name in bundle.tiers)}."


def _data(data: Mapping[str, Any], licence: str, tiers: Sequence[Mapping[str, Any]]) -> str:
    files = ", ".join(f"`{f['name']}` ({f['rows']} rows, sha256 {f['sha256'][:12]})" for f in data["files"])
    splits = ", ".join(f"{name} {n}" for name, n in data["splits"].items())
    return "\n".join(
        [
            f"- files: {files}",
            f"- {data['prompts']} prompts answered by both ends of the ladder, split by prompt: {splits}",
            *_fitted_on(tiers),
            f"- judge: {data['judge'] or 'not named in the table'}",
            f"- licence of the data: {licence or 'not stated; ask whoever published it'}",
        ]
    )


def _fitted_on(tiers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models whose outcomes it was fitted on, where the bundle goes in front of others."""
    names = [f"`{tier['fitted_on']}`" for tier in tiers if "fitted_on" in tier]
    return [f"- models whose outcomes these are: {' and '.join(names)}"] if names else []


def _scorers(bundle: Bundle, verdict: object | None) -> str:
    lines = []
    for name, entry in bundle.scorers.items():
        encoder = entry["encoder"]
        pinned = "served there" if is_remote(encoder["name"]) else f"sha256 {encoder['sha256'][:12]}"
        lines.append(f"- {name}: encoder `{encoder['name']}` ({pinned})")
    lines.append(f"- arithmetic: {verdict or 'fp32; int8 was not tried'}")
    lines.append("- serving needs these encoders' files (see README), and neither torch nor transformers")
    return "\n".join(lines)


def _certificate(bundle: Bundle) -> str:
    if not bundle.has("certificate.json"):
        return "None. The operating point is an estimate; `upshift calibrate` certifies it, or says why not."
    proof = bundle.read_json("certificate.json")
    if not proof["granted"]:
        return f"None. {proof['reason']}"
    quality, confidence = f"{proof['quality']:.1%}", f"{proof['confidence']:.1%}"
    rows = proof["calibration_rows"], proof["certification_rows"]
    return "\n".join(
        [
            f"- quality >= {quality} of the last tier's, at confidence {confidence}",
            f"- strong calls saved at the operating point: {proof['saved']:.1%}",
            f"- {rows[0]} calibration and {rows[1]} certification prompts",
            f"- valid until {proof['valid_until']}",
            f"- {proof['scope']}",
        ]
    )


def _figures(bundle: Bundle, report: Path | None) -> str:
    if report is None:
        return "None given: `upshift evaluate` writes a report, `upshift publish --report` puts it here."
    try:
        found = json.loads(report.read_bytes())
        pair, strategies = found["pair"], found["strategies"]
        if (pair["weak"], pair["strong"]) != (bundle.tiers[0], bundle.tiers[-1]):
            raise BundleError(
                f"{report} is of {pair['weak']} -> {pair['strong']}, the bundle of "
                f"{bundle.tiers[0]} -> {bundle.tiers[-1]}"
            )
        rows = [
            f"| {name} | " + " | ".join(_cell(row[f]) for f in _FIGURES) + " |"
            for name, row in strategies.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BundleError(f"{report} cannot be read as a report.json: {exc!r}") from exc
    head = "| strategy | " + " | ".join(_FIGURES) + " |"
    rule = "|---" * (len(_FIGURES) + 1) + "|"
    return "\n".join([f"{found['n']} held-out prompts.", "", head, rule, *rows])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
