"""Where the deployment files are."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def deploy(repository: Path) -> Path:
    """The folder `deploy`."""
    return repository / "deploy"
