"""What a team meets in its first week: other windows, other parameters, other languages, tools, sessions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from proxy.token_counts import TokenCount
from routing.errors import SettingsError
from routing.policy import Policy
from routing.protocols import Answer
from routing.signals import Signals
from routing.tier import Tier
from scorers.familiar import Familiar
from tests.proxy.live_proxy import FixedScorers, LiveProxy, live_proxy, make_settings
from tests.upstream import Upstream

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
FAMILIAR = Familiar.of([f"question {number} about things" for number in range(500)])


@contextlib.asynccontextmanager
async def ladder(
    names: Sequence[str] = ("weak", "strong"),
    scorers: FixedScorers | None = None,
    weak: dict[str, Any] | None = None,
    **routing: Any,
) -> AsyncIterator[tuple[LiveProxy, dict[str, Upstream]]]:
    """A proxy over one scripted backend a tier; `weak` adds to the first tier's settings."""
    with contextlib.ExitStack() as stack:
        backends = {name: stack.enter_context(Upstream(f"{name}-model")) for name in names}
        tiers = [{"name": name, "url": one.url, "model": one.model} for name, one in backends.items()]
        tiers[0] |= weak or {}
        async with live_proxy(make_settings(tiers, routing=routing), scorers or FixedScorers(0.9)) as proxy:
            yield proxy, backends


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def why(proxy: LiveProxy, **fields: Any) -> tuple[str, str]:
    """Tier and reason of one call."""
    seen = await proxy.ask(**fields)
    assert seen.status == 200, seen.body
    return seen.headers["x-upshift-tier"], seen.headers["x-upshift-reason"]


async def test_parameters_are_mapped_for_a_tier_that_refuses_them() -> None:
    mapped = {
        "drop_parameters": ["logit_bias"],
        "rename_parameters": {"max_completion_tokens": "max_tokens", "user": "user_id"},
    }
    async with ladder(weak=mapped) as (proxy, backends):
        fields = {"max_completion_tokens": 50, "logit_bias": {"1": 1}, "user": "u", "seed": 3}
        for model in ("upshift", "weak"):
            assert (await proxy.ask(model, **fields)).status == 200
            body = backends["weak"].last.body
            assert (body["max_tokens"], body["user_id"], body["seed"]) == (50, "u", 3)
            assert not {"max_completion_tokens", "logit_bias", "user"} & set(body)
        await proxy.ask("strong", **fields)
        assert backends["strong"].last.body["max_completion_tokens"] == 50


async def test_a_name_the_client_gave_itself_wins_over_a_renamed_one() -> None:
    async with ladder(weak={"rename_parameters": {"max_completion_tokens": "max_tokens"}}) as (
        proxy,
        backends,
    ):
        await proxy.ask(max_completion_tokens=5, max_tokens=7)
        assert backends["weak"].last.body["max_tokens"] == 7


def test_what_every_backend_needs_cannot_be_mapped_away() -> None:
    tier = {"name": "a", "url": "http://127.0.0.1:1/v1", "model": "m", "drop_parameters": ["messages"]}
    with pytest.raises(SettingsError, match="messages"):
        make_settings([tier, {"name": "b", "url": "http://127.0.0.1:1/v1", "model": "m"}])


async def test_the_tiers_own_tokenizer_counts_the_window(tmp_path) -> None:
    words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    weak = {"tokenizer": str(tmp_path), "context_window_tokens": 40}
    async with ladder(weak=weak) as (proxy, _):
        long_words = " ".join(["internationalisation"] * 30)  # 600 bytes, 30 tokens
        assert await why(proxy, **user(long_words)) == ("weak", "adequate")
        assert await why(proxy, **user(long_words), max_tokens=20) == ("strong", "context_window")
        assert await why(proxy, **user("a " * 41)) == ("strong", "context_window")


def test_a_tokenizer_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"weak.*nowhere"):
        TokenCount(Tier("weak", "m", tokenizer="/nowhere/tokenizer.json"))


