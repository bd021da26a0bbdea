"""Settings -> backends, bundle, application -> uvicorn."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import uvicorn

from proxy.settings import Settings, load_settings, read_secret
from routing.errors import SettingsError
from routing.protocols import Backend

_SETTINGS_ENV = "UPSHIFT_SETTINGS_JSON"  # how worker processes get what the command line said


def build_app(settings: Settings) -> object:
    """Backends over HTTP, the bundle, and the application over them. Raises `UpshiftError`."""
    from proxy.app import create_app
    from proxy.backends.http import HttpBackend, HttpTimeouts

    server = settings.server
    timeouts = HttpTimeouts(
        server.connect_timeout_s, server.first_byte_timeout_s, server.between_bytes_timeout_s
    )
    backends: list[Backend] = [
        HttpBackend(tier.url, read_secret(tier.api_key_env), timeouts) for tier in settings.tiers
    ]
    scorers = None
    if settings.bundle is not None:
        from proxy.bundle_scorers import load_bundle

        scorers = load_bundle(settings.bundle, settings.routing)
    return create_app(settings, backends, scorers)


def app_from_environment() -> object:
    """What each worker process calls."""
    return build_app(Settings.model_validate_json(os.environ[_SETTINGS_ENV]))


def serve(settings: Settings, log_level: str = "info") -> None:
    """Run until SIGTERM or Ctrl-C."""
    server = settings.server
    common = {
        "host": server.host,
        "port": server.port,
        "log_level": log_level,
        "access_log": False,
        "loop": "uvloop",
        "http": "httptools",
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": int(server.shutdown_grace_s) or None,
        "server_header": False,
        "backlog": 4096,
        "ws": "none",
    }
    if server.workers == 1:
        uvicorn.run(build_app(settings), **common)  # type: ignore[arg-type]
        return
    folder = Path(tempfile.mkdtemp(prefix="upshift-metrics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    os.environ[_SETTINGS_ENV] = settings.model_dump_json()
    uvicorn.run("proxy.server:app_from_environment", factory=True, workers=server.workers, **common)  # type: ignore[arg-type]


def check_exposure(settings: Settings, insecure: bool) -> None:
    """A host other than loopback without any key is refused. Raises `SettingsError`."""
    host = settings.server.host
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not loopback and not insecure and not read_secret(settings.auth.keys_env):
        raise SettingsError(
            f"server.host is {host} and no API key is set: anyone who reaches it could use your backends; "
            f"set {settings.auth.keys_env}, listen on 127.0.0.1, or pass --insecure"
        )


__all__ = ["build_app", "check_exposure", "load_settings", "serve"]
