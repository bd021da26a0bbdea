"""Clients' keys: scopes, an end, limits, the key file and its command, the operator's paths and port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.auth import ApiKey, KeyRing, Limits, open_key_ring
from proxy.auth_settings import AuthSettings, hash_key
from proxy.cli import main
from proxy.keys_file import create_key, read_keys, revoke_key
from proxy.limits import Used, check_limits, limit_headers
from proxy.usage import LocalMeter
from proxy.wire_error import ApiError
from routing.errors import SettingsError
from tests.api_server import ApiServer, api_server
from tests.proxy.live_proxy import FixedScorers, live_proxy, make_settings

CHAT = "/v1/chat/completions"
BODY = {"model": "weak", "messages": [{"role": "user", "content": "hello"}]}
SECRETS = {
    "both": "sk-both", "chat": "sk-chat-only", "embed": "sk-embed-only", "old": "sk-old", "boss": "sk-admin",
    "scrape": "sk-metrics", "few": "sk-few", "poor": "sk-poor", "tokens": "sk-tokens",
}  # fmt: skip
KEYS: list[dict[str, Any]] = [
    {"id": "both", "team": "a"},
    {"id": "chat", "team": "a", "scopes": ["chat"]},
    {"id": "embed", "scopes": ["embeddings"]},
    {"id": "old", "expires": "2020-01-01T00:00:00"},
    {"id": "boss", "scopes": ["admin"]},
    {"id": "scrape", "scopes": ["metrics"]},
    {"id": "few", "requests_per_minute": 3},
    {"id": "poor", "usd_per_day": 1e-5},
    {"id": "tokens", "tokens_per_minute": 30},
]


def key_settings() -> list[dict[str, Any]]:
    return [{**key, "sha256": hash_key(SECRETS[key["id"]])} for key in KEYS]


@pytest.fixture
def keyed():
    with api_server(auth={"keys": key_settings()}) as server:
        yield server


def ask(api: ApiServer, name: str, path: str = CHAT, **headers: str) -> httpx.Response:
    bearer = {"authorization": f"Bearer {SECRETS.get(name, name)}"}
    if path in (CHAT, "/v1/embeddings"):
        body = BODY if path == CHAT else {"model": "weak", "input": "x"}
        return api.anonymous.post(path, json=body, headers=bearer | headers)
    return api.anonymous.get(path, headers=bearer | headers)


def code(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not any(secret in answer.text for secret in SECRETS.values())
    return str(error["code"])


def test_scopes(keyed: ApiServer):
    for name, chat, embeddings in (("both", 200, 200), ("chat", 200, 403), ("embed", 403, 200),
                                   ("boss", 200, 200), ("scrape", 403, 403)):  # fmt: skip
        assert ask(keyed, name).status_code == chat, name
        assert ask(keyed, name, "/v1/embeddings").status_code == embeddings, name
        assert ask(keyed, name, "/v1/models").status_code == 200, "any key may look"
    assert code(ask(keyed, "chat", "/v1/embeddings")) == "insufficient_scope"
    assert "has the scope" not in ask(keyed, "chat", "/v1/embeddings").text


def test_wrong_missing_and_expired_keys(keyed: ApiServer):
    for path in (CHAT, "/v1/embeddings", "/v1/models", "/v1/models/weak", "/v1/responses/resp_1", "/v1/no"):
        assert code(ask(keyed, "sk-wrong", path)) == "invalid_api_key", path
        assert code(ask(keyed, "old", path)) == "expired_api_key", path
        assert code(keyed.anonymous.get(path)) == "missing_api_key", path
    for name in (SECRETS["both"] + "x", SECRETS["both"][:-1], SECRETS["both"].upper()):
        assert ask(keyed, name).status_code == 401
    assert keyed.anonymous.post(CHAT, json=BODY, headers={"x-api-key": SECRETS["both"]}).status_code == 401


def test_refused_requests_are_counted_and_reach_no_backend(keyed: ApiServer):
    ask(keyed, "sk-wrong")
    line = 'upshift_requests_total{api="chat_completions",outcome="client_error",strategy="none"} 1.0'
    assert line in ask(keyed, "boss", "/metrics").text
    assert not keyed.weak.seen


def test_requests_per_minute(keyed: ApiServer):
    answers = [ask(keyed, "few") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == [
        "2",
        "1",
        "0",
        "0",
        "0",
    ]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    refused = answers[3]
    assert code(refused) == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert refused.headers["x-should-retry"] == "true"
    assert ask(keyed, "both").status_code == 200, "another key is not concerned"
    assert ask(keyed, "few", "/v1/models").status_code == 200, "looking is free"


def test_tokens_and_dollars(keyed: ApiServer):
    """An answer of the upstream has 11 + 7 tokens and costs 25 millionths of a dollar."""
    first = ask(keyed, "tokens")
    assert first.headers["x-ratelimit-limit-tokens"] == "30"
    assert ask(keyed, "tokens").headers["x-ratelimit-remaining-tokens"] == "12"
    assert code(refused := ask(keyed, "tokens")) == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "tokens"
    assert ask(keyed, "poor").status_code == 200
    assert code(broke := ask(keyed, "poor")) == "insufficient_quota"
    assert broke.status_code == 429
    assert broke.headers["x-should-retry"] == "false"


def test_a_backends_own_limits_are_not_shown_to_a_limited_key(keyed: ApiServer):
    headers = ask(keyed, "few").headers
    assert headers.get_list("x-ratelimit-limit-requests") == ["3"]


def test_a_minute_slides():
    key = ApiKey("k", b"", limits=Limits(requests_per_minute=60))
    start = 6_000_000.0  # the beginning of a minute
    check_limits(key, Used(requests=59), start + 59)
    with pytest.raises(ApiError):
        check_limits(key, Used(requests=60), start + 59)
    with pytest.raises(ApiError) as refused:
        check_limits(key, Used(requests_before=60), start + 60)
    wait_s = int(refused.value.retry_after or 0)
    assert wait_s == 1
    check_limits(key, Used(requests_before=60), start + 60 + wait_s)
    with pytest.raises(ApiError) as refused:
        check_limits(key, Used(requests=60), start + 10)
    later = start + 10 + int(refused.value.retry_after or 0)
    check_limits(key, Used(requests_before=60), later)
    with pytest.raises(ApiError):
        check_limits(key, Used(requests=60), later - 2)
    assert dict(limit_headers(key, Used(), start))[b"x-ratelimit-remaining-requests"] == b"59"


def test_days_and_months_end():
    key = ApiKey("k", b"", limits=Limits(usd_per_day=1.0, usd_per_month=5.0))
    now = datetime(2026, 12, 31, 23, 59, 50, tzinfo=UTC).timestamp()
    for used in (Used(usd_day=1.0), Used(usd_month=5.0)):
        with pytest.raises(ApiError) as refused:
            check_limits(key, used, now)
        assert refused.value.retry_after == "10"
    check_limits(key, Used(usd_day=0.99, usd_month=4.99), now)


def test_windows_turn_over(tmp_path: Path):
    moment = [6_000_000.0]
    meter = LocalMeter(tmp_path, lambda: moment[0])
    key = ApiKey("k", b"", limits=Limits(requests_per_minute=2, usd_per_day=1.0))
    meter.admit_now(key)
    meter.charge(key, 100, 0.6)
    moment[0] += 60
    assert meter.used(key) == Used(0, 1, 0, 100, 0.6, 0.6)
    meter.admit_now(key)
    moment[0] += 120
    assert meter.used(key) == Used(0, 0, 0, 0, 0.6, 0.6)
    moment[0] += 86_400
    assert meter.used(key).usd_day == 0
    meter.charge(key, 1, 0.5)
    assert meter.used(key).usd_day == 0.5
    asyncio.run(meter.close())


def count_up(folder: str, times: int, die: bool) -> None:
    meter = LocalMeter(Path(folder), lambda: 6_000_000.0)
    key = ApiKey("k", b"", limits=Limits(requests_per_minute=10**9))
    for _ in range(times):
        meter.admit_now(key)
        meter.charge(key, 2, 0.25)
    if die:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


def test_processes_count_together_and_a_killed_one_loses_nothing(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=count_up, args=(str(tmp_path), 500, index == 0)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    meter = LocalMeter(tmp_path, lambda: 6_000_000.0)
    used = meter.used(ApiKey("k", b"", limits=Limits(requests_per_minute=1)))
    assert (used.requests, used.tokens, used.usd_day) == (2000, 4000, 500.0)
    asyncio.run(meter.close())


def test_two_meters_of_one_folder_have_rows_of_their_own(tmp_path: Path):
    one, two = LocalMeter(tmp_path), LocalMeter(tmp_path)
    key = ApiKey("k", b"", limits=Limits(requests_per_minute=2))
    one.admit_now(key)
    two.admit_now(key)
    for meter in (one, two):
        with pytest.raises(ApiError):
            meter.admit_now(key)
        asyncio.run(meter.close())


def test_a_folder_that_cannot_be_used(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="usage_dir"):
        LocalMeter(tmp_path / "file")


def test_the_key_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "keys.json"
    verb = ["keys", "create", "--file", str(file), "--team", "a", "--scopes", "chat", "--expires", "90d"]
    assert main([*verb, "--requests-per-minute", "60", "--usd-per-month", "12.5"]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("sk-upshift-")
    assert len(secret) > 50
    assert file.stat().st_mode & 0o077 == 0
    assert secret not in file.read_text()
    (entry,) = read_keys(file)
    assert (entry.team, set(entry.scopes), entry.usd_per_month) == ("a", {"chat"}, 12.5)
    assert entry.expires is not None
    assert timedelta(days=89) < entry.expires - datetime.now(UTC) <= timedelta(days=90)
    assert main(["keys", "list", "--file", str(file)]) == 0
    listed = capsys.readouterr().out
    assert entry.id in listed
    assert "requests_per_minute=60" in listed
    assert secret not in listed
    assert entry.sha256 not in listed
    assert main(["keys", "revoke", "--file", str(file), entry.id]) == 0
    assert read_keys(file) == []
    assert main(["keys", "revoke", "--file", str(file), entry.id]) == 1
    for wrong in (["--scopes", "root"], ["--expires", "soon"], ["--expires", "2030-13-01"]):
        assert main([*verb[:4], *wrong]) == 1
    assert main(["keys", "list"]) == 1
    assert read_keys(file) == []


def test_many_writers_of_one_key_file(tmp_path: Path):
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: create_key(file, team=str(number)), range(24)))
    assert len(read_keys(file)) == 24


def test_a_running_server_follows_the_key_file(tmp_path: Path):
    file = tmp_path / "keys.json"
    with api_server(auth={"keys_file": str(file)}) as api:
        assert api.anonymous.post(CHAT, json=BODY).status_code == 401, "a file without keys lets nobody in"
        _, secret = create_key(file)
        until(lambda: ask(api, secret).status_code == 200)
        file.write_text("{ not json")
        time.sleep(1.2)
        assert ask(api, secret).status_code == 200, "a file that cannot be read changes nothing"
        file.unlink()
        create_key(file)
        until(lambda: ask(api, secret).status_code == 401)


def until(condition: Any, within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_bad_key_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for wrong in (
        {"id": "a"}, {"id": "a", "sha256": "12"}, {"id": "a b", "key_env": "X"},
        {"id": "a", "key_env": "X", "sha256": hash_key("x")}, {"id": "a", "key_env": "X", "scopes": ["all"]},
    ):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011
            AuthSettings(keys=[wrong])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="given twice"):
        AuthSettings.model_validate({"keys": [{"id": "a", "key_env": "X"}] * 2})
    auth = AuthSettings.model_validate({"keys": [{"id": "a", "key_env": "UPSHIFT_NO_SUCH"}]})
    with pytest.raises(SettingsError, match="UPSHIFT_NO_SUCH is not set"):
        open_key_ring(auth)
    monkeypatch.setenv("UPSHIFT_NO_SUCH", "sk-from-env")
    assert open_key_ring(auth).find(b"Bearer sk-from-env").id == "a"
    (tmp_path / "keys.json").write_text('{"keys": [{"id": 7, "sha256": "sk-secret-by-mistake"}]}')
    with pytest.raises(SettingsError) as refused:
        KeyRing([], tmp_path / "keys.json")
    assert "sk-secret-by-mistake" not in str(refused.value)
    with pytest.raises(SettingsError, match="no key"):
        revoke_key(tmp_path / "none.json", "x")


def test_several_keys_by_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPSHIFT_API_KEYS", " sk-a , sk-b,,")
    monkeypatch.setenv("UPSHIFT_ADMIN_KEYS", "sk-root")
    ring = open_key_ring(AuthSettings())
    assert not ring.open
    assert {ring.find(f"Bearer {name}".encode()).id for name in ("sk-a", "sk-b")} == {
        f"env-{hash_key(name)[:8]}" for name in ("sk-a", "sk-b")
    }
    with pytest.raises(ApiError):
        ring.find(b"Bearer sk-a ").require("metrics")
    ring.find(b"bearer  sk-root").require("metrics")
    monkeypatch.delenv("UPSHIFT_API_KEYS")
    assert open_key_ring(AuthSettings()).open, "an admin's key alone closes nothing"


# The operator's paths.


@contextlib.contextmanager
def browser(api: ApiServer, **headers: str):
    with httpx.Client(base_url=api.root, headers=headers) as client:
        yield client


def test_metrics_for_this_machine_or_a_key(keyed: ApiServer):
    assert keyed.anonymous.get("/metrics").status_code == 200, "a program on this machine"
    for headers in (
        {"x-forwarded-for": "203.0.113.7"}, {"forwarded": "for=203.0.113.7"}, {"via": "1.1 edge"},
        {"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": "localhost.evil.example:80"},
    ):  # fmt: skip
        with browser(keyed, **headers) as client:
            answer = client.get("/metrics")
            assert answer.status_code == 401, headers
            assert code(answer) == "missing_api_key"
            assert client.get("/metrics", headers={"authorization": "Bearer sk-metrics"}).status_code == 200
            assert client.get("/metrics", headers={"authorization": "Bearer sk-admin"}).status_code == 200
            assert client.get("/metrics", headers={"authorization": "Bearer sk-both"}).status_code == 403
            assert client.post("/admin/reload").status_code == 401
            assert (
                client.post("/admin/reload", headers={"authorization": "Bearer sk-metrics"}).status_code
                == 403
            )
            for path in ("/healthz", "/readyz"):
                assert client.get(path).status_code == 200
    page = {"origin": "http://127.0.0.1:9", "content-type": "text/plain"}
    assert keyed.anonymous.post("/admin/reload", headers=page).status_code == 401, "a form in a web page"
    answer = keyed.anonymous.post("/admin/reload")
    assert (answer.status_code, code(answer)) == (501, "not_supported"), "in, but nothing to reload here"


def test_secrets_of_keys_are_not_in_memory_as_text(keyed: ApiServer):
    """Only hashes are kept, also of keys that were seen."""
    assert ask(keyed, "both").status_code == 200
    ring = keyed.app.door._keys
    kept = json.dumps([repr(vars(ring))])
    assert not any(secret in kept for secret in SECRETS.values())


async def test_a_reload_forgets_no_use(monkeypatch: pytest.MonkeyPatch):
    tiers = [{"name": name, "url": "http://127.0.0.1:1/v1", "model": name} for name in ("weak", "strong")]
    key = {"id": "few", "sha256": hash_key("sk-few"), "requests_per_minute": 3}
    settings = make_settings(tiers, auth={"keys": [key]})
    async with live_proxy(settings, FixedScorers(1.0)) as proxy:
        proxy.session.headers["authorization"] = "Bearer sk-few"
        assert [(await proxy.ask("weak")).status for _ in range(2)] == [503, 503]
        assert await proxy.live.reload(lambda: settings)
        assert [(await proxy.ask("weak")).status for _ in range(2)] == [503, 429]
        assert not await proxy.live.reload(lambda: settings.model_copy(update={"bundle": Path("/no/such")}))
        assert (await proxy.ask("weak")).status == 429
