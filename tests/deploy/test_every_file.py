"""No file of deploy/ is without a tool that reads it in the tests; scripts at least parse."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

# Pattern -> the tests that hold such a file against what reads it.
CHECKED = {
    "compose/*.yaml": "test_compose.py: the settings, upshift check",
    "docker/*Dockerfile": "test_dockerfiles.py: hadolint, the steps themselves",
    "grafana/dashboards/*.json": "test_prometheus_rules.py, test_prometheus_live.py: every query",
    "grafana/provisioning/*/*.yml": "here",
    "grafana/*.py": "test_prometheus_rules.py: makes the dashboard",
    "kubernetes/**/kustomization.yaml": "test_kubernetes.py: kubectl kustomize",
    "kubernetes/**/*.yaml": "test_kubernetes.py: Kubernetes schemas, settings",
    "kubernetes/make_monitoring.py": "test_kubernetes.py: copies are copies",
    "kubernetes/monitoring/upshift.json": "test_kubernetes.py: copies are copies",
    "kubernetes/vllm/phi-2.jinja": "test_kubernetes.py: copies are copies",
    "prometheus/*.yml": "test_prometheus_rules.py: promtool",
    "ray/*.yaml": "test_ray.py",
    "vllm/*.jinja": "test_compose.py: transformers renders it",
    "*.sh": "here",
    "compose/*.sh": "here, test_compose.py",
}


def files(deploy: Path) -> list[Path]:
    return [path for path in sorted(deploy.rglob("*"))
            if path.is_file() and not {"__pycache__", "secrets"} & set(path.parts)]  # fmt: skip


def test_every_file_is_read_by_some_tool(deploy: Path) -> None:
    covered = {path for pattern in CHECKED for path in deploy.glob(pattern)}
    assert [str(path.relative_to(deploy)) for path in files(deploy) if path not in covered] == []
    here = Path(__file__).parent
    for told in CHECKED.values():
        for name in [word.rstrip(":,") for word in told.split() if word.startswith("test_")]:
            assert (here / name).is_file(), name


def test_scripts_parse(deploy: Path) -> None:
    for path in deploy.rglob("*.sh"):
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        text = path.read_text()
        assert text.startswith(("#!/usr/bin/env bash\n", "#!/bin/sh\n")), path
        assert "\nset -eu" in text, path


def test_grafana_finds_its_source_and_its_dashboards(repository: Path, deploy: Path) -> None:
    """What Grafana is provisioned with names the folder that compose mounts and the source the panels ask."""
    grafana = yaml.safe_load((repository / "docker-compose.yml").read_text())["services"]["grafana"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    folder = deploy / "grafana/provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards/upshift.yml").read_text())["providers"]
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"].strip("${}") in grafana["environment"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    board = json.loads((deploy / "grafana/dashboards" / home.name).read_text())
    assert mounted[str(home.parent)] == "./deploy/grafana/dashboards"
    asked = {panel["datasource"]["uid"] for panel in board["panels"] if "datasource" in panel}
    assert asked <= {source["uid"], "${datasource}"}


@pytest.mark.parametrize("version", ["1.34"])
def test_the_ray_jobs_pods_fit_the_schema(deploy: Path, version: str) -> None:
    """A RayJob is an operator's resource; the pods in it are Kubernetes' own."""
    import kubernetes_validate

    cluster = yaml.safe_load((deploy / "ray/collect-job.yaml").read_text())["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x"},
            "spec": group["template"]["spec"],
        }
        kubernetes_validate.validate(pod, version, strict=True)
