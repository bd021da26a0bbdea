"""The console in a real Chromium before the real server: what a person can do, and what the page must not."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.console.chromium import needs_chromium
from tests.console.conftest import ADMIN_KEY, SAMPLES, ConsoleServer, keep_screenshot
from tests.console.scraping import scraping, until
from tests.proxy.exposition import Exposition

DECISIONS = ("weak", "escalated", "strong", "pinned")
pytestmark = [*needs_chromium, pytest.mark.timeout(120)]


def choose(page: Any, strategy: str, threshold: str) -> None:
    """Open the options and set who decides."""
    page.locator("#options").evaluate("node => { node.open = true; }")
    page.select_option("#strategy", strategy)
    page.fill("#threshold", threshold)


def ask(page: Any, prompt: str) -> str:
    """Ask, and wait for the whole answer; what the page says of it."""
    page.fill("#prompt", prompt)
    page.click("#send")
    page.wait_for_selector("#result[aria-busy=false] .facts")
    return str(page.inner_text("#result"))


def test_the_playground_shows_who_answered_and_why(server: ConsoleServer, page: Any) -> None:
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#tile-saved")  # loopback needs no key for figures
    assert tab.locator("#samples button").all_inner_texts() == SAMPLES
    tab.click("#samples button >> nth=0")
    tab.wait_for_selector("#result[aria-busy=false] .facts")
    assert SAMPLES[0] in tab.inner_text("#result")

    choose(tab, "evaluator", "1")  # nothing is rejected
    told = ask(tab, "kept")
    assert "weak answered: the evaluator found the first model's answer good enough" in told
    assert tab.inner_text("#answer") == "The weak answer."
    assert "18.0\u202fµ$" in told  # 18 tokens at 1 $ a million
    assert "ms" in told or "s" in told

    choose(tab, "evaluator", "0")  # everything is
    told = ask(tab, "shifted")
    assert "shifted up" in told
    assert tab.inner_text("#answer") == "A longer, strong answer."
    assert "0.198\u202fm$" in told  # the rejected answer is paid for: 18 + 180 millionths
    assert "under the line: shifted up" in tab.inner_text("#good-bar")
    line = tab.locator("#good-bar s").evaluate("node => node.style.getPropertyValue('--cut')")
    assert line == "100%"

    choose(tab, "mf", "0")
    told = ask(tab, "straight")
    assert "the question looked hard" in told
    assert "over the line: straight to strong" in tab.inner_text("#hard-bar")
    keep_screenshot(tab, "wide")
    watched.check()


def test_what_the_other_model_would_have_said(server: ConsoleServer, page: Any) -> None:
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#tile-saved")
    choose(tab, "evaluator", "1")
    tab.select_option("#mode", "plain")
    ask(tab, "both")
    before = len(server.strong.seen)
    tab.click("#other-strong")
    tab.wait_for_selector("#answer-strong")
    assert tab.inner_text("#answer-strong") == "A longer, strong answer."
    assert "for 0.180\u202fm$" in tab.inner_text("#result .other")
    assert len(server.strong.seen) == before + 1
    assert server.strong.last.body["model"] == "demo-mistral"
    watched.check()


def test_markup_in_an_answer_stays_text(server: ConsoleServer, page: Any) -> None:
    watched = page()
    text = "<img src=x onerror=alert(1)><script>document.title='taken'</script><b>bold</b>"
    server.weak.script.text = text
    try:
        watched.page.wait_for_selector("#tile-saved")
        choose(watched.page, "evaluator", "1")
        ask(watched.page, text)
    finally:
        server.weak.script.text = "The weak answer."
    assert watched.page.inner_text("#answer") == text
    assert watched.page.locator("#result img, #result script, #result b:not(.bar-head b)").count() == 0
    assert watched.page.title() == "Upshift console"
    watched.check()


def test_live_decisions_arrive_and_can_be_sifted(server: ConsoleServer, page: Any) -> None:
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#live-state:has-text('Live')")
    told = server.ask("a secret prompt", "strong")
    row = tab.wait_for_selector(f"#decisions td[title='{told.headers['x-request-id']}']")
    assert "this model was asked for by name" in row.evaluate("cell => cell.parentNode.innerText")
    assert "a secret prompt" not in tab.content()
    tab.select_option("#filter", "weak")
    assert tab.locator(f"td[title='{told.headers['x-request-id']}']").count() == 0
    tab.select_option("#filter", "")
    tab.fill("#search", told.headers["x-request-id"])
    assert tab.locator("#decisions tbody tr").count() == 1
    tab.click("#pause")
    assert tab.inner_text("#live-state") == "Paused by you"
    watched.check()


def test_moving_the_operating_point(server: ConsoleServer, page: Any) -> None:
    """Trying is the playground's alone; applying needs the admin key, reaches every worker and is logged."""
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#slider")
    assert "never certified" in tab.inner_text("#point")
    before = server.get("/admin/overview").json()["point"]
    tab.focus("#slider")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert "answered by strong" in tab.get_attribute("#slider", "aria-valuetext")
    tab.click("#try-point")
    threshold = float(tab.input_value("#threshold"))
    assert threshold > before["threshold"]
    assert server.get("/admin/overview").json()["point"] == before

    tab.click("#apply-point")
    tab.click("#confirm-yes")
    tab.wait_for_selector("#keys[open]")  # no key yet: a page is no program of this machine
    assert "key is needed" in tab.inner_text("#keys-note")
    assert server.get("/admin/overview").json()["point"] == before
    tab.fill("#admin-key", "wrong")
    tab.keyboard.press("Enter")
    tab.click("#apply-point")
    tab.click("#confirm-yes")
    tab.wait_for_selector("#keys-note:has-text('Incorrect API key')")
    tab.fill("#admin-key", ADMIN_KEY)
    tab.keyboard.press("Enter")
    tab.click("#apply-point")
    tab.click("#confirm-yes")
    tab.wait_for_selector("#point-message:has-text('Done')")
    for _ in range(6):  # whichever worker
        told = server.ask("after the move").json()["upshift"]
        assert told["threshold"] == threshold
    assert f"to={threshold}" in server.process.log.read_text()
    assert ADMIN_KEY not in server.process.log.read_text()
    tab.click("#reset-point")
    tab.wait_for_selector(f"#point-message:has-text('threshold {before['threshold']:.3f}')")
    assert server.ask("and back").json()["upshift"]["threshold"] == before["threshold"]
    assert ADMIN_KEY not in tab.url
    assert tab.evaluate("Object.values(localStorage).length") == 0
    watched.check("401")


