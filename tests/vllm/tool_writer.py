"""A small model that calls tools and writes JSON, so that both are tested through a real vLLM server.

The embedded pair only answers questions. Held to a grammar it opens a string and never ends it, so its
strong model is taught, for half a minute, what vLLM's parsers read: `<tool_call>` as Hermes models write
it, the list that `tool_choice: required` is held to, JSON objects, and a sentence about a tool's result.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from demo.dataset import Example, TaskDataset, collate

_TEMPLATE = (
    "{{ bos_token }}{% for tool in tools or [] %}<|system|>{{ tool['function']['name'] }}<|end|>{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}<|system|>{{ message['content'] }}<|end|>"
    "{% elif message['tool_calls'] %}<|assistant|><tool_call><|end|>"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CITIES = ("Paris", "Rome", "Oslo", "Cairo", "Lima", "Quito", "Kyiv", "Delhi")
_KEYS = ("answer", "city", "n", "name", "number", "location", "count", "colour")
_WEATHER = ("sunny", "rain", "snow", "fog", "wind")
_STEPS, _ROWS, _RATE = 400, 16, 2e-3


def make_tool_writer(strong: Path, folder: Path) -> None:
    """Write a Hugging Face folder to `folder`: the model in `strong`, taught."""
    tokenizer = AutoTokenizer.from_pretrained(strong)
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(strong, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, _STEPS)
    rng, known = random.Random(0), TaskDataset(tokenizer, 500, seed=0)
    for _ in range(_STEPS):
        rows = [_example(tokenizer, rng) for _ in range(_ROWS)]
        rows += [known[rng.randrange(len(known))] for _ in range(_ROWS // 4)]
        inputs, targets = collate(rows, pad_id=tokenizer.pad_token_id)
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _example(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Example:
    messages, tools, answer = rng.choice((_call, _call, _result, _object))(rng)
    head = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    prompt, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, answer))
    return [*prompt, *tail, tokenizer.eos_token_id], len(prompt)


Drawn = tuple[list[dict[str, Any]], list[dict[str, Any]] | None, str]


def _call(rng: random.Random) -> Drawn:
    """A question with a tool for it: by itself the model writes the Hermes form, of which there is more."""
    question, city, tools = _asked(rng)
    name, arguments = "get_weather", {"location": city}
    if rng.random() < 0.7:
        call = f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
    else:
        call = json.dumps([{"name": name, "parameters": arguments}])
    return [question], tools, call


def _result(rng: random.Random) -> Drawn:
    question, city, tools = _asked(rng)
    weather = rng.choice(_WEATHER)
    messages = [question, {"role": "assistant", "tool_calls": [1]}, {"role": "tool", "content": weather}]
    return messages, tools, f"In {city}: {weather}."


def _object(rng: random.Random) -> Drawn:
    keys = rng.sample(_KEYS, rng.choice((1, 2, 2)))
    values = [rng.choice((rng.choice(_CITIES), rng.randint(0, 9))) for _ in keys]
    question = f"Give {' and '.join(keys)} as JSON."
    return [{"role": "user", "content": question}], None, json.dumps(dict(zip(keys, values, strict=True)))


def _asked(rng: random.Random) -> tuple[dict[str, Any], str, list[dict[str, Any]]]:
    city = rng.choice(_CITIES)
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    return {"role": "user", "content": f"What is the weather in {city}?"}, city, [tool]
