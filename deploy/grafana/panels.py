"""A panel of a dashboard: what is particular to it, rendered with Grafana's defaults around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SELECT = 'job=~"$job",instance=~"$instance"'
# One colour a decision on every panel: green was cheap, blue was paid for, orange was paid for twice.
_COLOURS = {
    "weak": "green", "strong": "blue", "escalated": "orange", "pinned": "#8e8e8e", "degraded": "red",
    "none": "purple", "ok": "green", "client_error": "yellow", "upstream_error": "red", "timeout": "dark-red",
    "shed": "purple", "cancelled": "#8e8e8e", "always strong": "blue", "upshift": "green",
    "low": "#8e8e8e", "expected": "blue", "high": "#8e8e8e", "now": "orange",
}  # fmt: skip


@dataclass
class Query:
    """One PromQL expression; `@` stands for the selector of the dashboard's variables."""

    expr: str
    legend: str = ""

    def target(self, index: int, kind: str) -> dict[str, Any]:
        expr = self.expr.replace("@", _SELECT)
        return {
            "refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr,
            "legendFormat": self.legend or "__auto", "instant": kind in ("stat", "bargauge"),
            "range": kind not in ("stat", "bargauge"),
            "format": "heatmap" if kind == "heatmap" else "time_series",
        }  # fmt: skip


@dataclass
class Panel:
    """One panel; `width` of 24 columns, `height` in grid units."""

    title: str
    queries: list[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    help: str = ""
    stack: bool = False
    steps: list[tuple[float | None, str]] = field(default_factory=lambda: [(None, "green")])
    bounds: tuple[float | None, float | None] = (None, None)
    decimals: int | None = None
    names: dict[str, tuple[str, str]] = field(default_factory=dict)  # value -> what is shown, its colour

    def render(self, identity: int, x: int, y: int) -> dict[str, Any]:
        return {
            "id": identity, "type": self.kind, "title": self.title, "description": self.help,
            "datasource": SOURCE, "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [query.target(index, self.kind) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": self._options(),
        }  # fmt: skip

    def _defaults(self) -> dict[str, Any]:
        steps = [{"value": value, "color": colour} for value, colour in self.steps]
        defaults: dict[str, Any] = {
            "unit": self.unit, "min": self.bounds[0], "max": self.bounds[1], "decimals": self.decimals,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "thresholds" if self.kind in ("stat", "bargauge") else "palette-classic"},
        }  # fmt: skip
        if self.kind == "timeseries":
            defaults["custom"] = {
                "lineWidth": 2, "fillOpacity": 35 if self.stack else 8, "showPoints": "never",
                "stacking": {"mode": "normal" if self.stack else "none"}, "spanNulls": True,
            }  # fmt: skip
        if self.kind == "state-timeline":
            defaults |= {"color": {"mode": "thresholds"}, "custom": {"fillOpacity": 75, "lineWidth": 0}}
            defaults["mappings"] = [
                {"type": "value", "options": {"0": {"text": "down"}, "1": {"text": "up"}}}
            ]
        if self.names:
            shown = {value: {"text": text, "color": colour} for value, (text, colour) in self.names.items()}
            defaults["mappings"] = [{"type": "value", "options": shown}]
        return {name: value for name, value in defaults.items() if value is not None}

    def _overrides(self) -> list[dict[str, Any]]:
        legends = {query.legend for query in self.queries}
        if self.kind != "timeseries" or not legends & {"{{decision}}", "{{outcome}}", "{{bound}}", *_COLOURS}:
            return []
        return [
            {"matcher": {"id": "byName", "options": name},
             "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}]}
            for name, colour in _COLOURS.items()
        ]  # fmt: skip

    def _options(self) -> dict[str, Any]:
        if self.kind == "stat":
            return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background_solid",
                    "graphMode": "none", "textMode": "value"}  # fmt: skip
        if self.kind == "heatmap":
            return {"calculate": False, "yAxis": {"unit": self.unit, "axisPlacement": "left"},
                    "color": {"mode": "scheme", "scheme": "Blues", "steps": 64}, "cellGap": 1,
                    "rowsFrame": {"layout": "le"},
                    "tooltip": {"mode": "single", "yHistogram": True}}  # fmt: skip
        if self.kind == "bargauge":
            return {"displayMode": "gradient", "orientation": "horizontal",
                    "reduceOptions": {"calcs": ["lastNotNull"]}}  # fmt: skip
        if self.kind == "state-timeline":
            return {"showValue": "auto", "mergeValues": True, "legend": {"showLegend": False}}
        return {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"]},
                "tooltip": {"mode": "multi", "sort": "desc"}}  # fmt: skip


def quantiles(metric: str, by: str = "", selector: str = "@") -> list[Query]:
    """Median and 95th percentile of a histogram by a label, or those and the 99th of all of it."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return [
        Query(
            f"histogram_quantile({q}, sum by ({labels}) (rate(upshift_{metric}_bucket{{{selector}}}"
            "[$__rate_interval])))",
            f"{legend}p{q * 100:g}",
        )
        for q in ((0.5, 0.95) if by else (0.5, 0.95, 0.99))
    ]
