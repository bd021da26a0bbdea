"""docker-compose.yml without Docker: the compose schema, hardening, and that everything named is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from proxy.check import find_problems
from proxy.settings import Settings, load_settings, parse_settings
from tests.deploy.compose_file import ComposeFile, read_compose, read_env
from tests.upstream import Upstream

# The official vLLM image runs as root and writes its compile caches into its own file system.
_ROOT = {"vllm-weak", "vllm-strong"}
_PROFILES = {
    "gpu": {"vllm-weak", "vllm-strong", "upshift"},
    "demo": {"demo-weak", "demo-strong", "upshift-demo"},
}
_ALWAYS = {"postgres", "prometheus", "grafana"}


@pytest.fixture(scope="module")
def compose(repository: Path) -> ComposeFile:
    return read_compose(repository / "docker-compose.yml", read_env(repository / ".env"))


@pytest.fixture(scope="module")
def secrets(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make_secrets.sh writes."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    for _ in range(2):  # a second run keeps everything
        subprocess.run([str(repository / "deploy/compose/make_secrets.sh"), str(folder)], check=True)
    return folder


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.two-gpus.yml"])
def test_the_compose_schema_holds(repository: Path, tmp_path: Path, name: str) -> None:
    data = read_compose(repository / name, read_env(repository / ".env")).data
    plain = tmp_path / "compose.json"
    plain.write_text(json.dumps(data))
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(plain)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_profiles_bring_what_they_should(compose: ComposeFile) -> None:
    for profile, own in _PROFILES.items():
        assert set(compose.profile(profile)) == own | _ALWAYS


def test_every_variable_has_a_default_and_stands_in_env(compose: ComposeFile, repository: Path) -> None:
    env = read_env(repository / ".env")
    assert set(compose.variables) == set(env) - {"COMPOSE_PROFILES"}
    assert {name: env[name] for name in compose.variables} == compose.variables


def test_start_order_waits_for_health(compose: ComposeFile) -> None:
    for name, service in compose.services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in compose.services[other]
    assert set(compose.services["upshift"]["depends_on"]) == {"vllm-weak", "vllm-strong", "postgres"}
    assert "vllm-weak" in compose.services["vllm-strong"]["depends_on"]


def test_containers_are_locked_down(compose: ComposeFile) -> None:
    for name, service in compose.services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "healthcheck" in service, name
        assert "privileged" not in service
        assert all("docker.sock" not in volume for volume in service.get("volumes", []))
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        if name not in _ROOT:
            assert service["read_only"] is True, name
            assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), name
            assert service["tmpfs"] if name != "prometheus" else True
        assert "latest" not in service["image"]
        assert ":" in service["image"]


def test_every_path_network_volume_and_secret_exists(compose: ComposeFile, repository: Path) -> None:
    made = {"./bundles"}  # the user's own
    for name, service in compose.services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (
                (repository / source).exists()
                if source.startswith(".")
                else source in compose.data["volumes"]
            )
            assert there or source in made, f"{name}: {volume}"
        assert set(service["networks"]) <= set(compose.data["networks"])
        assert set(service.get("secrets", [])) <= set(compose.data["secrets"])
        if build := service.get("build"):
            assert (repository / build["dockerfile"]).is_file()


def test_secrets_are_made_and_never_written_here(
    compose: ComposeFile, secrets: Path, repository: Path
) -> None:
    wanted = {
        Path(file).name for service in compose.services.values() for file in service.get("env_file", [])
    }
    wanted |= {Path(secret["file"]).name for secret in compose.data["secrets"].values()}
    assert {file.name for file in secrets.iterdir()} == wanted
    assert secrets.stat().st_mode & 0o077 == 0
    upshift, database = read_env(secrets / "upshift.env"), read_env(secrets / "postgres.env")
    assert upshift["PGPASSWORD"] == database["POSTGRES_PASSWORD"]
    assert upshift["UPSHIFT_METRICS_KEY"] == (secrets / "metrics_key").read_text()
    assert upshift["VLLM_API_KEY"] == read_env(secrets / "vllm.env")["VLLM_API_KEY"]
    assert len({upshift["UPSHIFT_API_KEYS"], upshift["UPSHIFT_ADMIN_KEYS"], upshift["PGPASSWORD"]}) == 3
    ignored = (repository / ".gitignore").read_text().splitlines()
    assert "deploy/compose/secrets/" in ignored


def memory_share(service: dict[str, Any]) -> float:
    (found,) = [item for item in service["command"] if item.startswith("--gpu-memory-utilization=")]
    return float(found.split("=")[1])


def test_one_card_is_shared_and_two_are_not(compose: ComposeFile, repository: Path) -> None:
    one = [compose.services[name] for name in ("vllm-weak", "vllm-strong")]
    assert 0.9 <= sum(memory_share(service) for service in one) <= 0.97
    two = read_compose(repository / "docker-compose.two-gpus.yml", {}).services
    assert all(memory_share(two[name]) <= 0.95 for name in two)
    devices = [
        service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for service in (one[0], two["vllm-strong"])
    ]
    assert devices == [["0"], ["1"]]


def models_of(compose: ComposeFile, names: tuple[str, ...]) -> dict[str, str]:
    """Service -> model, from the commands."""
    out = {}
    for name in names:
        (found,) = [item for item in compose.services[name]["command"] if item.startswith("--model=")]
        out[name] = found.removeprefix("--model=")
    return out


@pytest.mark.parametrize("file", ["upshift.yaml", "demo.yaml"])
def test_the_mounted_configuration_fits_the_services(
    compose: ComposeFile, repository: Path, secrets: Path, file: str
) -> None:
    settings = load_settings(repository / "deploy/compose" / file)
    hosts = {tier.url.split("//")[1].split(":")[0] for tier in settings.tiers}
    assert hosts <= set(compose.services)
    env = read_env(secrets / "upshift.env")
    named = {tier.api_key_env for tier in settings.tiers} | {key.key_env for key in settings.auth.keys}
    assert named - {""} <= set(env)
    assert settings.auth.keys_env in env
    assert settings.log.url.split("@")[1].split("/")[0] in compose.services
    service = compose.services["upshift" if file == "upshift.yaml" else "upshift-demo"]
    assert f"./deploy/compose/{file}:/etc/upshift/upshift.yaml:ro" in service["volumes"]
    assert service["ports"][0].endswith(f":{settings.server.port}")
    assert float(service["stop_grace_period"].removesuffix("s")) > settings.server.shutdown_grace_s + 10
    if file == "upshift.yaml":
        served = models_of(compose, ("vllm-weak", "vllm-strong"))
        assert [tier.model for tier in settings.tiers] == list(served.values())


@pytest.mark.parametrize("file", ["upshift.yaml", "demo.yaml"])
async def test_the_mounted_configuration_passes_upshift_check(
    repository: Path, secrets: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the containers' environment, and stand-ins that serve the same models under the same key."""
    for name, value in read_env(secrets / "upshift.env").items():
        monkeypatch.setenv(name, value)
    settings = load_settings(repository / "deploy/compose" / file)
    data = settings.model_dump()
    if settings.bundle is not None:
        data["bundle"] = repository / "demo/bundle"
    keys = [
        read_env(secrets / "vllm.env")["VLLM_API_KEY"] if tier.api_key_env else "" for tier in settings.tiers
    ]
    with (
        Upstream(settings.tiers[0].model, keys[0]) as weak,
        Upstream(settings.tiers[1].model, keys[1]) as strong,
    ):
        for tier, backend in zip(data["tiers"], (weak, strong), strict=True):
            tier["url"], tier["urls"] = backend.url, [backend.url]
        checked: Settings = parse_settings(data, file)
        assert await find_problems(checked) == []


