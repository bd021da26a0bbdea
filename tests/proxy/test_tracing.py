"""Traces as a collector gets them: one parent a request, one child an attempt, the verdict as an event."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proxy.settings import TelemetrySettings
from proxy.tracing import open_tracing
from routing.errors import SettingsError
from routing.tier import Ladder, Tier
from tests.api_server import ApiServer, api_server
from tests.proxy.otlp_collector import Collector, values
from tests.upstream import Upstream

PROMPT = "a prompt that no span may hold"
ROOT = Path(__file__).resolve().parents[2]
CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def api(collector: Collector) -> Iterator[ApiServer]:
    with api_server(telemetry={"traces_url": collector.url, "service_name": "shift"}) as server:
        yield server


def ask(api: ApiServer, model: str = "upshift", **headers: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
    return api.http.post("/v1/chat/completions", json=body, headers=headers)


def sent_parent(backend: Upstream) -> str:
    """The span id in the `traceparent` that a backend got."""
    version, _trace, span, flags = backend.last.headers["traceparent"].split("-")
    assert (version, flags) == ("00", "01")
    return span


def by_kind(spans: list[Span]) -> tuple[list[Span], list[Span]]:
    servers = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    return servers, [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]


def test_an_escalated_request_is_one_parent_and_two_children(api: ApiServer, collector: Collector) -> None:
    api.scorers.score = 0.1
    assert ask(api, traceparent=CALLER, tracestate="vendor=1").headers["x-upshift-decision"] == "escalated"
    (parent,), (first, second) = by_kind(collector.wait_for(3))
    assert collector.services == {"shift"}
    assert {span.trace_id.hex() for span in (parent, first, second)} == {"ab" * 16}
    assert parent.parent_span_id.hex() == "cd" * 8
    assert {first.parent_span_id, second.parent_span_id} == {parent.span_id}
    assert sent_parent(api.weak) == first.span_id.hex()
    assert sent_parent(api.strong) == second.span_id.hex()
    assert api.strong.last.headers["tracestate"] == "vendor=1"
    assert parent.start_time_unix_nano <= first.start_time_unix_nano < first.end_time_unix_nano
    assert first.end_time_unix_nano <= second.end_time_unix_nano <= parent.end_time_unix_nano
    about = values(parent.attributes)
    assert about["http.response.status_code"] == 200
    assert about["upshift.decision"] == "escalated"
    assert about["upshift.reason"] == "inadequate"
    for span, model, served in ((first, "weak-model", False), (second, "strong-model", True)):
        about = values(span.attributes)
        assert span.name == f"chat {model}"
        assert about["gen_ai.operation.name"] == "chat"
        assert about["gen_ai.request.model"] == about["gen_ai.response.model"] == model
        assert about["gen_ai.usage.input_tokens"] == 11
        assert about["gen_ai.usage.output_tokens"] == 7
        assert about["upshift.served"] is served
        assert "error.type" not in about
    (event,) = first.events
    assert event.name == "gen_ai.evaluation.result"
    verdict = values(event.attributes)
    assert verdict["gen_ai.evaluation.name"] == "adequate"
    assert verdict["gen_ai.evaluation.score.value"] == pytest.approx(0.1)
    assert verdict["gen_ai.evaluation.score.label"] == "fail"
    assert not second.events


def test_an_accepted_answer_carries_its_verdict(api: ApiServer, collector: Collector) -> None:
    assert ask(api).headers["x-upshift-decision"] == "weak"
    (parent,), (only,) = by_kind(collector.wait_for(2))
    assert not parent.parent_span_id
    assert values(only.events[0].attributes)["gen_ai.evaluation.score.label"] == "pass"


def test_streams_and_pinned_calls_have_their_spans(api: ApiServer, collector: Collector) -> None:
    body = {"model": "upshift", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    assert api.http.post("/v1/chat/completions", json=body).status_code == 200
    ask(api, "strong")
    api.http.post("/v1/embeddings", json={"model": "strong", "input": PROMPT})
    servers, clients = by_kind(collector.wait_for(6))
    assert len(servers) == len(clients) == 3
    assert "gen_ai.server.time_to_first_token" in values(servers[0].attributes)
    assert [values(span.attributes)["gen_ai.operation.name"] for span in clients] == [
        "chat",
        "chat",
        "embeddings",
    ]
    assert not clients[1].events


def test_errors_are_told_by_type(api: ApiServer, collector: Collector) -> None:
    api.weak.script.status = api.strong.script.status = 500
    assert ask(api).status_code >= 500
    (parent,), clients = by_kind(collector.wait_for(3))
    assert parent.status.code == Status.STATUS_CODE_ERROR
    assert [values(span.attributes)["error.type"] for span in clients] == ["error", "error"]
    assert all(span.status.code == Status.STATUS_CODE_ERROR for span in clients)


def test_the_caller_decides_what_is_sampled(api: ApiServer, collector: Collector) -> None:
    ask(api, traceparent=CALLER[:-2] + "00")
    assert api.weak.last.headers["traceparent"].endswith("-00")
    ask(api, traceparent="00-" + "0" * 32 + "-" + "cd" * 8 + "-01")  # not a trace id: a new trace
    ask(api, traceparent="rubbish")
    spans = collector.wait_for(4)
    assert len(spans) == 4
    assert "ab" * 16 not in {span.trace_id.hex() for span in spans}


def test_no_prompt_answer_or_key_is_ever_exported(api: ApiServer, collector: Collector) -> None:
    ask(api)
    ask(api, "no-such-model-7731")
    collector.wait_for(3)
    sent = b"".join(collector.bodies)
    for secret in (PROMPT, "as far as anyone can tell", "sk-client", "Bearer", "7731"):
        assert secret.encode() not in sent


def test_a_collector_that_is_gone_costs_no_request() -> None:
    with api_server(telemetry={"traces_url": "http://127.0.0.1:9/v1/traces"}) as api:
        assert all(ask(api).status_code == 200 for _ in range(5))


def test_off_by_default_and_then_nothing_is_loaded(own_api: ApiServer) -> None:
    ask(own_api, traceparent=CALLER)
    assert own_api.weak.last.headers["traceparent"] == CALLER  # passed on as it came
    assert own_api.app.gateway.recorder._tracing is None
    code = (
        "import sys, proxy.server; sys.exit('opentelemetry.sdk' in sys.modules)"  # the bare API is FastAPI's
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT).returncode == 0


def test_a_missing_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("opentelemetry.exporter"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    ladder = Ladder([Tier("a", "a"), Tier("b", "b")])
    with pytest.raises(SettingsError, match=r"pip install 'upshift\[otel\]'"):
        open_tracing(TelemetrySettings(traces_url="http://127.0.0.1:4318/v1/traces"), ladder)
