"""Alerts and dashboard for the folder `monitoring`: `python deploy/kubernetes/make_monitoring.py [FOLDER]`.

kustomize reads nothing outside its own folder, so both stand there a second time; a test compares them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent


def render_rules() -> str:
    """deploy/prometheus/rules.yml as the operator's PrometheusRule."""
    rules = yaml.safe_load((HERE.parent / "prometheus/rules.yml").read_text(encoding="utf-8"))
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "upshift"},
        "spec": rules,
    }
    return "# Made by make_monitoring.py from deploy/prometheus/rules.yml.\n" + yaml.safe_dump(
        document, sort_keys=False, width=110
    )


def main(out: Path) -> None:
    (out / "rules.yaml").write_text(render_rules(), encoding="utf-8")
    dashboard = (HERE.parent / "grafana/dashboards/upshift.json").read_text(encoding="utf-8")
    (out / "upshift.json").write_text(dashboard, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "monitoring")
