"""The Kubernetes files against the published schemas of several versions, and against each other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy.settings import load_settings
from trainer.cli_label import _parser as label_parser
from trainer.endpoint import parse_endpoint

VERSIONS = ("1.31", "1.34", "1.37")
# Resources of operators, whose schemas Kubernetes does not publish; their own fields are checked below.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
# Not resources but input of other tools.
NO_RESOURCES = {"kustomization.yaml", "upshift.yaml", "adapter-values.yaml"}


@pytest.fixture(scope="module")
def folder(deploy: Path) -> Path:
    return deploy / "kubernetes"


def documents(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(file, document) of every resource."""
    out = []
    for path in sorted(folder.rglob("*.yaml")):
        if path.name not in NO_RESOURCES:
            out += [(str(path.relative_to(folder)), one) for one in yaml.safe_load_all(path.read_text())]
    return out


def of_kind(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for _, one in documents(folder) if one["kind"] == kind}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_fits_its_schema(folder: Path, version: str) -> None:
    checked = 0
    for file, document in documents(folder):
        if document["kind"] in CUSTOM:
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise AssertionError(f"{file}: {document['kind']}: {error}") from error
        checked += 1
    assert checked == 17


def test_a_wrong_field_would_be_found(folder: Path) -> None:
    deployment = of_kind(folder, "Deployment")["upshift"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_kustomize_knows_every_file(folder: Path) -> None:
    for path in folder.rglob("kustomization.yaml"):
        data = yaml.safe_load(path.read_text())
        files = [one for generator in data.get("configMapGenerator", []) for one in generator["files"]]
        for name in [*data["resources"], *files]:
            assert (path.parent / name).exists(), f"{path}: {name}"
        here = {one.name for one in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        left_out = here - set(data["resources"]) - set(files)
        assert left_out <= {"secret.example.yaml", "judge.example.yaml", "adapter-values.yaml"}, path


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_what_kustomize_builds_fits_the_schemas_too(folder: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for document in built:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "upshift"
    (proxy,) = [one for one in built if one["kind"] == "Deployment" and one["metadata"]["name"] == "upshift"]
    pod = proxy["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example.com/upshift:0.1.0"
    maps = {one["metadata"]["name"] for one in built if one["kind"] == "ConfigMap"}
    assert pod["volumes"][0]["configMap"]["name"] in maps  # with its hash


def pod_of(folder: Path, name: str) -> dict[str, Any]:
    return dict(of_kind(folder, "Deployment")[name]["spec"]["template"]["spec"])


def test_selectors_find_their_pods(folder: Path) -> None:
    templates = [one["spec"]["template"] for one in of_kind(folder, "Deployment").values()]
    templates += [
        one["spec"]["jobTemplate"]["spec"]["template"] for one in of_kind(folder, "CronJob").values()
    ]
    pods = [one["metadata"]["labels"] for one in templates]

    def matches(selector: dict[str, str]) -> int:
        return sum(selector.items() <= labels.items() for labels in pods)

    for name, deployment in of_kind(folder, "Deployment").items():
        assert matches(deployment["spec"]["selector"]["matchLabels"]) == 1, name
    for name, service in of_kind(folder, "Service").items():
        assert matches(service["spec"]["selector"]) == 1, name
    budget = of_kind(folder, "PodDisruptionBudget")["upshift"]
    assert matches(budget["spec"]["selector"]["matchLabels"]) == 1
    for name, policy in of_kind(folder, "NetworkPolicy").items():
        assert matches(policy["spec"]["podSelector"].get("matchLabels", {})) >= 1, name


def test_services_and_volumes_lead_somewhere(folder: Path) -> None:
    for deployment in of_kind(folder, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            one["name"] for one in pod["volumes"]
        }
        claims = {one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"]
                  if "persistentVolumeClaim" in one}  # fmt: skip
        assert claims <= set(of_kind(folder, "PersistentVolumeClaim"))
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
    for service in of_kind(folder, "Service").values():
        assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_the_proxy_is_drained_before_it_is_killed(folder: Path) -> None:
    pod = pod_of(folder, "upshift")
    settings = load_settings(folder / "proxy/upshift.yaml")
    pause_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed_s = pause_s + settings.server.shutdown_grace_s + settings.server.shutdown_idle_s + 5
    assert pod["terminationGracePeriodSeconds"] >= needed_s


def judge_of(folder: Path) -> dict[str, Any]:
    job = of_kind(folder, "CronJob")["upshift-judge"]["spec"]["jobTemplate"]["spec"]
    return dict(job["template"]["spec"])


def test_the_judge_runs_a_command_there_is_on_the_log_there_is(folder: Path) -> None:
    (container,) = judge_of(folder)["containers"]
    program, command, *arguments = container["args"]
    assert (program, command) == ("upshift", "label")
    options = label_parser().parse_args(arguments)
    settings = load_settings(folder / "proxy/upshift.yaml")
    assert options.from_log == settings.log.url
    assert parse_endpoint(options.judge, "judge").url.startswith("https://")
    assert container["volumeMounts"][0]["mountPath"] == str(options.out.parent)
    assert container["envFrom"] == [{"secretRef": {"name": "upshift"}}]


@pytest.mark.parametrize("find", [lambda folder: pod_of(folder, "upshift"), judge_of], ids=["proxy", "judge"])
def test_what_is_ours_is_locked_down(folder: Path, find: Callable[[Path], dict[str, Any]]) -> None:
    pod = find(folder)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = pod["containers"][0]["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"cpu", "memory"} <= set(pod["containers"][0]["resources"]["requests"])


def test_the_configuration_fits_the_models(folder: Path) -> None:
    settings = load_settings(folder / "proxy/upshift.yaml")
    for tier in settings.tiers:
        host = tier.url.split("//")[1].split(":")[0]
        assert host in of_kind(folder, "Service")
        (container,) = pod_of(folder, host)["containers"]
        assert f"--model={tier.model}" in container["args"]
        assert f"--max-model-len={tier.context_window_tokens}" in container["args"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    secret = of_kind(folder, "Secret")["upshift"]["stringData"]
    named = {tier.api_key_env for tier in settings.tiers} | {key.key_env for key in settings.auth.keys}
    assert named | {settings.auth.keys_env, settings.auth.admin_keys_env, "PGPASSWORD"} <= set(secret)
    assert set(secret.values()) == {"replace-me"}


def test_the_autoscaler_follows_a_metric_that_exists(folder: Path) -> None:
    scaler = of_kind(folder, "HorizontalPodAutoscaler")["upshift"]["spec"]
    metric = scaler["metrics"][0]["pods"]["metric"]["name"]
    assert metric == "upshift_in_flight_requests"
    (rule,) = yaml.safe_load((folder / "monitoring/adapter-values.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == metric
    assert rule["seriesQuery"].startswith(metric + "{")
    assert "replicas" not in of_kind(folder, "Deployment")["upshift"]["spec"]
    assert scaler["minReplicas"] >= 2


def test_copies_are_copies(deploy: Path, folder: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(folder / "make_monitoring.py"), str(tmp_path)], check=True)
    for name in ("rules.yaml", "upshift.json"):
        made, kept = (tmp_path / name).read_text(), (folder / "monitoring" / name).read_text()
        assert made == kept, "run python deploy/kubernetes/make_monitoring.py"
    assert (folder / "vllm/phi-2.jinja").read_text() == (deploy / "vllm/phi-2.jinja").read_text()


def test_operators_resources_select_the_services(folder: Path) -> None:
    services = of_kind(folder, "Service").values()
    for name, monitor in of_kind(folder, "ServiceMonitor").items():
        selector = monitor["spec"]["selector"]["matchLabels"]
        found = [one for one in services if selector.items() <= one["metadata"]["labels"].items()]
        assert found, name
        ports = {port["name"] for one in found for port in one["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    credentials = of_kind(folder, "ServiceMonitor")["upshift"]["spec"]["endpoints"][0]["authorization"][
        "credentials"
    ]
    assert credentials["key"] in of_kind(folder, "Secret")[credentials["name"]]["stringData"]
