"""The figures of a routing benchmark as Markdown tables, ready for the README."""

from __future__ import annotations

from collections.abc import Iterator

from bench.routing_figures import SHARES, Figures
from bench.routing_pairs import Pair
from trainer.metrics_bootstrap import Difference


def tables(pair: Pair, figures: Figures, n_fit: int) -> str:
    """Everything, one block after the other."""
    blocks = [
        _head(pair, figures, n_fit),
        "\n".join(_served(figures)),
        "\n".join(_curves(figures)),
        "\n".join(_equal_share(figures)),
        "\n".join(_differences(figures)),
        "\n".join(_break_even(figures)),
        "\n".join(_ratios(figures)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _head(pair: Pair, figures: Figures, n_fit: int) -> str:
    return (
        f"### {pair.weak} -> {pair.strong}\n\n"
        f"{n_fit} prompts to learn from, {figures.n} held out. Prices: {pair.prices} ({pair.source}). "
        f"Costs below are relative to always-strong ({_cost(figures.strong['cost'])} a prompt); scorers' own "
        "cost is not in them. Differences are in quality, with a 95 % paired bootstrap interval."
    )


def _served(figures: Figures) -> Iterator[str]:
    columns = ("model name sent", "quality", "of strong's", "strong calls", "cost")
    yield _row(*columns, "quality - random at equal calls", "at equal cost")
    yield "|---|---|---|---|---|---|---|"
    top, unit = figures.strong["quality"], figures.strong["cost"]
    for row in figures.served:
        yield (
            f"| `{row.model}` | {row.quality:.3f} | {row.quality / top:.1%} | {row.strong_share:.1%} | "
            f"{row.cost / unit:.3f} | {_told(row.at_equal_share)} | {_told(row.at_equal_cost)} |"
        )


def _curves(figures: Figures) -> Iterator[str]:
    yield "| curve | APGR | 95 % | APGR over cost | CPT 50 % | CPT 80 % | AUROC of adequacy |"
    yield "|---|---|---|---|---|---|---|"
    for name, row in figures.curves.items():
        bounds = row["apgr_ci95"]
        between = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if isinstance(bounds, list) else "-"
        values = (row[key] for key in ("apgr", "apgr_cost", "cpt50", "cpt80", "adequacy_auroc"))
        first, *rest = (f"{value:.3f}" if isinstance(value, float) else "-" for value in values)
        yield f"| {name} | {first} | {between} | {' | '.join(rest)} |"


def _equal_share(figures: Figures) -> Iterator[str]:
    yield (
        "| quality - random at equal strong calls | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
    )
    yield "|---" * (len(SHARES) + 1) + "|"
    for name, row in figures.equal_share.items():
        yield f"| {name} | " + " | ".join(_told(found) for found in row.values()) + " |"


def _differences(figures: Figures) -> Iterator[str]:
    yield "| difference of APGR (random is .5) | paired bootstrap | p |"
    yield "|---|---|---|"
    for name, found in figures.differences.items():
        yield f"| {name} | {_told(found)} | {'-' if found is None else f'{found.p:.3f}'} |"


def _break_even(figures: Figures) -> Iterator[str]:
    if not figures.break_even:
        return
    costs = ("cost of evaluator", "of cascade", "of a random mix")
    calls = ("strong calls of evaluator", "of a random mix")
    limits = ("pays against always-strong below", "against a random mix below")
    yield _row("quality, of strong's", *costs, *calls, *limits)
    yield "|---" * 8 + "|"
    for row in figures.break_even:
        told = (row.get(f"cost_{name}") for name in ("evaluator", "cascade", "random"))
        mix = row["random_mix"]
        yield _row(
            f"{row['quality']:.0%}",
            *("-" if cost is None else f"{cost:.3f}" for cost in told),
            f"{row['strong_share']:.1%}",
            f"{row['random_share']:.1%}",
            f"{row['always_strong']:.3f}",
            "-" if mix is None else "never" if mix <= 0 else f"{mix:.3f}",
        )
    yield ""
    yield (
        "Costs are at the prices stated, over always-strong's, which is 1. The right columns are prices of "
        "a weak answer over a strong one's; an evaluator without error would pay against always-strong, with "
        f"strong's quality, below {figures.oracle_break_even:.3f}. All points are the best in hindsight."
    )


def _ratios(figures: Figures) -> Iterator[str]:
    if not figures.priced:
        return
    yield "| price of weak : strong | joint rule | evaluator on every answer | random mix |"
    yield "|---|---|---|---|"
    for row in figures.priced:
        yield f"| {row['ratio']:g} | {row['cascade']:.3f} | {row['evaluator']:.3f} | {row['random']:.3f} |"
    yield ""
    yield "Least cost, over always-strong's, at 95 % of the strong model's quality; in hindsight."


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _told(found: Difference | None) -> str:
    return "-" if found is None else f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _cost(value: float) -> str:
    return "1" if value == 1.0 else f"{value:.3g} US dollars"
