"""Line plots as inline SVG, drawn by hand: no plotting library, no script, nothing fetched.

Colours are chosen to stay apart for the colour-blind (Okabe & Ito 2008) and every line is also told apart by
its dash and by a label in the legend.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 46
COLOURS = {
    "cascade": "#d55e00",
    "evaluator": "#0072b2",
    "mf": "#009e73",
    "difficulty": "#cc79a7",
    "length": "#8c6d1f",
    "random": "#777777",
    "oracle": "#000000",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; `dash` is an SVG dash pattern, empty for a solid line; `dots` draws points, not a line."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dash: str = ""
    dots: bool = False


def draw_plot(lines: Sequence[Line], title: str, x_label: str, y_label: str, from_zero: bool = False) -> str:
    """An `<svg>` with axes, grid and legend; `title` is read out by screen readers."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y]
    if not xs:
        return ""
    x_low, x_high = _padded(min(xs), max(xs), from_zero)
    y_low, y_high = _padded(min(ys), max(ys), from_zero)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return (
            _LEFT + across * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">',
        f"<title>{html.escape(title)}</title>",
    ]
    for value in _ticks(x_low, x_high):
        x, _ = place(value, y_low)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:.4g}</text>')
    for value in _ticks(y_low, y_high):
        _, y = place(x_low, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for line in lines:
        parts.append(_draw(line, [place(x, y) for x, y in zip(line.x, line.y, strict=True)]))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>')
    half = (_TOP + HEIGHT - _BOTTOM) / 2
    turned = f'transform="translate(14 {half}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>{html.escape(y_label)}</text>")
    parts.append("</svg>")
    return "".join(parts) + _legend(lines)


def _draw(line: Line, points: Sequence[tuple[float, float]]) -> str:
    if line.dots:
        return "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{line.colour}"><title>'
            f"{html.escape(line.label)}: {a:.3f}, {b:.3f}</title></circle>"
            for (x, y), a, b in zip(points, line.x, line.y, strict=True)
        )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>'


def _legend(lines: Sequence[Line]) -> str:
    items = []
    for line in lines:
        mark = (
            f'<circle cx="12" cy="6" r="4" fill="{line.colour}"/>'
            if line.dots
            else f'<line x1="0" x2="24" y1="6" y2="6" stroke="{line.colour}" stroke-width="3" '
            f'stroke-dasharray="{line.dash or "none"}"/>'
        )
        items.append(f'<li><svg class="key" viewBox="0 0 24 12">{mark}</svg>{html.escape(line.label)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _padded(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    if from_zero:
        return 0.0, max(high, 1.0)
    span = (high - low) or max(abs(high), 1.0)
    return low - 0.04 * span, high + 0.04 * span


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the ends."""
    raw = (high - low) / 5
    power = 10.0 ** (len(f"{int(raw)}") - 1 if raw >= 1 else -_leading_zeros(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = int(low // step) + (0 if low % step == 0 else 1)
    out = []
    while first * step <= high + 1e-12:
        out.append(round(first * step, 12))
        first += 1
    return out


def _leading_zeros(value: float) -> int:
    zeros = 0
    while value < 1.0:
        value *= 10.0
        zeros += 1
    return zeros
