"""`evaluate` on a bundle: score held-out examples, compute, and write report.json and report.html.

`details.json` beside them holds what the page draws (curves, slices, reliability), for whoever plots by
himself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from routing.bundle import open_bundle
from routing.certificate import Promise
from routing.errors import BundleError
from scorers.text import TEXT_TEMPLATE
from trainer.artifact import replace_file
from trainer.calibrate import FittedPolicy
from trainer.calibrate_bundle import TokenPrices, encode_json, with_token_costs
from trainer.coverage import measure_coverage
from trainer.evaluate import Evaluation, evaluate_scored
from trainer.examples import pair_examples, read_examples
from trainer.progress import Progress, no_progress
from trainer.report import render_report
from trainer.score import score_pairs

COVERAGE_DRAWS = 100
_COVERAGE_ROWS = 1000
_COVERAGE_LEAST = 200  # prompts: fewer make no population


def evaluate_bundle(
    bundle_dir: str | Path,
    examples: Sequence[str | Path],
    out: str | Path,
    *,
    pair: tuple[str, str] | None = None,
    price_ratio: float | None = None,
    prices: TokenPrices | None = None,
    draws: int = 1000,
    coverage_draws: int = COVERAGE_DRAWS,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Evaluation:
    """Judge a bundle on examples and write `out`/report.json, report.html and details.json.

    `pair` defaults to the bundle's first and last tier. Raises `BundleError`, `ExamplesError` and, where the
    report cannot be written, `StageError`.
    """
    bundle = open_bundle(bundle_dir, TEXT_TEMPLATE)
    for name in ("policy.json", "calibration.json"):
        if not bundle.has(name):
            raise BundleError(f"{bundle.path}: file {name!r} is missing: run upshift calibrate first")
    fitted = FittedPolicy.from_dicts(bundle.read_json("policy.json"), bundle.read_json("calibration.json"))
    weak, strong = pair or (bundle.tiers[0], bundle.tiers[-1])
    pairs = pair_examples(read_examples(examples), weak, strong)
    scored = with_token_costs(score_pairs(bundle, pairs, progress), pairs, prices)
    certificate = bundle.read_json("certificate.json") if bundle.has("certificate.json") else None
    result = evaluate_scored(
        scored, fitted, certificate=certificate, price_ratio=price_ratio, draws=draws, seed=seed
    )
    seen = {prompt for ids in bundle.prompt_ids().values() for prompt in ids}
    result.details["prompts_seen_in_fitting"] = len(seen & set(scored.prompt_id))
    if coverage_draws and len(scored) >= _COVERAGE_LEAST and result.report["strategies"]["cascade"]["apgr"]:
        coverage = measure_coverage(
            scored,
            Promise(),
            draws=coverage_draws,
            rows=min(_COVERAGE_ROWS, len(scored) // 2),
            price_ratio=price_ratio,
            seed=seed,
        )
        result.details["coverage"] = coverage.to_dict()
    _write(Path(out), result)
    return result


def _write(folder: Path, result: Evaluation) -> None:
    page = render_report(result.report, result.details)
    replace_file(folder / "details.json", encode_json(result.details))
    replace_file(folder / "report.html", page.encode())
    replace_file(folder / "report.json", encode_json(result.report))
