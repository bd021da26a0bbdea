"""What the deployment files say of the loop: on where it can be, the rest shown in valid lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from proxy.settings import Settings, parse_settings

SHOWN = re.compile(r"^( *)# ((?:store_text|shadow|canary): .*)$", re.MULTILINE)
FILES = ("compose/upshift.yaml", "compose/demo.yaml", "kubernetes/proxy/upshift.yaml")


def uncommented(path: Path) -> Settings:
    """With the lines in that an operator is shown."""
    return parse_settings(yaml.safe_load(SHOWN.sub(r"\1\2", path.read_text())), path.name)


@pytest.mark.parametrize("file", FILES)
def test_the_loop_is_on_or_shown(deploy: Path, file: str) -> None:
    settings = uncommented(deploy / file)
    loop = settings.loop
    assert settings.log.store_text, "samples without text cannot be judged"
    assert 0.0 < loop.shadow.share <= 0.1
    assert loop.shadow.usd_per_day > 0.0, "0 is no bound"
    assert loop.shadow.requests_per_minute > 0.0
    assert loop.state_dir is not None
    assert "drift" in loop.model_fields_set
    if "demo" not in file:
        assert str(loop.canary.bundle).startswith("/bundles/")
        assert loop.canary.least_quality > 0.0


@pytest.mark.parametrize("file", FILES)
def test_nobodys_text_is_kept_unasked(deploy: Path, file: str) -> None:
    settings = parse_settings(yaml.safe_load((deploy / file).read_text()), file)
    assert settings.log.store_text == ("demo" in file)
    assert settings.loop.canary.bundle is None
    assert (settings.loop.shadow.share > 0.0) == settings.log.store_text


def test_verdicts_outlive_the_containers(repository: Path, deploy: Path) -> None:
    """The folder is below a volume that the image has made for its user, or below the pod's own."""
    services = yaml.safe_load((repository / "docker-compose.yml").read_text())["services"]
    for name, file in (("upshift", "upshift.yaml"), ("upshift-demo", "demo.yaml")):
        folder = uncommented(deploy / "compose" / file).loop.state_dir
        places = [Path(volume.split(":")[1]) for volume in services[name]["volumes"] if volume[0] != "."]
        assert folder is not None
        assert folder.parent in places, name
        made = re.findall(r"install -d -o 10001 -g 10001 (\S+)", (deploy / "docker/Dockerfile").read_text())
        assert [str(folder.parent)] == made
    pod = yaml.safe_load((deploy / "kubernetes/proxy/deployment.yaml").read_text())["spec"]["template"][
        "spec"
    ]
    mounts = {Path(mount["mountPath"]) for mount in pod["containers"][0]["volumeMounts"]
              if not mount.get("readOnly")}  # fmt: skip
    folder = uncommented(deploy / "kubernetes/proxy/upshift.yaml").loop.state_dir
    assert folder is not None
    assert folder.parent in mounts
