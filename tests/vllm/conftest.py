"""Two real vLLM servers on the embedded models and the proxy in front of them; all started once a session."""

from __future__ import annotations

import platform
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from tests.server_process import ServerProcess, pick_port
from tests.vllm.environment import ensure_vllm_python
from tests.vllm.process import vllm_process

HERE = Path(__file__).parent
VLLM_READY_TIMEOUT_S = 240.0
PROXY_READY_TIMEOUT_S = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder. The time limit is a test's own: the session fixtures have theirs."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(60, func_only=True))


def skip_elsewhere() -> None:
    """Skip where the CPU build of vLLM does not run."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the CPU build of vLLM is for Linux on x86-64")


@dataclass(frozen=True)
class Stack:
    """The proxy and, for comparison, what it stands in front of."""

    proxy: ServerProcess
    weak: ServerProcess
    strong: ServerProcess


@pytest.fixture(scope="session")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    skip_elsewhere()
    models = repository / "demo" / "models"
    python = ensure_vllm_python(repository)
    logs = tmp_path_factory.mktemp("vllm")
    running: list[ServerProcess] = []
    try:
        weak = vllm_process(python, models / "weak", "demo-phi", logs / "weak.log")
        running.append(weak)
        strong = vllm_process(python, models / "strong", "demo-mistral", logs / "strong.log")
        running.append(strong)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_warm_up, (weak, strong)))
        proxy = start_proxy(weak.pair, strong.pair, logs / "proxy.log")
        running.append(proxy)
        proxy.wait_ready("/readyz", PROXY_READY_TIMEOUT_S)
        yield Stack(proxy, weak, strong)
    finally:
        for server in running:
            server.stop()


def _warm_up(server: ServerProcess) -> None:
    """Wait until ready, then send one sampled request: the first one compiles and took up to 14 s."""
    server.wait_ready("/health", VLLM_READY_TIMEOUT_S)
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "What is 2 plus 2?"}],
        "max_tokens": 4,
        "temperature": 0.5,
        "logprobs": True,
        "top_logprobs": 1,
    }
    httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=120.0).raise_for_status()


def start_proxy(weak: str, strong: str, log: Path) -> ServerProcess:
    """With the embedded pair's bundle; `weak` and `strong` as `URL#MODEL`."""
    port = pick_port()
    repository = HERE.parent.parent
    command = [
        *(sys.executable, "-c", "from proxy.cli import main; main()", "serve"),
        *("--weak", weak, "--strong", strong, "--port", str(port)),
        *("--bundle", str(repository / "demo" / "bundle")),
    ]
    return ServerProcess(command, port, log, {"PYTHONPATH": str(repository), "UPSHIFT_API_KEYS": ""})


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.proxy.base_url, api_key="unused", max_retries=0, timeout=50.0) as sdk:
        yield sdk


@pytest.fixture
async def async_client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.proxy.base_url, api_key="unused", max_retries=0, timeout=50.0
    ) as sdk:
        yield sdk


@pytest.fixture
def weak_direct(stack: Stack) -> Iterator[openai.OpenAI]:
    """The weak vLLM server, without the proxy."""
    with openai.OpenAI(base_url=stack.weak.base_url, api_key="unused", max_retries=0, timeout=50.0) as sdk:
        yield sdk


@pytest.fixture
def strong_direct(stack: Stack) -> Iterator[openai.OpenAI]:
    """The strong vLLM server, without the proxy."""
    with openai.OpenAI(base_url=stack.strong.base_url, api_key="unused", max_retries=0, timeout=50.0) as sdk:
        yield sdk


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test of this folder shows the end of every server's log."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(running, Stack):
        for name in ("proxy", "weak", "strong"):
            report.sections.append((f"{name} log", getattr(running, name).log_tail(1500)))
    return report
