"""report.html: the evaluation as one file that opens anywhere, without a network.

The page says first what a reader wants to decide (is there a certificate, what does each strategy save), then
shows the curves and the tables behind it. Every figure of report.json is on it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report_plots import COLOURS, Line, draw_plot

_SERVED = ("mf", "difficulty", "evaluator", "cascade")
_ORDER = ("oracle", "cascade", "evaluator", "difficulty", "mf", "length", "random")
_TENTH = "tenth: characters"
_DASHES = {"oracle": "2 3", "random": "6 4", "length": "8 3 2 3"}

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:0 auto;padding:1.5rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.4rem 0;max-width:75ch}.note{opacity:.75;font-size:.9em}
.plots{display:flex;flex-wrap:wrap;gap:1.5rem}figure{flex:1 1 420px;margin:0;min-width:0}
figcaption{font-weight:600;margin-bottom:.3rem}
svg{width:100%;max-width:44rem;height:auto}
svg text{font-size:11px;fill:currentColor}svg .grid{stroke:var(--line)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1rem;padding:0;margin:.3rem 0;font-size:.85em}
.key{width:24px;height:12px;margin-right:.35rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9em}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid var(--line)}
.verdict{padding:.7rem 1rem;border-left:4px solid #0072b2;background:var(--soft)}
"""


def render_report(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """The page, from report.json's data and `Evaluation.details`."""
    pair = report["pair"]
    title = f"Upshift: {pair['weak']} \u2192 {pair['strong']}"
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        _summary(report),
        _certificate(report["certificate"]),
        "<h2>Quality against strong calls and against cost</h2>",
        _curves(report, details),
        "<h2>Side by side</h2>",
        _table_of_strategies(report),
        _table_of_points(report, details),
        _break_even(report, details),
        "<h2>Are the differences real?</h2>",
        _table_of_differences(details),
        "<h2>Does P(adequate) mean what it says?</h2>",
        _reliability(details),
        _table_of_slices("By group", "group", details["groups"]),
        _table_of_slices("By length of the prompt", "tenth: characters", details["prompt_length_deciles"]),
        _table_of_slices(
            "By length of the weak answer", "tenth: characters", details["answer_length_deciles"]
        ),
        _coverage(details.get("coverage")),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "".join(sections)
        + "</body></html>\n"
    )


def _summary(report: Mapping[str, Any]) -> str:
    quality, cost = report["quality"], report["cost"]
    price = (
        "No cost is known, so cost figures are left out: give <code>--price-ratio</code>."
        if cost["price_ratio"] is None
        else f"A weak answer costs {number(cost['weak'], 5)}, a strong one {number(cost['strong'], 5)} "
        f"(ratio {number(cost['price_ratio'])})."
    )
    return (
        f"<p>{report['n']:,} held-out prompts. Quality: {html.escape(report['pair']['weak'])} "
        f"{number(quality['weak'])}, {html.escape(report['pair']['strong'])} {number(quality['strong'])}. "
        f"{price}</p>"
    )


def _certificate(certificate: Mapping[str, Any] | None) -> str:
    if certificate is None:
        return '<p class="verdict">No certificate: this bundle carries no promise about quality.</p>'
    text = html.escape(str(certificate.get("reason", "")))
    if not certificate.get("granted"):
        return f'<p class="verdict">No certificate: {text}.</p>'
    return (
        f'<p class="verdict">Certificate with confidence {number(certificate["confidence"])}: at least '
        f"{number(certificate['quality'])} of strong's quality, {text}. Valid until "
        f"{html.escape(str(certificate['valid_until']))}. {html.escape(str(certificate['scope']))}</p>"
    )


