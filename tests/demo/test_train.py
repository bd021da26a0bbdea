from __future__ import annotations

import dataclasses

import pytest
import torch

from demo.architectures import build_strong, build_weak
from demo.dataset import LengthBatches, TaskDataset, collate
from demo.muon import orthogonalise
from demo.pair import load_model
from demo.tasks import find_split
from demo.tokenizer import build_tokenizer
from demo.train import RECIPES, Run, train_one


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("build", [build_weak, build_strong])
def test_a_few_steps_lower_the_loss(tokenizer, build):
    recipe = dataclasses.replace(RECIPES["weak"], build=build, steps=24, batch_size=16, warmup_steps=4)
    losses = list(Run(recipe, tokenizer).train())
    assert len(losses) == 24
    assert sum(losses[-4:]) / 4 < losses[0] - 1


def test_a_resumed_run_ends_where_an_unbroken_one_ends(tokenizer):
    recipe = dataclasses.replace(RECIPES["weak"], steps=6, batch_size=8, warmup_steps=2)
    whole = Run(recipe, tokenizer)
    expected = list(whole.train())
    first = Run(recipe, tokenizer)
    steps = first.train()
    begun = [next(steps) for _ in range(3)]
    second = Run(recipe, tokenizer)
    second.restore(first.state())
    assert begun + list(second.train()) == pytest.approx(expected, abs=1e-5)


def test_a_trained_folder_loads(tokenizer, tmp_path):
    recipe = dataclasses.replace(RECIPES["weak"], steps=2, batch_size=4)
    train_one("weak", tmp_path, recipe, report_every=99)
    loaded = load_model(tmp_path / "weak")
    assert loaded.context_tokens == 1024
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert [path.name for path in tmp_path.iterdir()] == ["weak"]


def test_only_training_prompts_and_answer_tokens_are_learned(tokenizer):
    dataset = TaskDataset(tokenizer, 300, seed=1)
    assert len(dataset) == 300
    examples = [dataset[at] for at in range(8)]
    inputs, targets = collate(examples, tokenizer.pad_token_id)
    assert inputs.shape == targets.shape
    for (ids, prompt_length), row in zip(examples, targets, strict=True):
        assert row[row != -100].tolist() == ids[prompt_length:]
        assert ids[-1] == tokenizer.eos_token_id
    for ids, prompt_length in (dataset[at] for at in range(300)):
        text = tokenizer.decode(ids[:prompt_length])
        prompt = text.rsplit("<|user|>", 1)[-1].removeprefix("<|begin|>").split("<|end|>")[0].rstrip("\n")
        assert find_split(prompt) == "train"


def test_batches_hold_every_example_at_most_once_and_like_lengths():
    lengths = [5 + at % 40 for at in range(1000)]
    batches = list(LengthBatches(lengths, 32, seed=0))
    seen = [at for batch in batches for at in batch]
    assert len(seen) == len(set(seen)) == 31 * 32
    assert len(batches) == len(LengthBatches(lengths, 32, seed=0))
    spans = [max(lengths[at] for at in b) - min(lengths[at] for at in b) for b in batches]
    assert sum(spans) / len(spans) < 8


def test_orthogonalised_updates_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((24, 64), (64, 24)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.4
        assert values.max() < 1.4
