"""The server's own log: JSON lines with the request's id, and nothing that a client said."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.log_lines import JsonLines, TextLines
from tests.proxy.server_process import server_process, write_config
from tests.upstream import Upstream

SECRETS = ("the secret prompt", "as far as anyone can tell", "sk-very-secret", "x-odd-header")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("workers", [1, 2])
async def test_json_lines_carry_the_request_id_and_nothing_else_of_it(tmp_path: Path, workers: int) -> None:
    config = tmp_path / "upshift.yaml"
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        write_config(
            config, {"weak": weak.url, "strong": strong.url},
            server={"workers": workers}, telemetry={"log_format": "json", "log_requests": "all"},
        )  # fmt: skip
        async with server_process(config) as server, aiohttp.ClientSession() as session:
            await server.until(lambda: server.ready_lines == workers)

            async def ask(identity: str, model: str) -> int:
                headers = {"x-request-id": identity, "authorization": f"Bearer {SECRETS[2]}", SECRETS[3]: "1"}
                body = {"model": model, "messages": [{"role": "user", "content": SECRETS[0]}]}
                async with session.post(
                    server.url + "/v1/chat/completions", json=body, headers=headers
                ) as response:
                    return response.status

            assert await ask("id-1", "upshift") == 200
            assert await ask('id-2"}', "weak") == 200
            assert await ask("id-3", "no-such-model-" + "x" * 50) == 404
            strong.script.status = 500
            assert await ask("id-4", "strong") >= 500
            await server.until(lambda: "id-4" in server.log)
            lines = [json.loads(line) for line in server.log.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message", "process"} <= line.keys()
    told = {line["request_id"]: line for line in lines if "request_id" in line}
    assert set(told) == {"id-1", 'id-2"}', "id-3", "id-4"}
    assert told["id-1"]["decision"] == "strong"
    assert told["id-3"]["error"] == "model_not_found"
    assert told["id-4"]["level"] == "warning"
    assert told["id-4"]["outcome"] == "upstream_error"
    for secret in (*SECRETS, "x" * 50):
        assert secret not in server.log


async def test_only_failed_requests_are_told_by_default(tmp_path: Path) -> None:
    config = tmp_path / "upshift.yaml"
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        write_config(config, {"weak": weak.url, "strong": strong.url})
        async with server_process(config) as server, aiohttp.ClientSession() as session:
            for identity, status in (("fine", 200), ("broken", 500)):
                strong.script.status = status
                body = {"model": "strong", "messages": [{"role": "user", "content": "hello"}]}
                await session.post(
                    server.url + "/v1/chat/completions", json=body, headers={"x-request-id": identity}
                )
            await server.until(lambda: "request_id=broken" in server.log)
            assert "fine" not in server.log


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_a_traceback_is_told_without_its_text(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("the secret prompt")
    except ValueError:
        record = logging.LogRecord("upshift", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    line = formatter.format(record)
    assert "ValueError" in line
    assert "test_log_lines.py" in line
    assert "secret" not in line
