"""A real Prometheus server on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.server_process import ServerProcess, pick_port


def prometheus_process(config: Mapping[str, Any], folder: Path) -> ServerProcess:
    """Started with this configuration, its files in `folder`; not yet ready."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = pick_port()
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    return ServerProcess(command, port, folder / "prometheus.log", {})