def test_the_bound_learns_bytes_per_token_from_what_backends_count() -> None:
    count = TokenCount(Tier("weak", "m"))
    assert count.at_most("x" * 300, 1) == 104
    for number in range(40):
        count.learn(1_000, 500 if number % 4 == 0 else 200)  # a quarter in a script of two bytes a token
    assert count.at_most("x" * 300, 1) == 154
    assert count.about(1_000) == 200


async def test_used_windows_are_learnt_on_live_traffic() -> None:
    async with ladder(weak={"context_window_tokens": 60}) as (proxy, _):
        prompt = "x" * 150  # 50 tokens by the first estimate; the backend counts 11
        assert await why(proxy, **user(prompt), max_tokens=10) == ("strong", "context_window")
        for _ in range(20):
            await proxy.ask(**user("y" * 150))
        assert await why(proxy, **user(prompt), max_tokens=10) == ("weak", "adequate")


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("How are you today?", "weak"),
        ("12 + 30 = ?", "weak"),
        ("Wie weit ist der Weg nach Köln?", "weak"),
        ("Как дела?", "strong"),
        ("请把这句话翻译成英文。", "strong"),
        ("Translate the word 猫 into English, please.", "weak"),
    ],
)
async def test_a_tier_gets_only_the_scripts_of_its_languages(text: str, tier: str) -> None:
    async with ladder(weak={"languages": ["en", "de"]}) as (proxy, _):
        served, reason = await why(proxy, **user(text))
        assert served == tier
        assert reason == ("capability" if tier == "strong" else "adequate")


def test_a_language_nobody_knows_is_refused() -> None:
    tier = {"name": "a", "url": "http://127.0.0.1:1/v1", "model": "m", "languages": ["xx"]}
    with pytest.raises(SettingsError, match="xx"):
        make_settings([tier, {"name": "b", "url": "http://127.0.0.1:1/v1", "model": "m"}])


