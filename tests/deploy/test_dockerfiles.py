"""Dockerfiles without Docker: linted, copying only what is there, and their pip steps run for real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.server_process import ServerProcess, pick_port

FILES = ["Dockerfile", "trainer.Dockerfile"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """(NAME, rest) of each instruction, lines joined, comments gone."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    found = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name.upper(), re.sub(r"\s+", " ", rest)) for name, rest in found]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_has_nothing_to_say(deploy: Path, name: str) -> None:
    linter = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    if not Path(linter).exists():
        pytest.skip("hadolint is not installed")
    # DL3059 wants one RUN; several keep torch's layer when only our code has changed.
    command = [linter, "--no-color", "--ignore", "DL3059", str(deploy / "docker" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize("name", FILES)
def test_images_run_as_a_user_and_copy_only_what_exists(deploy: Path, repository: Path, name: str) -> None:
    steps = instructions(deploy / "docker" / name)
    froms = [rest for step, rest in steps if step == "FROM"]
    assert len(froms) == 2
    assert all(re.match(r"python:3\.\d+-slim-\w+( AS build)?$", one) for one in froms)
    last = steps[max(index for index, (step, _) in enumerate(steps) if step == "FROM") :]
    assert [rest for step, rest in last if step == "USER"] == ["10001:10001"]
    kept = (repository / ".dockerignore").read_text().splitlines()
    for step, rest in steps:
        if step != "COPY" or rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            assert (repository / source).exists(), source
            assert f"!{source}" in kept or f"!{source}/" in kept, f"{source} is shut out by .dockerignore"
    assert not any(step == "ADD" for step, _ in steps)
    assert not re.search(r"(?i)(api_key|password|token)=", (deploy / "docker" / name).read_text())


def test_the_proxy_image_says_when_it_is_healthy(deploy: Path) -> None:
    steps = dict(instructions(deploy / "docker/Dockerfile"))
    assert "/readyz" in steps["HEALTHCHECK"]
    assert steps["STOPSIGNAL"] == "SIGTERM"


def pip_steps(deploy: Path, venv: Path) -> list[str]:
    """The RUN lines of the build stage, with the environment in a scratch folder."""
    steps = instructions(deploy / "docker/Dockerfile")
    runs = [rest for step, rest in steps if step == "RUN" and "/opt/upshift" in rest]
    return [run.replace("/opt/upshift", str(venv)).replace("python -m venv", f"{sys.executable} -m venv")
            for run in runs]  # fmt: skip


@pytest.mark.packaging
@pytest.mark.timeout(1200)
def test_the_proxy_images_steps_give_a_server(deploy: Path, repository: Path, tmp_path: Path) -> None:
    """Copy what the image copies, run its RUN lines, and ask the result whether it is healthy."""
    source, venv = tmp_path / "src", tmp_path / "venv"
    source.mkdir()
    for step, rest in instructions(deploy / "docker/Dockerfile"):
        if step == "COPY" and not rest.startswith("--from"):
            *names, _ = rest.split()
            for name in names:
                if (repository / name).is_dir():
                    ignore = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(repository / name, source / name, ignore=ignore)
                else:
                    shutil.copy(repository / name, source)
    runs = pip_steps(deploy, venv)
    assert len(runs) == 3
    for run in runs:
        done = subprocess.run(
            ["bash", "-euc", run], cwd=source, capture_output=True, text=True, timeout=900,
            env={**os.environ, "PIP_NO_COMPILE": "1"},  # half the time, and nothing a test would miss
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    port = pick_port()
    command = [
        str(venv / "bin/upshift"), "serve", "--weak", "http://127.0.0.1:9/v1#a",
        "--strong", "http://127.0.0.1:9/v1#b", "--port", str(port),
    ]  # fmt: skip
    server = ServerProcess(command, port, tmp_path / "log", {"PYTHONPATH": ""})
    try:
        server.wait_ready("/readyz", 120)
        assert httpx.get(server.origin + "/healthz").json() == {"status": "ok"}
    finally:
        server.stop()