def test_without_a_key_it_says_what_it_needs(server: ConsoleServer, page: Any) -> None:
    """As from another machine: the page opens, figures do not, a wrong key is told kindly."""
    watched = page(extra_http_headers={"x-forwarded-for": "10.0.0.1"})
    tab = watched.page
    tab.wait_for_selector("#locked:not([hidden])")
    assert "playground needs an API key alone" in tab.inner_text("#locked")
    assert "need the admin key" in tab.inner_text("#health")
    tab.click("#samples button >> nth=0")  # the API has no keys here: anyone may ask
    tab.wait_for_selector("#result[aria-busy=false] .facts")
    tab.click("#unlock")
    tab.fill("#admin-key", "wrong")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#locked:has-text('Incorrect API key')")
    tab.click("#unlock")
    tab.fill("#admin-key", ADMIN_KEY)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#tile-saved")
    assert tab.is_hidden("#locked")
    tab.wait_for_selector("#slider")
    watched.check("401")


def test_a_narrow_dark_screen(server: ConsoleServer, page: Any) -> None:
    watched = page(viewport={"width": 320, "height": 640}, color_scheme="dark")
    tab = watched.page
    tab.wait_for_selector("#slider")
    tab.wait_for_selector("#decisions tbody tr")
    ask(tab, "W" * 300)
    for size in (320, 480, 768):
        tab.set_viewport_size({"width": size, "height": 640})
        wide = tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= size, f"{wide} px on a screen of {size}"
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in background[4:-1].split(",")) < 60
    tab.click("#theme")
    tab.wait_for_function("getComputedStyle(document.body).backgroundColor !== '" + background + "'")
    tab.set_viewport_size({"width": 320, "height": 640})
    keep_screenshot(tab, "narrow")
    watched.check()