def _curves(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    curves, quality, cost = details["curves"], report["quality"], report["cost"]
    figures = [_curve_figure(curves, "strong_share", "Share of strong calls", (0.0, 1.0), quality)]
    if cost["price_ratio"] is not None:
        figures.append(
            _curve_figure(curves, "cost", "Cost per prompt", (cost["weak"], cost["strong"]), quality)
        )
    return (
        f'<div class="plots">{"".join(figures)}</div><p class="note">Cost counts weak answers, rejected '
        "answers and scorers. The random mix joins the two single models (dots); the level line is the "
        "better one of them.</p>"
    )


def _curve_figure(
    curves: Mapping[str, Any], key: str, x_label: str, ends: tuple[float, float], quality: Mapping[str, float]
) -> str:
    lines = [
        Line(name, curves[name][key], curves[name]["quality"], COLOURS[name], _DASHES.get(name, ""))
        for name in _ORDER
        if name in curves
    ]
    best = max(quality["weak"], quality["strong"])
    single = Line("best single model", list(ends), [best, best], "#888888", "1 5")
    singles = Line("single models", list(ends), [quality["weak"], quality["strong"]], "#888888", dots=True)
    title = f"Quality against {x_label.lower()}"
    plot = draw_plot([*lines, single, singles], title, x_label, "Quality")
    return f"<figure><figcaption>{title}</figcaption>{plot}</figure>"


def _table_of_strategies(report: Mapping[str, Any]) -> str:
    heads = [
        *("strategy", "APGR", "95 % interval", "APGR over cost", "CPT50", "CPT80", "AUROC"),
        *("adequacy AUROC", "Brier", "ECE", "ECE excess", "slope"),
    ]
    rows = []
    for name, row in report["strategies"].items():
        bounds = row["apgr_ci95"]
        shown = "\u2013" if bounds is None else f"{number(bounds[0])} \u2026 {number(bounds[1])}"
        figures = [row[key] for key in ("apgr_cost", "cpt50", "cpt80", "auroc", "adequacy_auroc", "brier",
                                        "ece", "ece_excess", "cal_slope")]  # fmt: skip
        rows.append([name, number(row["apgr"]), shown, *map(number, figures)])
    return table(heads, rows) + (
        '<p class="note">APGR: average share of the quality gap closed over all shares of strong calls; '
        "random is .5. CPT50: share of strong calls that closes half of the gap. AUROC: of the score for "
        "shifting up against &ldquo;strong is better&rdquo;. Adequacy: the weak answer's quality is at "
        "least .5. ECE excess: ECE beyond what chance gives at this number of prompts; slope: 1 when "
        "right.</p>"
    )


def _table_of_points(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    heads = ["at 95 % of strong's quality", "threshold", "quality kept here", "strong calls saved", "cost",
             "saved, best here", "cost, best here"]  # fmt: skip
    rows = []
    for name, row in report["strategies"].items():
        point = details["operating_points"].get(name, {})
        rows.append([
            name,
            number(point.get("threshold")),
            percent(point.get("quality_kept")),
            percent(row["calls_saved_at_95"]),
            number(row["cost_at_95"], 5),
            percent(row["calls_saved_at_95_oracle"]),
            number(row["cost_at_95_oracle"], 5),
        ])  # fmt: skip
    return table(heads, rows) + (
        '<p class="note">Thresholds were chosen on the calibration split; &ldquo;best here&rdquo; is '
        "what nobody could have known beforehand.</p>"
    )


def _break_even(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    even = details["break_even"]
    ratio = report["cost"]["price_ratio"]
    stated = "" if ratio is None else f"The ratio here is {number(ratio)}. "
    return (
        "<p>A cascade that judges every weak answer breaks even with always-strong at a price ratio (weak : "
        f"strong) of <b>{number(even['always_strong'])}</b>, and with a random mix of equal quality at "
        f"<b>{number(even['random_mix'])}</b>; a perfect evaluator would at {number(even['perfect'])}. "
        f"{stated}Above these the cascade costs more than it saves.</p>"
    )


def _table_of_differences(details: Mapping[str, Any]) -> str:
    rows = [
        [name, number(gap["mean"]), f"{number(gap['low'])} \u2026 {number(gap['high'])}", number(gap["p"], 4)]
        for name, gap in details["differences"].items()
    ]
    if not rows:
        return "<p>Strong is not better than weak on these prompts, so there is no gap to close.</p>"
    return table(["APGR", "difference", "95 % interval", "p (paired bootstrap)"], rows)


def _reliability(details: Mapping[str, Any]) -> str:
    figures = []
    for name, bins in details["reliability"].items():
        dots = Line(
            name, [b["predicted"] for b in bins], [b["observed"] for b in bins], COLOURS[name], dots=True
        )
        right = Line("right", [0.0, 1.0], [0.0, 1.0], "#888888", "4 4")
        title = f"P(adequate) by {name}"
        plot = draw_plot([right, dots], title, "Predicted", "Observed", from_zero=True)
        figures.append(f"<figure><figcaption>{title}</figcaption>{plot}</figure>")
    if not figures:
        return "<p>No scorer states P(adequate) on these rows.</p>"
    return f'<div class="plots">{"".join(figures)}</div>'


def _table_of_slices(title: str, what: str, slices: Mapping[str, Mapping[str, Any]]) -> str:
    if not slices or set(slices) == {""}:
        return ""
    heads = [what, "prompts", "weak", "strong", "adequacy AUROC", *(f"APGR {name}" for name in _SERVED)]
    rows = [
        [
            key,
            f"{row['n']:,}",
            number(row["weak"]),
            number(row["strong"]),
            number(row["adequacy_auroc"]),
            *(number(row["apgr"].get(name)) for name in _SERVED),
        ]
        for key, row in slices.items()
    ]
    return f"<h2>{html.escape(title)}</h2>" + table(heads, rows)


def _coverage(coverage: Mapping[str, Any] | None) -> str:
    if coverage is None:
        return ""
    return (
        "<h2>Does the certificate keep its word?</h2>"
        f"<p>Taking these prompts as the whole population, {coverage['draws']:,} certificates were computed "
        f"on {coverage['rows']:,} of them each: {percent(coverage['violations'])} broke the promise (allowed "
        f"{percent(coverage['allowed'])}), {percent(coverage['granted'])} were granted, and the median saved "
        f"{percent(coverage['saved_median'])} of the strong calls.</p>"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; cells are escaped."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None, digits: int = 3) -> str:
    """Rounded, or a dash for None."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in per cent, or a dash for None."""
    return "\u2013" if value is None else f"{100.0 * value:.1f} %"
