"""Reads the prompt before and the answer after a weak attempt, for one request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from proxy.call import Call
from proxy.scoring import Scorers
from routing.errors import ScorerError
from routing.protocols import Answer
from routing.rules import Rule
from routing.signals import Signals
from scorers.checks import Expectation, failed_check
from scorers.text import render_content, render_prompt


def prompt_text(call: Call) -> str:
    """The text of a call's prompt as every scorer sees it."""
    if call.api == "chat":
        return render_prompt(call.messages)
    prompt = call.prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], str):
        return ""  # token ids: nothing a scorer can read
    return render_content(prompt)


def expectation(call: Call) -> Expectation:
    """What the call asks of the form of its answer."""
    form: Any = call.value("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    return Expectation(
        client_limit=call.max_tokens is not None or call.api == "completions",
        json=kind in ("json_object", "json_schema"),
        tools="tools" in call.fields or "functions" in call.fields,
    )


class RequestJudge:
    """`routing.attempt.Judge` for one call. A score later than `timeout_s` (0: no limit) has failed.

    `stages` is given the seconds waited for each kind of score; `failed` is SCORER/REASON of a failure.
    """

    def __init__(
        self, scorers: Scorers, call: Call, timeout_s: float, stages: dict[str, float] | None = None
    ) -> None:
        self._scorers = scorers
        self._stages = stages if stages is not None else {}
        self.failed: str | None = None
        self._timeout_s = timeout_s or None
        self._expect = expectation(call)
        self._several = call.api == "completions" and not isinstance(call.prompt, str)  # prompts in one call
        self.prompt = prompt_text(call)

    @property
    def prefix_tells(self) -> bool:
        """Whether the beginning of a stream can be judged: a JSON answer and a tool call only as a whole."""
        return not self._expect.json and not self._expect.tools and not self._several

    async def read_prompt(self, rule: Rule, signals: Signals) -> None:
        if not rule.needs_prompt_scores:
            return
        async with self._limits("prompt"):
            await self._scorers.read_prompt(self.prompt, signals, "difficulty" in rule.needs_prompt_scores)

    def hard_check(self, answers: Sequence[Answer]) -> str | None:
        for answer in answers:
            failed = failed_check(answer, self._expect)
            if failed is not None:
                return failed
        return None

    async def score_answers(self, answers: Sequence[Answer]) -> float:
        async with self._limits("evaluator"):
            return min(await self._scorers.score_answers(self.prompt, answers))

    @asynccontextmanager
    async def _limits(self, scorer: str) -> AsyncIterator[None]:
        """Time one use of a scorer, end it when it is late, and note how it failed."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            self.failed = f"{scorer}/timeout"
            raise ScorerError(f"no score by {scorer} within {self._timeout_s} s") from error
        except ScorerError:
            self.failed = f"{scorer}/error"
            raise
        finally:
            waited_s = time.perf_counter() - started
            stage = f"{scorer}_score"
            self._stages[stage] = self._stages.get(stage, 0.0) + waited_s