def test_by_keyboard_alone(server: ConsoleServer, page: Any) -> None:
    """Tab to everything, ask by Ctrl+Enter, open and close an explanation: no mouse."""
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#slider")
    visited = []
    for _ in range(60):
        tab.keyboard.press("Tab")
        where = tab.evaluate("document.activeElement.id || document.activeElement.textContent")
        visited.append(where)
        if where == "prompt":
            break
    assert visited[0] == "Skip to the playground"
    assert {"theme", "open-keys", "Saved so far", *SAMPLES, "prompt"} <= set(visited)
    tab.keyboard.type("by keyboard")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector("#result[aria-busy=false] .facts")
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent") == "How hard the question looks":
            break
    tab.keyboard.press("Enter")
    assert tab.is_visible("#term-hard-ask")
    tab.keyboard.press("Escape")
    assert tab.is_hidden("#term-hard-ask")
    for _ in range(80):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.id") == "slider":
            break
    value = tab.input_value("#slider")
    tab.keyboard.press("ArrowLeft")
    assert int(tab.input_value("#slider")) == int(value) - 1
    nameless = tab.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, [role=img]')].filter(node => "
        "!(node.getAttribute('aria-label') || node.labels?.length || node.textContent.trim()))"
        ".map(node => node.outerHTML)"
    )
    assert nameless == []
    watched.check()


def test_the_policy_of_the_page_holds(server: ConsoleServer, page: Any) -> None:
    """Whatever gets into the page can load, run and reach nothing else."""
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#tile-saved")
    broken = tab.evaluate(
        """async () => {
          const broken = [];
          addEventListener('securitypolicyviolation', (event) => broken.push(event.effectiveDirective));
          const script = document.createElement('script');
          try {
            script.textContent = 'window.taken = 1';
            document.body.append(script);
          } catch { broken.push('script'); }
          try { document.body.innerHTML = '<b>x</b>'; } catch { broken.push('innerHTML'); }
          try { await fetch('http://127.0.0.1:9/'); } catch { broken.push('fetch'); }
          setTimeout(() => {  // later, since what DevTools itself evaluates may evaluate
            try { new Function('window.taken = 1')(); } catch { broken.push('eval'); }
          });
          try { document.body.setAttribute('onclick', 'window.taken = 1'); } catch { broken.push('onclick'); }
          document.body.click();
          const image = new Image();
          image.src = 'http://127.0.0.1:9/x.png';
          await new Promise((resolve) => setTimeout(resolve, 100));
          return [broken, window.taken ?? null];
        }"""
    )
    assert {"script", "innerHTML", "onclick", "fetch", "eval", "connect-src", "img-src"} <= set(broken[0])
    assert broken[1] is None


