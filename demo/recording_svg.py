"""Draws a recorded terminal as one SVG: every line appears when it was complete, and the last frame stays.

No script, no font and no picture from elsewhere: CSS alone reveals the lines, so it plays where an SVG is
shown as an image. Who asks for no motion, or prints it, sees the last frame. The same cast gives the same
bytes.
"""

from __future__ import annotations

import json
import re
from html import escape

_CHAR_PX, _LINE_PX, _FONT_PX, _PAD_PX, _BAR_PX = 7.25, 16, 12, 16, 26
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x07")
_TIER = re.compile(r"(?<=  )(weak|strong)(?=  )")

_STYLE = """
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
text{fill:#cbd5e1;white-space:pre}
.typed{fill:#f8fafc;font-weight:600}.weak{fill:#4ade80}.strong{fill:#fbbf24}.title{fill:#94a3b8}
.line{animation:show .01s linear both}@keyframes show{from{opacity:0}to{opacity:1}}
@media (prefers-reduced-motion:reduce),print{.line{animation:none}}
""".strip()


def read_cast(cast: str) -> tuple[dict[str, object], list[tuple[float, str]]]:
    """Header and output events of a version 2 cast. Raises `ValueError` naming the line that is wrong."""
    lines = cast.splitlines()
    header = json.loads(lines[0])
    if header.get("version") != 2:
        raise ValueError(f"line 1: version is {header.get('version')!r}, expected 2")
    events: list[tuple[float, str]] = []
    for number, line in enumerate(lines[1:], start=2):
        at, kind, text = json.loads(line)
        if events and at < events[-1][0]:
            raise ValueError(f"line {number}: {at} s comes before {events[-1][0]} s")
        if kind == "o":
            events.append((float(at), text))
    return header, events


def screen_lines(events: list[tuple[float, str]], columns: int) -> list[tuple[float, str]]:
    """What stands on the screen in the end, line by line: (when it was complete, text), wrapped.

    Keys come one by one; more than one character behind a bare prompt is a job in the background that wrote
    over it, so the prompt goes.
    """
    lines: list[tuple[float, str]] = [(0.0, "")]
    at_start = False  # a carriage return was seen: the next character overwrites
    for at, raw in events:
        if lines[-1][1] == "$ " and len(raw.strip()) > 1:
            lines[-1] = (at, "")
        for char in _ESCAPE.sub("", raw):
            if char == "\n":
                lines.append((at, ""))
                at_start = False
            elif char == "\r":
                at_start = True
            else:
                text = "" if at_start else lines[-1][1]
                if len(text) == columns:
                    lines.append((at, ""))
                    text = ""
                at_start = False
                lines[-1] = (at, text + char)
    while lines and lines[-1][1].strip() in ("", "$"):
        lines.pop()
    return lines


def draw_recording(cast: str) -> str:
    """The SVG of a cast."""
    header, events = read_cast(cast)
    columns = int(str(header["width"]))
    lines = screen_lines(events, columns)
    width = round(columns * _CHAR_PX + 2 * _PAD_PX)
    height = _BAR_PX + len(lines) * _LINE_PX + 2 * _PAD_PX
    title = escape(str(header.get("title", "")))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="10" fill="#0f172a"/>',
        *(f'<circle cx="{18 + 16 * n}" cy="15" r="5" fill="#334155"/>' for n in range(3)),
        f'<text class="title" x="{width / 2:g}" y="19" text-anchor="middle">{title}</text>',
    ]
    for number, (at, text) in enumerate(lines):
        if text.strip():
            y = _BAR_PX + _PAD_PX + number * _LINE_PX + _FONT_PX
            kind = "line typed" if text.startswith("$ ") else "line"
            shown = _TIER.sub(r'<tspan class="\1">\1</tspan>', escape(text.rstrip(), quote=False))
            parts.append(
                f'<text class="{kind}" x="{_PAD_PX}" y="{y}" xml:space="preserve" '
                f'style="animation-delay:{at:.2f}s">{shown}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"
