"""Rules, scrape configuration and dashboard as files: what can be said of them without traffic."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.metrics import Metrics

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
# Names that Prometheus itself makes.
_OTHERS = {"up", "ALERTS"}


def promtool(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
@pytest.mark.timeout(500)
@needs_promtool
def test_rules_and_their_unit_tests_pass(deploy: Path) -> None:
    promtool("check", "rules", "rules.yml", cwd=deploy / "prometheus")
    promtool("test", "rules", "tests.yml", cwd=deploy / "prometheus")


@pytest.mark.prometheus
@needs_promtool
def test_the_scrape_configuration_is_valid(deploy: Path, tmp_path: Path) -> None:
    """With the key where the containers have it: promtool looks for the file."""
    key = tmp_path / "key"
    key.write_text("k")
    text = (deploy / "prometheus/prometheus.yml").read_text()
    assert "/run/secrets/upshift_metrics_key" in text
    for name in ("rules.yml",):
        shutil.copy(deploy / "prometheus" / name, tmp_path)
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/upshift_metrics_key", str(key)))
    promtool("check", "config", "prometheus.yml", cwd=tmp_path)


def rules(deploy: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((deploy / "prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_has_a_unit_test_and_a_section_in_the_guide(deploy: Path, repository: Path) -> None:
    alerts = {rule["alert"] for rule in rules(deploy) if "alert" in rule}
    tested = (deploy / "prometheus/tests.yml").read_text()
    guide = (repository / "docs/guides/operate.md").read_text()
    assert {name for name in alerts if name not in tested} == set()
    assert {name for name in alerts if f"### {name}" not in guide} == set()


def test_only_metrics_that_exist_are_asked_for(deploy: Path) -> None:
    """A renamed metric must not leave an alert that never fires, or a panel that is empty for ever."""
    known = {name for rule in rules(deploy) if (name := rule.get("record"))}
    for collector in Metrics(["weak"]).registry._collector_to_names.values():
        known.update(collector)
    texts = [rule["expr"] for rule in rules(deploy)]
    dashboard = json.loads((deploy / "grafana/dashboards/upshift.json").read_text())
    texts += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    asked = {name for text in texts for name in re.findall(r"\bupshift[_:][a-z0-9_:]+", text)}
    assert asked - known - _OTHERS == set()


def test_the_dashboard_is_what_its_maker_makes(deploy: Path, repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "dashboard.json"
    subprocess.run(
        [sys.executable, str(deploy / "grafana/make_dashboard.py"), str(out)], check=True, cwd=tmp_path
    )
    assert out.read_text() == (deploy / "grafana/dashboards/upshift.json").read_text(), (
        "run python deploy/grafana/make_dashboard.py"
    )


def test_the_dashboard_is_laid_out_without_overlaps(deploy: Path) -> None:
    panels = json.loads((deploy / "grafana/dashboards/upshift.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_provisioning_names_what_the_dashboard_uses(deploy: Path) -> None:
    sources = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yml").read_text())
    providers = yaml.safe_load((deploy / "grafana/provisioning/dashboards/upshift.yml").read_text())
    assert [source["type"] for source in sources["datasources"]] == ["prometheus"]
    compose = (deploy.parent / "docker-compose.yml").read_text()
    assert f":{providers['providers'][0]['options']['path']}:ro" in compose
    assert "UPSHIFT_PROMETHEUS_URL" in compose