def test_figures_equal_prometheus_and_the_client(server: ConsoleServer, page: Any) -> None:
    """What the page shows, what `/metrics` says on either worker, and what this client counted."""
    start = Exposition(server.get("/metrics").text)
    cost, answers = 0.0, {"weak": 0, "escalated": 0, "strong": 0, "pinned": 0}
    for number in range(16):
        model = ("upshift", "upshift-evaluator-1", "upshift-mf-0", "strong")[number % 4]
        told = server.ask(f"question {number}", model)
        answers[told.headers["x-upshift-decision"]] += 1
        cost += float(told.headers["x-upshift-cost-usd"])
    server.ask("refused", "no-such-model")
    after = Exposition(server.get("/metrics").text)
    assert after.total("upshift_cost_usd_total") - start.total("upshift_cost_usd_total") == pytest.approx(
        cost
    )
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#f-cost")

    def shown(name: str) -> float:
        return float(tab.inner_text(f"#f-{name}").replace(",", ""))

    assert shown("requests") == after.total("upshift_requests_total")
    for name, mine in answers.items():
        total = after.total("upshift_decisions_total", decision=name)
        assert total - start.total("upshift_decisions_total", decision=name) == mine
        assert shown(name) == total
    for name, metric in (("cost", "upshift_cost_usd_total"), ("baseline", "upshift_baseline_cost_usd_total")):
        title = tab.get_attribute(f"#f-{name}", "title")
        assert float(title.split()[0]) == pytest.approx(after.total(metric), abs=1e-9)
    for tier in ("weak", "strong"):
        calls = tab.inner_text(f"#tier-{tier} td[data-label=Calls]")
        assert float(calls) == after.total("upshift_backend_requests_total", tier=tier)
    assert {server.get("/admin/overview").json()["requests"]["ok"] for _ in range(4)} == {
        int(after.total("upshift_requests_total", outcome="ok"))
    }
    watched.check()


def server_count(server: ConsoleServer, name: str) -> float:
    return Exposition(server.get("/metrics").text).total(name)


@pytest.mark.prometheus
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_figures_equal_a_real_prometheus(server: ConsoleServer, page: Any, tmp_path: Path) -> None:
    """One traffic, three who count it: this client, a Prometheus server that scrapes it, and the page."""
    mine: Counter[str] = Counter()
    with scraping(server.origin, tmp_path) as now:
        told = {name: f'sum(upshift_decisions_total{{decision="{name}"}})' for name in DECISIONS}
        cost, paid = "sum(upshift_cost_usd_total)", 0.0
        models = ("upshift-evaluator-1", "upshift-evaluator-0", "upshift-mf-0", "weak")
        for model in models:  # one of each before counting starts: a counter that was never up has no sample
            server.ask("not counted", model)
        until(lambda: now("sum(upshift_requests_total)") == server_count(server, "upshift_requests_total"))
        before, cost_before = {name: now(expression) for name, expression in told.items()}, now(cost)
        for number in range(12):
            answer = server.ask(f"counted {number}", models[number % 4])
            mine[answer.headers["x-upshift-decision"]] += 1
            paid += float(answer.headers["x-upshift-cost-usd"])
        assert set(mine) == set(DECISIONS)
        until(lambda: {name: now(told[name]) - before[name] for name in told} == mine)
        assert now(cost) - cost_before == pytest.approx(paid)
        watched = page()
        tab = watched.page
        tab.wait_for_selector("#f-cost")

        def shown(name: str) -> float:
            return float(tab.inner_text(f"#f-{name}").replace(",", ""))

        assert {name: shown(name) for name in DECISIONS} == {name: now(told[name]) for name in DECISIONS}
        assert shown("requests") == now("sum(upshift_requests_total)")
        baseline = "sum(upshift_baseline_cost_usd_total)"
        for name, expression in (("cost", cost), ("baseline", baseline)):
            exact = float(tab.get_attribute(f"#f-{name}", "title").split()[0])
            assert exact == pytest.approx(now(expression), abs=1e-9)
        for tier in ("weak", "strong"):
            calls = tab.inner_text(f"#tier-{tier} td[data-label=Calls]")
            assert float(calls) == now(f'sum(upshift_backend_requests_total{{tier="{tier}"}})')
        watched.check()


def test_it_rests_while_nobody_looks(server: ConsoleServer, page: Any) -> None:
    watched = page()
    tab = watched.page
    tab.wait_for_selector("#live-state:has-text('Live')")
    tab.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    tab.wait_for_selector("#live-state:has-text('Paused while this tab is hidden')")
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    time.sleep(2.0)
    assert asked == []
    tab.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait_for_selector("#live-state:has-text('Live')")
    watched.check()
