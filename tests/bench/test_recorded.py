"""The recorded-answers server as the OpenAI SDK sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import openai
import pytest

from bench.recorded import READY
from routing.errors import ExamplesError
from scorers.text import prompt_id
from trainer.examples import Example

PROMPT = "How many legs has a spider?"
LONG = "A spider has  eight legs.\n\nAn insect has six of them; \n"
LOGPROBS = [-0.25, -0.5, -1.0, -0.125]

StartRecorded = Callable[..., str]


def example(prompt: str, model: str, response: str | None, **more: object) -> Example:
    return Example(prompt_id(prompt), prompt, model, 1.0, response, **more)  # type: ignore[arg-type]


EXAMPLES = [
    example(PROMPT, "small", "Six."),
    example(PROMPT, "large", LONG),
    example("What is 2 + 2?", "small", "2 + 2 = 4", logprobs=np.array(LOGPROBS), completion_tokens=4),
    example("What is 2 + 2?", "large", None),
    example("Say it.", "other", "It."),
]


@pytest.fixture
def client(start_recorded: StartRecorded) -> Iterator[openai.OpenAI]:
    url = start_recorded(EXAMPLES, ["small", "large"])
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as sdk:
        yield sdk


def ask(client: openai.OpenAI, prompt: str, model: str, **more: object):
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        **more,  # type: ignore[call-overload]
    )


def stats(client: openai.OpenAI) -> dict:
    return httpx.get(str(client.base_url).replace("/v1/", "/__recorded/stats")).json()


def test_plain_answer_is_the_recorded_one_of_the_model_asked(client: openai.OpenAI) -> None:
    large, small = ask(client, PROMPT, "large"), ask(client, PROMPT, "small")
    assert (large.choices[0].message.content, large.model) == (LONG, "large")
    assert (small.choices[0].message.content, small.model) == ("Six.", "small")
    assert large.choices[0].finish_reason == "stop"
    assert large.choices[0].logprobs is None
    assert large.usage.completion_tokens == round(len(LONG) / 4)
    assert large.usage.total_tokens == large.usage.prompt_tokens + large.usage.completion_tokens
    assert [model.id for model in client.models.list()] == ["small", "large"]


def test_white_space_and_parts_find_the_same_prompt(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "  How many\nlegs has a   spider? "}]
    answer = client.chat.completions.create(model="small", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "Six."


def test_stream_comes_word_by_word_and_adds_up(client: openai.OpenAI) -> None:
    chunks = list(ask(client, PROMPT, "large", stream=True, stream_options={"include_usage": True}))
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(pieces) == LONG
    assert len(pieces) == len(LONG.split()) + 1  # and the white space at the end
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == round(len(LONG) / 4)
    assert not chunks[-1].choices


def test_stream_without_usage_ends_with_the_finish_reason(client: openai.OpenAI) -> None:
    chunks = list(ask(client, PROMPT, "small", stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_recorded_logprobs_are_told_plain_and_streamed(client: openai.OpenAI) -> None:
    question = "What is 2 + 2?"
    plain = ask(client, question, "small", logprobs=True)
    content = plain.choices[0].logprobs.content
    assert [token.logprob for token in content] == LOGPROBS
    assert "".join(token.token for token in content) == "2 + 2 = 4"
    assert plain.usage.completion_tokens == 4
    chunks = list(ask(client, question, "small", logprobs=True, stream=True))
    told = [token.logprob for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content]
    assert told == LOGPROBS
    assert ask(client, question, "small").choices[0].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_cuts_and_says_length(client: openai.OpenAI, stream: bool) -> None:
    answer = ask(client, PROMPT, "large", max_tokens=7, stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert answer.usage.completion_tokens == 7
    assert reason == "length"
    assert LONG.startswith(text)
    assert 0 < len(text) < len(LONG)


@pytest.mark.parametrize(
    ("prompt", "model", "param", "code", "words"),
    [
        ("Who are you?", "small", "messages", "prompt_not_recorded", "it is unknown"),
        ("What is 2 + 2?", "large", "messages", "prompt_not_recorded", "gave no answer"),
        ("Say it.", "other", "model", "model_not_found", "small, large"),
    ],
)
def test_what_was_not_recorded_is_a_404_that_says_so(
    client: openai.OpenAI, prompt: str, model: str, param: str, code: str, words: str
) -> None:
    with pytest.raises(openai.NotFoundError, match=words) as caught:
        ask(client, prompt, model)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "small"}, "messages"),
        ({"model": "small", "messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": PROMPT}]}, "model"),
        ({"model": "small", "messages": [{"role": "user", "content": PROMPT}], "n": 2}, "n"),
        (
            {"model": "small", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": "9"},
            "max_tokens",
        ),
    ],
)
def test_a_wrong_field_is_named(client: openai.OpenAI, body: dict, param: str) -> None:
    reply = httpx.post(f"{client.base_url}chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_counters_tell_what_each_model_was_asked(client: openai.OpenAI) -> None:
    ask(client, PROMPT, "small")
    ask(client, PROMPT, "small")
    list(ask(client, PROMPT, "large", stream=True))
    with pytest.raises(openai.NotFoundError):
        ask(client, "Who?", "large")
    with pytest.raises(openai.NotFoundError):
        ask(client, PROMPT, "nobody")
    told = stats(client)
    small, large = told["models"]["small"], told["models"]["large"]
    assert (small["requests"], small["answered"], small["repeated"], small["streamed"]) == (2, 2, 1, 0)
    assert (large["requests"], large["answered"], large["streamed"], large["unknown_prompts"]) == (2, 1, 1, 1)
    assert large["completion_tokens"] == round(len(LONG) / 4)
    assert told["unknown_models"] == 1
    httpx.delete(str(client.base_url).replace("/v1/", "/__recorded/stats"))
    assert stats(client)["models"]["small"]["requests"] == 0


def test_a_stated_rate_is_kept(start_recorded: StartRecorded) -> None:
    url = start_recorded(EXAMPLES, ["large"], tokens_per_s=50.0)
    wanted_s = round(len(LONG) / 4) / 50.0
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        begun = time.perf_counter()
        ask(client, PROMPT, "large")
        plain_s = time.perf_counter() - begun
        begun = time.perf_counter()
        stream = iter(ask(client, PROMPT, "large", stream=True))
        next(stream)
        first_s = time.perf_counter() - begun
        list(stream)
        stream_s = time.perf_counter() - begun
    assert wanted_s <= plain_s < 4 * wanted_s
    assert wanted_s <= stream_s < 4 * wanted_s
    assert first_s < 0.7 * stream_s


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_counted(start_recorded: StartRecorded, stream: bool) -> None:
    url = start_recorded(EXAMPLES, ["large"], tokens_per_s=20.0)
    body = {"model": "large", "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    if stream:
        with httpx.stream("POST", f"{url}/chat/completions", json=body) as reply:
            next(reply.iter_bytes())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/chat/completions", json=body, timeout=0.1)
    deadline = time.monotonic() + 10
    counters: dict = {}
    while time.monotonic() < deadline and not counters.get("cancelled"):
        time.sleep(0.05)
        counters = httpx.get(url.replace("/v1", "/__recorded/stats")).json()["models"]["large"]
    assert (counters["cancelled"], counters["answered"]) == (1, 0)


def test_a_model_without_answers_is_refused() -> None:
    from bench.recorded import create_recorded_app

    with pytest.raises(ExamplesError, match="'nobody'"):
        create_recorded_app(EXAMPLES, ["small", "nobody"])


def test_the_command_serves_a_file_on_a_free_port(tmp_path, repository) -> None:
    table = tmp_path / "table.jsonl"
    rows = [{"prompt": PROMPT, "model": "small", "quality": 0.0, "response": "Six."}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable,
        "-m",
        "bench.recorded",
        "--examples",
        str(table),
        "--model",
        "small",
        "--port",
        "0",
    ]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith(READY)
            with openai.OpenAI(base_url=line.removeprefix(READY).strip(), api_key="none") as client:
                assert ask(client, PROMPT, "small").choices[0].message.content == "Six."
        finally:
            process.terminate()
    failed = subprocess.run(
        [*command[:-3], "nobody"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "'nobody'" in failed.stderr
