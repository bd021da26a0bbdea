"""The fault matrix: every fault, on weak, on strong, on both; plain and streamed; routed and pinned.

Each cell checks what the client sees, what is counted, how often each backend was asked, how long it took,
and that nothing is left behind. Answers of the two tiers differ, so a mixed answer cannot go unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Any

import pytest

from proxy.settings import Settings
from tests import chaos_faults as faults
from tests.chaos_upstream import ChaosUpstream, Fault, healthy
from tests.proxy.live_proxy import FixedScorers, LiveProxy, Seen, Stopwatch, live_proxy, make_settings

WEAK = "weak answer: größer als 2 €, naïve 猫"
STRONG = "strong answer: ça va, 犬 and ünïcode"
SHORT = {"connect_timeout_s": 0.5, "first_byte_timeout_s": 0.5, "between_bytes_timeout_s": 0.5,
         "request_timeout_s": 1.6}  # fmt: skip
LONG = {"connect_timeout_s": 8.0, "first_byte_timeout_s": 8.0, "between_bytes_timeout_s": 8.0,
        "request_timeout_s": 20.0}  # fmt: skip
SLACK_S = 1.0


@dataclass(frozen=True)
class Case:
    """`plain` and `streamed` are the status a pinned client sees; `event`: 200, then an error event."""

    name: str
    fault: Fault | None
    plain: int | None
    streamed: int | str | None
    url: str = ""  # instead of a fault: an address that fails
    repeated: bool = False  # safe to repeat: the backend is asked twice
    timed: bool = False  # what is tested is a limit, so the limits are short
    pinned_unseen: bool = False  # a pinned stream's bytes are not looked into after their beginning


CASES = [
    Case("refused", None, 503, 503, url="refused", repeated=True),
    Case("dns", None, 503, 503, url="http://no-such-host.invalid/v1", repeated=True),
    Case("tls", healthy, 503, 503, url="tls", repeated=True),
    Case("hang", faults.hang, 504, 504, timed=True),
    Case("close_unanswered", faults.close_unanswered, 502, 502),
    Case("reset_unanswered", faults.reset_unanswered, 502, 502),
    Case("bad_http", faults.bad_http, 502, 502),
    Case("reset_mid_body", faults.reset_mid_body, 502, "event"),
    Case("truncated", faults.truncated, 502, "event"),
    Case("cut_short", faults.cut_short, 502, "event"),
    Case("malformed_json", faults.malformed_json, 502, 502),
    Case("malformed_later", faults.malformed_later, None, "event", pinned_unseen=True),
    Case("wrong_type", faults.wrong_type, 502, 502),
    Case("non_utf8", faults.non_utf8, 502, 502),
    Case("non_utf8_later", faults.non_utf8_later, None, "event", pinned_unseen=True),
    Case("trickle", faults.trickle, 504, "event", timed=True),
    Case("slow_first_token", faults.slow_first_token, 504, 504, timed=True),
    Case("stalls", faults.stalls, 504, "event", timed=True),
    Case("status_500", faults.status(500), 500, 500),
    Case("status_502", faults.status(502), 502, 502),
    Case("status_503", faults.status(503), 503, 503),
    Case("status_503_now", faults.status(503, "retry-after: 0"), 503, 503, repeated=True),
    Case("status_503_later", faults.status(503, "retry-after: 30"), 503, 503),
    Case("status_429", faults.status(429), 429, 429),
    Case("status_429_now", faults.status(429, "retry-after: 0"), 429, 429, repeated=True),
    Case("status_429_later", faults.status(429, "retry-after: 30"), 429, 429),
    Case("status_401", faults.status(401), 401, 401),
    Case("redirect", faults.status(302, "location: http://127.0.0.1:1/"), 502, 502),
    Case("html_error", faults.html_error, 502, 502),
    Case("error_200", faults.error_200, 502, 502),
    Case("error_event", faults.error_event, 502, 502),
    Case("error_event_later", faults.error_event_later, None, "event"),
    Case("gigantic", faults.gigantic, 502, "event"),
    Case("one_huge_event", faults.one_huge_event, 502, 502),
    Case("empty_200", faults.empty_200, 502, 502),
    Case("no_choices", faults.no_choices, 502, 502),
    Case("wrong_shape", faults.wrong_shape, 502, 502),
    Case("missing_done", faults.missing_done, None, 200),
    Case("doubled_done", faults.doubled_done, None, 200),
    Case("split_character", faults.split_character, None, 200),
    Case("no_end", faults.no_end, None, 200),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_fault(case: Case) -> None:
    cells = [
        (where, stream)
        for stream in (False, True)
        if (case.streamed if stream else case.plain) is not None
        for where in ("weak", "strong", "both", "pinned_weak", "pinned_strong")
    ]
    before = asyncio.all_tasks()
    ready = asyncio.Barrier(len(cells))  # building a server takes longer than the limits allow a backend
    results = await asyncio.gather(
        *(run_cell(case, where, stream, ready) for where, stream in cells), return_exceptions=True
    )
    for index, (where, stream) in enumerate(cells):
        if case.timed and isinstance(results[index], AssertionError):
            results[index] = await run_alone(case, where, stream)
    failed = [
        f"{where}, {'stream' if stream else 'plain'}: {type(error).__name__}: {error}"
        for (where, stream), error in zip(cells, results, strict=True)
        if isinstance(error, BaseException)
    ]
    assert not failed, "\n".join(failed)
    await asyncio.sleep(0.02)
    assert asyncio.all_tasks() <= before, "tasks are left behind"


async def run_alone(case: Case, where: str, stream: bool) -> BaseException | None:
    """A limit is measured again, without the others, when the machine itself stood still meanwhile."""
    error: BaseException | None = None
    for _ in range(3):
        async with Stopwatch() as watch:
            try:
                await run_cell(case, where, stream, asyncio.Barrier(1))
            except AssertionError as failed:
                error = failed
            else:
                return None
        if watch.longest_s < 0.1:
            break
    return error


async def run_cell(case: Case, where: str, stream: bool, ready: asyncio.Barrier) -> None:
    pinned = where.startswith("pinned_")
    bad = {"weak": ("weak",), "strong": ("strong",), "both": ("weak", "strong")}.get(where, (where[7:],))
    score = 0.0 if where == "strong" else 1.0
    async with contextlib.AsyncExitStack() as stack:
        upstreams = {
            name: await stack.enter_async_context(ChaosUpstream(f"{name}-model", text))
            for name, text in (("weak", WEAK), ("strong", STRONG))
        }
        urls = {name: upstream.url for name, upstream in upstreams.items()}
        for name in bad:
            upstreams[name].fault = case.fault or healthy
            urls[name] = bad_url(case.url, upstreams[name])
        proxy = await stack.enter_async_context(
            live_proxy(settings_for(urls, case.timed), FixedScorers(score))
        )
        await ready.wait()
        seen = await proxy.ask(where[7:] if pinned else "upshift", stream)
        await proxy.settled()
        total_s = (SHORT if case.timed else LONG)["request_timeout_s"]
        assert seen.seconds < total_s + SLACK_S, f"took {seen.seconds:.2f} s"
        check_seen(case, where, stream, seen, proxy)
        check_attempts(case, bad, upstreams)
        if (case.streamed if stream else case.plain) != 200 and not (case.pinned_unseen and pinned):
            for name in bad:
                assert proxy.count("upshift_backend_requests_total", tier=name, outcome="ok") == 0
                assert proxy.count("upshift_backend_requests_total", tier=name) == 1
        await check_connections(upstreams)


def settings_for(urls: dict[str, str], timed: bool) -> Settings:
    tiers: list[dict[str, Any]] = [
        {"name": name, "url": url, "model": f"{name}-model"} for name, url in urls.items()
    ]
    return make_settings(tiers, server=SHORT if timed else LONG)


def bad_url(url: str, upstream: ChaosUpstream) -> str:
    if url == "tls":
        return upstream.url.replace("http://", "https://")
    if url == "refused":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    return url or upstream.url


def check_seen(case: Case, where: str, stream: bool, seen: Seen, proxy: LiveProxy) -> None:
    expected = case.streamed if stream else case.plain
    outcomes = {name: count for name, count in proxy.outcomes().items() if count}
    assert seen.ended, "the response does not end as HTTP says it must"
    if where == "weak":
        fine = expected == 200
        check_answer(seen, stream, WEAK if fine else STRONG)
        assert seen.headers["x-upshift-decision"] == ("weak" if fine else "escalated")
        assert seen.headers["x-upshift-reason"] == ("adequate" if fine else "weak_failed")
        assert outcomes == {"ok": 1}
    elif expected == 200:
        weak = where in ("both", "pinned_weak")
        check_answer(seen, stream, WEAK if weak else STRONG)
        assert outcomes == {"ok": 1}
    elif where == "strong" and expected != "event":
        check_answer(seen, stream, WEAK)
        assert seen.headers["x-upshift-decision"] == "degraded"
        assert seen.headers["x-upshift-reason"] == "strong_failed"
        assert outcomes == {"degraded": 1}
    elif case.pinned_unseen and where.startswith("pinned_"):
        assert seen.status == 200
    elif expected == "event":
        check_broken_stream(seen, WEAK if where == "pinned_weak" else STRONG, where.startswith("pinned_"))
        timed_out = case.name in ("trickle", "stalls")
        assert outcomes == {"timeout" if timed_out else "upstream_error": 1}
    else:
        check_error(seen, int(expected or 0))
        assert outcomes == {"timeout" if expected == 504 else "upstream_error": 1}
        named = case.name.endswith(("_now", "_later"))
        assert seen.headers.get("x-should-retry") == ("true" if named else "false")
        assert ("retry-after" in seen.headers) == named


def check_answer(seen: Seen, stream: bool, text: str) -> None:
    """One whole answer of one tier, and nothing else."""
    assert seen.status == 200, seen.body
    assert seen.text == text
    if stream:
        assert seen.finished
        assert seen.events[-1] == "[DONE]"
        assert not seen.errors


def check_broken_stream(seen: Seen, text: str, pinned: bool) -> None:
    """Part of one tier's answer, then an error event; nothing that looks like a whole answer.

    A pinned backend's own error event goes on as it came, with a `[DONE]` that came in the same piece.
    """
    assert seen.status == 200
    assert len(seen.errors) == 1, seen.events[-3:]
    assert {"message", "code"} <= seen.errors[0].keys()
    assert not seen.finished
    assert pinned or seen.events[-1] != "[DONE]"
    assert text.startswith(seen.text) or set(seen.text.removeprefix(text[:0])) == {"x"}
    assert seen.text != text


def check_error(seen: Seen, status: int) -> None:
    assert seen.status == status, (seen.status, seen.body[:200])
    assert seen.headers["content-type"] == "application/json"
    assert set(seen.data["error"]) == {"message", "type", "param", "code"}
    assert seen.data["error"]["message"]
    assert "127.0.0.1" not in seen.body.decode()
    assert "10.0.0.7" not in seen.body.decode()


def check_attempts(case: Case, bad: tuple[str, ...], upstreams: dict[str, ChaosUpstream]) -> None:
    for name, upstream in upstreams.items():
        assert upstream.requests <= 2, f"{name} was asked {upstream.requests} times"
        if name in bad and not case.url:
            asked = upstream.requests
            skipped = name == "strong" and len(bad) == 2 and case.streamed == 200
            assert asked == (0 if skipped else 2 if case.repeated else 1), f"{name} was asked {asked} times"


async def check_connections(upstreams: dict[str, ChaosUpstream]) -> None:
    """No backend goes on working for a request that is over."""
    for _ in range(500):
        if not any(upstream.busy for upstream in upstreams.values()):
            return
        await asyncio.sleep(0.01)
    busy = {name: upstream.busy for name, upstream in upstreams.items()}
    raise AssertionError(f"backends still at work: {busy}")