UNLIKE = {
    "longer": user("question " * 60),
    "another script": user("вопрос 7 о вещах мира"),
    "a system prompt": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "question 7 about things"},
        ]
    },
    "several turns": {
        "messages": [
            {"role": "user", "content": "a plan"},
            {"role": "assistant", "content": "sure"},
            {"role": "user", "content": "yes"},
        ]
    },
    "tools": {**user("question 7 about things"), "tools": TOOLS},
    "a tool's result": {
        "messages": [
            {"role": "user", "content": "question 7"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "7"},
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", list(UNLIKE))
async def test_prompts_unlike_the_fitted_ones_go_to_strong_and_say_so(kind: str) -> None:
    scorers = FixedScorers(0.9)
    scorers.familiar = FAMILIAR
    async with ladder(scorers=scorers) as (proxy, _):
        assert await why(proxy, **user("question 12 about things")) == ("weak", "adequate")
        assert await why(proxy, **UNLIKE[kind]) == ("strong", "out_of_distribution")
        chosen = await why(proxy, model="upshift-evaluator-0.5", **UNLIKE[kind])
        assert chosen == ("weak", "adequate"), "a client that names a strategy gets it"
    settings = {"out_of_distribution": "score", "unseen_tools": "score"}
    async with ladder(scorers=scorers, **settings) as (proxy, _):
        assert await why(proxy, **UNLIKE[kind]) == ("weak", "adequate")


class FarScorers(FixedScorers):
    """The pre-router finds every prompt far from what it knows."""

    async def read_prompt(self, prompt: str, signals: Signals, difficulty: bool = True) -> None:
        signals.route_score, signals.unfamiliar = 0.1, True


@pytest.mark.parametrize(("setting", "tier"), [("strong", "strong"), ("score", "weak")])
async def test_a_far_query_vector_counts_too(setting: str, tier: str) -> None:
    scorers = FarScorers(0.9, "mf")
    async with ladder(scorers=scorers, out_of_distribution=setting) as (proxy, _):
        assert (await why(proxy))[0] == tier
        assert (await why(proxy, model="upshift-mf-0.5"))[0] == "weak"


def talk(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


async def test_a_session_that_needed_strong_stays_there() -> None:
    scorers = FixedScorers(0.1)
    async with ladder(scorers=scorers, sticky_ttl_s=60) as (proxy, _):
        assert await why(proxy, **talk("a plan")) == ("strong", "inadequate")
        scorers.score = 0.9
        assert await why(proxy, **talk("a plan", "sure", "yes")) == ("strong", "sticky")
        assert await why(proxy, **talk("another", "sure", "yes")) == ("weak", "adequate")
        assert await why(proxy, **talk("a plan")) == ("weak", "adequate"), (
            "a new conversation that begins alike"
        )
        assert await why(proxy, **talk("a plan", "sure", "yes"), user="else") == ("weak", "adequate")


async def test_a_session_may_be_named() -> None:
    scorers = FixedScorers(0.1)
    async with ladder(scorers=scorers, sticky_ttl_s=60) as (proxy, _):
        assert await why(proxy, **talk("one"), prompt_cache_key="k") == ("strong", "inadequate")
        scorers.score = 0.9
        assert await why(proxy, **talk("two"), prompt_cache_key="k") == ("strong", "sticky")
        assert await why(proxy, **talk("two"), prompt_cache_key="l") == ("weak", "adequate")


async def test_sessions_are_off_by_default() -> None:
    scorers = FixedScorers(0.1)
    async with ladder(scorers=scorers) as (proxy, _):
        await why(proxy, **talk("a plan"))
        scorers.score = 0.9
        assert await why(proxy, **talk("a plan", "sure", "yes")) == ("weak", "adequate")


class LadderScorers(FixedScorers):
    """Three tiers: P(a later tier should answer) from the prompt, P(adequate) by who wrote the answer."""

    def __init__(self) -> None:
        super().__init__(0.9)
        self.by_text: dict[str, float] = {}
        self.policy = Policy(
            version="three", default="evaluator", thresholds={"evaluator": 0.5, "mf": 0.5}, tiers=3,
            explore_share=0.0,
        )  # fmt: skip

    async def read_prompt(self, prompt: str, signals: Signals, difficulty: bool = True) -> None:
        signals.route_score = 0.5
        signals.tier_scores = {"low": (0.1, 0.1), "mid": (0.9, 0.2), "high": (0.9, 0.8)}[prompt]

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        return [self.by_text[answer.text] for answer in answers]


THREE = ("weak", "middle", "strong")


@pytest.mark.parametrize(("prompt", "tier"), [("low", "weak"), ("mid", "middle"), ("high", "strong")])
async def test_the_pre_router_may_start_at_any_of_three(prompt: str, tier: str) -> None:
    async with ladder(THREE, LadderScorers()) as (proxy, backends):
        seen = await proxy.ask("upshift-mf", **user(prompt))
        assert seen.headers["x-upshift-tier"] == tier
        assert [name for name, one in backends.items() if one.seen] == [tier]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("good", "decision"), [("weak", "weak"), ("middle", "escalated"), ("strong", "escalated")]
)
async def test_the_evaluator_stands_between_any_two_of_three(good: str, decision: str, stream: bool) -> None:
    scorers = LadderScorers()
    async with ladder(THREE, scorers) as (proxy, backends):
        for name, backend in backends.items():
            backend.script.text = f"the {name} answer"
            scorers.by_text[backend.script.text] = 0.9 if name == good else 0.1
        seen = await proxy.ask(**user("low"), stream=stream)
        assert seen.text == f"the {good} answer"
        assert (seen.headers["x-upshift-tier"], seen.headers["x-upshift-decision"]) == (good, decision)
        asked = [name for name, one in backends.items() if one.seen]
        assert asked == list(THREE[: THREE.index(good) + 1])


async def test_a_middle_tier_that_fails_or_may_not_answer_is_passed_over() -> None:
    scorers = LadderScorers()
    async with ladder(THREE, scorers) as (proxy, backends):
        scorers.by_text[backends["weak"].script.text] = 0.1
        backends["middle"].script.status = 500
        assert await why(proxy, **user("low")) == ("strong", "weak_failed")
        assert len(backends["strong"].seen) == 1
