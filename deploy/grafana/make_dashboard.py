"""Makes dashboards/upshift.json: `python deploy/grafana/make_dashboard.py [FILE]`.

A dashboard's JSON is three quarters defaults; here a panel is what is particular to it: title, query, unit.
The screen reads from the top: what is it doing and saving (one row of numbers), does it do what the
calibration foresaw, what does it cost, what do users feel, and only then the machinery. A test makes the file
again and runs every query against a real Prometheus.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from panels import SOURCE
from rows import ROWS
from rows_machinery import MACHINERY

OUT = Path(__file__).parent / "dashboards" / "upshift.json"
_WIDTH = 24


def build() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in [*ROWS, *MACHINERY]:
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False,
                       "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1}, "panels": []})  # fmt: skip
        y, x, tallest = y + 1, 0, 0
        for panel in row:
            if x + panel.width > _WIDTH:
                y, x, tallest = y + tallest, 0, 0
            panels.append(panel.render(len(panels) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return {
        "uid": "upshift", "title": "Upshift", "tags": ["upshift"], "schemaVersion": 39, "version": 1,
        "editable": False, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            _variable("job", "label_values(upshift_policy_info, job)"),
            _variable("instance", 'label_values(upshift_policy_info{job=~"$job"}, instance)'),
        ]},
        "annotations": {"list": [{
            "name": "Alerts", "enable": True, "datasource": SOURCE, "iconColor": "red",
            "expr": 'ALERTS{alertname=~"Upshift.*",alertstate="firing"}', "titleFormat": "{{alertname}}",
        }, {
            "name": "Policy changes", "enable": True, "datasource": SOURCE, "iconColor": "blue",
            "expr": "changes(sum by (version) (upshift_policy_info)[2m:]) > 0", "titleFormat": "{{version}}",
        }]},
        "panels": panels,
    }  # fmt: skip


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, "multi": True,
        "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def render() -> str:
    """The file's text."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text(render(), encoding="utf-8")
