"""The admin port, TLS on both sides, health while the bundle is loaded: a server on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.backends.http import HttpBackend
from proxy.backends.tls import backend_tls
from proxy.live import LiveApp
from proxy.server import check_exposure, open_sockets
from proxy.settings import BackendSettings, Settings
from routing.errors import BackendUnavailable, SettingsError
from routing.protocols import BackendRequest
from tests.chaos_upstream import ChaosUpstream
from tests.proxy.live_proxy import FixedScorers, QuietServer, make_settings

CHAT = {"model": "weak", "messages": [{"role": "user", "content": "hello"}]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_for(url: str, **sections: Any) -> Settings:
    tiers = [{"name": name, "url": url, "model": "weak-model"} for name in ("weak", "strong")]
    return make_settings(tiers, **sections)


@contextlib.asynccontextmanager
async def running(settings: Settings, live: LiveApp | None = None) -> AsyncIterator[tuple[str, QuietServer]]:
    """A server on the sockets that its settings ask for; gives the host and port."""
    live = live or LiveApp(settings, FixedScorers(1.0))
    sockets = open_sockets(settings)
    server = QuietServer(live, settings)
    task = asyncio.ensure_future(server.serve(sockets))
    while not server.started:
        await asyncio.sleep(0.005)
        if task.done():
            await task
    try:
        yield f"127.0.0.1:{sockets[0].getsockname()[1]}", server
    finally:
        server.should_exit = True
        await task


async def test_metrics_and_admin_have_a_port_of_their_own():
    async with ChaosUpstream("weak-model", "hi") as upstream, aiohttp.ClientSession() as session:
        port = free_port()
        async with running(settings_for(upstream.url, server={"admin_port": port})) as (there, server):

            async def get(host: str, path: str, **headers: str) -> int:
                async with session.get(f"http://{host}{path}", headers=headers) as response:
                    return response.status

            admin = f"127.0.0.1:{port}"
            for path in ("/metrics", "/admin/reload", "/admin", "/metrics/"):
                assert await get(there, path) == 404, path
            assert await get(admin, "/metrics") == 200
            assert await get(admin, "/metrics", **{"x-forwarded-for": "10.0.0.1"}) == 200
            for path in ("/v1/models", "/docs", "/openapi.json", "/chat"):
                assert await get(admin, path) == 404, path
            for host in (there, admin):
                assert await get(host, "/healthz") == await get(host, "/readyz") == 200
            async with session.post(f"http://{admin}/v1/chat/completions", json=CHAT) as response:
                assert response.status == 404
            async with session.post(f"http://{there}/v1/chat/completions", json=CHAT) as response:
                assert response.status == 200
            reload = f"http://{admin}/admin/reload"
            async with session.post(reload, headers={"x-forwarded-for": "10.0.0.1"}) as response:
                assert response.status == 401
            async with session.post(reload) as response:
                assert (response.status, await response.json()) == (200, {"status": "reloaded"})
            server._reread = lambda: settings_for(upstream.url, server={"admin_port": port}).model_copy(
                update={"bundle": Path("/no/such/bundle")}
            )
            async with session.post(reload) as response:
                assert response.status == 409
                assert (await response.json())["error"]["code"] == "reload_refused"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server's and a client's certificate of it, and a stranger's."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for name in ("ca", "stranger"):
        run(*new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name in ("server", "client"):
        run(*new, "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    return folder


async def test_tls_with_a_client_certificate_and_a_private_ca(certificates: Path):
    own = {"tls_cert": str(certificates / "server.pem"), "tls_key": str(certificates / "server.key")}
    closed = own | {"tls_client_ca": str(certificates / "ca.pem")}
    trusting = ssl.create_default_context(cafile=certificates / "ca.pem")
    known = ssl.create_default_context(cafile=certificates / "ca.pem")
    known.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    async with ChaosUpstream("weak-model", "hi") as upstream, aiohttp.ClientSession() as session:

        async def ask(url: str, context: ssl.SSLContext) -> int:
            async with session.post(f"{url}/v1/chat/completions", json=CHAT, ssl=context) as response:
                return response.status

        async with running(settings_for(upstream.url, server=own)) as (there, _):
            assert await ask(f"https://{there}", trusting) == 200
            # The proxy as its own backend: a private CA, none, and no check at all.
            for backends, fine in (
                ({"tls_ca": certificates / "ca.pem"}, True), ({}, False), ({"verify_tls": False}, True),
                ({"tls_ca": certificates / "stranger.pem"}, False),
            ):  # fmt: skip
                backend = HttpBackend(f"https://{there}/v1", tls=backend_tls(BackendSettings(**backends)))
                try:
                    reply = await backend.send(BackendRequest("/models", b"", method="GET"))
                    assert (reply.status, fine) == (200, True)
                    await reply.read()
                except BackendUnavailable:
                    assert not fine
                await backend.close()
        async with running(settings_for(upstream.url, server=closed)) as (there, _):
            assert await ask(f"https://{there}", known) == 200
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await ask(f"https://{there}", trusting)


def test_files_that_cannot_be_used_are_named(tmp_path: Path):
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(SettingsError, match=r"backends\.tls_ca"):
        backend_tls(BackendSettings(tls_ca=tmp_path / "no.pem"))
    settings = settings_for("http://127.0.0.1:1/v1", server={"tls_cert": str(tmp_path / "no.pem")})
    with pytest.raises(SettingsError, match=r"server\.tls_cert"):
        QuietServer(LiveApp(settings, FixedScorers(1.0)), settings)


def test_an_open_server_beyond_loopback_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("UPSHIFT_API_KEYS", raising=False)
    url = "http://127.0.0.1:1/v1"
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        settings = settings_for(url, server={"host": host})
        with pytest.raises(SettingsError, match="no API key"):
            check_exposure(settings, insecure=False)
        check_exposure(settings, insecure=True)
        check_exposure(
            settings_for(url, server={"host": host}, auth={"keys_file": str(tmp_path / "keys.json")}), False
        )
    monkeypatch.setenv("UPSHIFT_ADMIN_KEYS", "sk-root")
    with pytest.raises(SettingsError, match="no API key"):
        check_exposure(settings_for(url, server={"host": "0.0.0.0"}), insecure=False)
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_exposure(settings_for(url, server={"host": host}), insecure=False)


@pytest.mark.timeout(300)
async def test_health_is_told_while_the_bundle_is_loaded(repository: Path):
    """503 until the scorers are warm; a request that comes meanwhile waits and is answered."""
    async with ChaosUpstream("weak-model", "hi") as upstream, aiohttp.ClientSession() as session:
        bundle = repository / "demo" / "bundle"
        settings = settings_for(upstream.url).model_copy(update={"bundle": bundle})
        live = LiveApp(settings, at_once=True)
        async with running(settings, live) as (there, _):
            early = asyncio.ensure_future(session.post(f"http://{there}/v1/chat/completions", json=CHAT))
            statuses = []
            while not live._loaded.is_set():
                for path in ("/healthz", "/readyz"):
                    async with session.get(f"http://{there}{path}") as response:
                        statuses.append((path, response.status))
                await asyncio.sleep(0.01)
            assert live.failure is None
            assert ("/readyz", 503) in statuses
            assert ("/healthz", 503) not in statuses
            async with session.get(f"http://{there}/readyz") as response:
                assert response.status == 200
            assert (await early).status == 200
            (await early).release()


async def test_a_bundle_that_cannot_be_loaded_ends_the_start():
    settings = settings_for("http://127.0.0.1:1/v1").model_copy(update={"bundle": Path("/no/such/bundle")})
    live = LiveApp(settings, at_once=True)
    server = QuietServer(live, settings)
    started = time.monotonic()
    await asyncio.wait_for(server.serve(open_sockets(settings)), 60)
    assert live.failure is not None
    assert "/no/such/bundle" in str(live.failure)
    assert time.monotonic() - started < 60
