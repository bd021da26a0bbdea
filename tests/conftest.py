"""What every test folder shares: an offline environment, the folder of real example tables, a free port."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.long_results import pytest_runtest_makereport, pytest_sessionfinish

__all__ = ["pytest_runtest_makereport", "pytest_sessionfinish"]

# No test may reach a model hub; a library that tries fails at once instead of waiting for a time-out.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Workers of one run share two cores: torch's threads of one would wait, spinning, for those of the other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Folders with the longest files: whoever took one of them last would work on when the other has nothing left.
LONGEST_FIRST = ("vllm", "trainer", "demo", "bench", "packaging", "docs", "deploy")


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file at a time, whatever `--dist` says."""
    from tests.scheduling import ByFile

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, where workers take them in turns."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {folder: rank for rank, folder in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def examples_dir() -> Path:
    """The folder of real example tables (parquet), which is not part of the repository."""
    folder = os.environ.get("UPSHIFT_EXAMPLES")
    if not folder:
        pytest.skip("set UPSHIFT_EXAMPLES to the folder of real example tables")
    return Path(folder)


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
