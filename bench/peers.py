"""The servers that Upshift is measured beside: how each is started in front of one backend, and asked.

`bench/peers.sh` installs them. Each runs as its own documentation says, with one worker, without the extras
that Upshift has switched on (keys, metrics, log): what is measured is in their favour.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.processes import BUNDLE, REPOSITORY

KEY = "sk-bench"
MODEL = "null"


@dataclass(frozen=True)
class Peer:
    """A server in front of `upstream`; `command` listens on the port that stands in it."""

    name: str
    command: list[str]
    url: str
    model: str = MODEL
    headers: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    routed: str = ""  # the model name by which it routes a prompt; empty: it cannot, or not here


def peers_folder() -> Path:
    """Where `bench/peers.sh` puts them."""
    return Path(os.environ.get("UPSHIFT_CACHE_DIR", REPOSITORY / ".cache")).resolve() / "peers"


def find_peers(upstream: int, first_port: int, folder: Path, bundle: Path = BUNDLE) -> list[Peer]:
    """Upshift first, then it with `bundle`, then every peer that is installed; configuration files go to
    `folder`."""
    upshift = _upshift(upstream, first_port, folder)
    others = (_litellm, _portkey, _mlflow, _nginx)
    made = [
        upshift,
        _with_bundle(upshift, first_port + 1, folder, bundle),
        *(make(upstream, first_port + 2 + index, folder) for index, make in enumerate(others)),
    ]
    return [peer for peer in made if peer is not None]


def _chat(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1/chat/completions"


def _upshift(upstream: int, port: int, folder: Path) -> Peer:
    """With a key, metrics and the decision log; the tier is pinned by its name, so `model` is rewritten."""
    base = f"http://127.0.0.1:{upstream}/v1"
    config = folder / "upshift.json"
    tiers = [
        {"name": name, "url": base, "model": model} for name, model in (("weak", "w"), ("strong", MODEL))
    ]
    log = {"url": f"sqlite:///{folder / 'decisions.db'}"}
    config.write_text(json.dumps({"tiers": tiers, "log": log, "bundle": "none"}))  # JSON is YAML
    command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--port", str(port)]
    return Peer("upshift", command, _chat(port), "strong", environment={"UPSHIFT_API_KEYS": KEY})


def _with_bundle(plain: Peer, port: int, folder: Path, bundle: Path) -> Peer:
    """The same with a bundle's scorers loaded, and routing by MF where it is asked to."""
    config = folder / "upshift-bundle.json"
    told = json.loads((folder / "upshift.json").read_text())
    log = {"url": f"sqlite:///{folder / 'decisions-bundle.db'}"}
    config.write_text(json.dumps({**told, "log": log, "bundle": str(bundle.resolve())}))
    command = [str(config) if part.endswith("upshift.json") else part for part in plain.command]
    command[-1] = str(port)
    return replace(plain, name="upshift-bundle", command=command, url=_chat(port), routed="upshift-mf-0.5")


def _litellm(upstream: int, port: int, folder: Path) -> Peer | None:
    program = peers_folder() / "litellm/bin/litellm"
    if not program.exists():
        return None
    config = folder / "litellm.json"
    target = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "x"}
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": target}]}))
    command = [str(program), "--config", str(config), "--port", str(port), "--telemetry", "False"]
    environment = {  # without a key of its own, which is in its favour
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }  # fmt: skip
    return Peer("litellm", command, _chat(port), environment=environment)


def _portkey(upstream: int, port: int, _: Path) -> Peer | None:
    script = peers_folder() / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    node = shutil.which("node")
    if node is None or not script.exists():
        return None
    headers = ["x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{upstream}/v1"]
    trusted = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    return Peer(
        "portkey", [node, str(script), f"--port={port}", "--headless"], _chat(port), headers=headers,
        environment=trusted,
    )  # fmt: skip


def _mlflow(upstream: int, port: int, folder: Path) -> Peer | None:
    program = peers_folder() / "mlflow/bin/mlflow"
    if not program.exists():
        return None
    config = folder / "mlflow.json"
    own = {"openai_api_key": "x", "openai_api_base": f"http://127.0.0.1:{upstream}/v1"}
    model = {"provider": "openai", "name": MODEL, "config": own}
    config.write_text(
        json.dumps({"endpoints": [{"name": MODEL, "endpoint_type": "llm/v1/chat", "model": model}]})
    )
    command = [str(program), "gateway", "start", "--config-path", str(config), "--port", str(port)]
    return Peer("mlflow", [*command, "--workers", "1"], _chat(port))


def _nginx(upstream: int, port: int, folder: Path) -> Peer | None:
    """Not a peer but the floor: nothing is looked at."""
    unpacked = peers_folder() / "nginx/usr/sbin/nginx"
    program = shutil.which("nginx") or (str(unpacked) if unpacked.exists() else None)
    if program is None:
        return None
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};\n"
        f"fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
        f"upstream null {{ server 127.0.0.1:{upstream}; keepalive 256; }}\n"
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 10000000; location / {{\n"
        'proxy_pass http://null; proxy_http_version 1.1; proxy_set_header Connection ""; '
        "proxy_buffering off; } } }\n"
    )
    return Peer("nginx", [program, "-c", str(config)], _chat(port))
