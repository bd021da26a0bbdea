"""The shipped folders: sizes, accuracy bands, and that what vLLM needs is there."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict

import pytest

from demo.accuracy import answer_tasks, measure_accuracy
from demo.generation import Row, Sampling, generate_all
from demo.manifest import read_prices
from demo.pair import FOLDERS, MODELS
from demo.tasks import FAMILIES, JUDGED, draw_held_out, draw_tasks


@pytest.fixture(scope="module")
def manifest():
    return json.loads((MODELS / "manifest.json").read_text())


def test_files_are_those_of_the_manifest(manifest):
    total = 0
    for name in ("weak", "strong"):
        files = {path.name: path for path in (MODELS / name).iterdir()}
        assert {
            file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in files.items()
        } == manifest["models"][name]["sha256"]
        total += sum(path.stat().st_size for path in files.values())
    assert total < 12_000_000


def test_manifest_holds_the_promised_bands(manifest):
    weak, strong = (manifest["models"][name]["accuracy"] for name in ("weak", "strong"))
    assert set(weak) == {*JUDGED, "all"}
    assert 0.5 <= weak["all"] <= 0.65
    assert strong["all"] >= 0.85
    for family in JUDGED:
        # The aim is 20 to 80 %; two points is one standard error of a family's 200 to 340 prompts.
        assert 0.18 <= weak[family] <= 0.82, family
        assert strong[family] >= weak[family] + 0.1, family


def test_prices_are_proportional_to_parameters(manifest):
    prices = read_prices()
    ratio = prices["demo-phi"] / prices["demo-mistral"]
    assert ratio == pytest.approx(manifest["price_ratio"], rel=1e-3)
    assert 0.2 <= ratio <= 0.3


@pytest.mark.parametrize("name", FOLDERS)
def test_vllm_can_serve_the_folder(name):
    config = json.loads((FOLDERS[name] / "config.json").read_text())
    heads = config["num_attention_heads"]
    assert config.get("head_dim") or config["hidden_size"] // heads in (32, 64, 80)
    assert config["max_position_embeddings"] >= 512
    assert config["architectures"] == [
        {"demo-phi": "PhiForCausalLM", "demo-mistral": "MistralForCausalLM"}[name]
    ]
    assert config["dtype"] == "bfloat16"
    files = {path.name for path in FOLDERS[name].iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files


def test_accuracy_on_fresh_prompts(weak, strong, manifest):
    """400 prompts with a seed of their own: within four standard errors of the manifest."""
    tasks = random.Random(0).sample(draw_held_out(6000, seed=99)["test"], 400)
    for name, loaded in (("weak", weak), ("strong", strong)):
        measured = measure_accuracy(loaded.model, loaded.tokenizer, tasks)["all"]
        told = manifest["models"][name]["accuracy"]["all"]
        assert abs(measured - told) < 4 * (told * (1 - told) / len(tasks)) ** 0.5 + 0.01


def test_the_prompt_alone_does_not_tell_who_is_right(weak):
    """In every family some prompts of either length half are answered and some are not."""
    tasks = draw_tasks("test", 600, seed=5)
    right = defaultdict(list)
    for task, (_, text) in zip(tasks, answer_tasks(weak.model, weak.tokenizer, tasks), strict=True):
        right[task.group].append((len(task.prompt), FAMILIES[task.group].is_correct(task.reference, text)))
    for family, outcomes in right.items():
        outcomes.sort()
        for half in (outcomes[: len(outcomes) // 2], outcomes[len(outcomes) // 2 :]):
            assert 0 < sum(good for _, good in half) < len(half), family


def test_batched_generation_equals_single(strong):
    tasks = draw_tasks("test", 24, seed=7)
    prompts = strong.tokenizer([task.prompt for task in tasks])["input_ids"]
    sampling = Sampling(max_tokens=20)
    eos = strong.tokenizer.eos_token_id
    batched = generate_all(strong.model, eos, prompts, sampling, width=7)
    for prompt, row in zip(prompts, batched, strict=True):
        single: Row = generate_all(strong.model, eos, [prompt], sampling)[0]
        assert [token.id for token in single.tokens] == [token.id for token in row.tokens]
        for one, other in zip(single.tokens, row.tokens, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_generation_agrees_with_transformers(strong):
    import torch

    prompt = strong.tokenizer.encode("What is 17 + 28?\n")
    row = generate_all(strong.model, strong.tokenizer.eos_token_id, [prompt], Sampling(max_tokens=12))[0]
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *(token.id for token in row.tokens)]])
        logprobs = strong.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert logprobs.argmax(-1).tolist() == [token.id for token in row.tokens]
    assert [token.logprob for token in row.tokens] == pytest.approx(logprobs.amax(-1).tolist(), abs=1e-3)