def test_prometheus_scrapes_what_compose_runs(compose: ComposeFile, repository: Path) -> None:
    config = yaml.safe_load((repository / "deploy/prometheus/prometheus.yml").read_text())
    targets = {
        target.split(":")[0]
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert targets <= set(compose.services)
    assert compose.services["upshift-demo"]["networks"]["front"]["aliases"] == ["upshift"]
    files = [
        job["authorization"]["credentials_file"] for job in config["scrape_configs"] if "authorization" in job
    ]
    assert files == [f"/run/secrets/{name}" for name in compose.services["prometheus"]["secrets"]]


def phi(repository: Path, *messages: tuple[str, Any], prompt: bool = True) -> str:
    """What vLLM sends to the model: the same rendering as transformers does it."""
    conversation = [{"role": role, "content": content} for role, content in messages]
    template = (repository / "deploy/vllm/phi-2.jinja").read_text()
    rendered = render_jinja_template([conversation], chat_template=template, add_generation_prompt=prompt)
    return str(rendered[0][0])


def test_phi_2_gets_its_own_format(repository: Path) -> None:
    assert phi(repository, ("user", " What is 2 + 2? ")) == "Instruct: What is 2 + 2?\nOutput:"
    assert (
        phi(repository, ("user", "Hello"), ("assistant", "Hi."), ("user", "Bye"))
        == "Instruct: Hello\nOutput: Hi.\nInstruct: Bye\nOutput:"
    )
    assert (
        phi(repository, ("system", "Be brief."), ("user", "Hello")) == "Instruct: Be brief.\nHello\nOutput:"
    )
    assert (
        phi(repository, ("user", "Hello"), ("assistant", "Hi."), prompt=False)
        == "Instruct: Hello\nOutput: Hi.\n"
    )
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert phi(repository, ("user", parts)) == "Instruct: one two\nOutput:"


def test_phi_2_has_no_tools(repository: Path) -> None:
    with pytest.raises(TemplateError, match="no role 'tool'"):
        phi(repository, ("tool", "42"))
