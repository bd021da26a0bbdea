"""Training examples of the language models: a rendered chat, of which only the answer is learned.

Prompts are mostly random numbers and names, so learning to predict them would cost capacity and teach
nothing. Batches are cut from examples of like length, which keeps padding under a few per cent. Drawing and
tokenising cost about 60 microseconds an example.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerFast

from demo.tasks import Task, iterate
from demo.tokenizer import BOS, END, render_chat

_SYSTEM = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "Be brief and exact.",
    "You are a careful assistant.",
)
Example = tuple[list[int], int]  # token ids of prompt and answer, and how many of them are prompt


class TaskDataset(Dataset[Example]):
    """`count` tasks of the training split as token ids.

    One chat in twelve has a system message and one in twenty an earlier exchange before the question, and one
    in twenty-five is plain text (question, newline, answer), so that neither upsets the model later. `thin`
    names families that are seen less often, with the share of their tasks that is kept, in (0, 1].
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        count: int,
        seed: int,
        thin: Mapping[str, float] | None = None,
    ) -> None:
        rng, shares = random.Random(f"render:{seed}"), thin or {}
        kept = (
            task
            for task in iterate("train", seed)
            if task.group not in shares or rng.random() < shares[task.group]
        )
        tasks = list(itertools.islice(kept, count))
        heads = [_render_prompt(task, rng.choice(tasks), rng) for task in tasks]
        tails = [task.solution + END for task in tasks]
        # Tokenised apart, as at serving time, where the answer's first token follows a finished prompt.
        head_ids = tokenizer(heads, add_special_tokens=False)["input_ids"]
        tail_ids = tokenizer(tails, add_special_tokens=False)["input_ids"]
        self._examples = [(head + tail, len(head)) for head, tail in zip(head_ids, tail_ids, strict=True)]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens in each example."""
        return [len(ids) for ids, _ in self._examples]


def _render_prompt(task: Task, earlier: Task, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.04:
        return f"{BOS}{task.prompt}\n"
    messages = [{"role": "user", "content": task.prompt}]
    if kind < 0.09:
        exchange = [("user", earlier.prompt), ("assistant", earlier.solution)]
        messages = [{"role": role, "content": content} for role, content in exchange] + messages
    elif kind < 0.17:
        messages = [{"role": "system", "content": rng.choice(_SYSTEM)}, *messages]
    return render_chat(messages)


class LengthBatches(Sampler[list[int]]):
    """Batches of examples of like length, in random order; every example once, a short last batch dropped."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed

    def __len__(self) -> int:
        return len(self._lengths) // self._batch_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"batches:{self._seed}")
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        # Sorting inside pools of 16 batches, not over all, keeps families mixed from batch to batch.
        pool = 16 * self._batch_size
        batches = []
        for start in range(0, len(order), pool):
            part = sorted(order[start : start + pool], key=self._lengths.__getitem__)
            batches += [part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)]
        batches = [batch for batch in batches if len(batch) == self._batch_size]
        rng.shuffle(batches)
        yield from batches


def collate(examples: list[Example], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad on the right. Returns input ids (B, T) int64 and targets (B, T) int64.

    `targets[b, t]` is the token after position t where that token belongs to the answer, else -100.
    """
    width = max(len(ids) for ids, _ in examples)
    inputs = torch.full((len(examples), width), pad_id)
    targets = torch.full((len(examples), width), -100)
    for row, (ids, prompt_length) in enumerate(examples):
        tokens = torch.tensor(ids)
        inputs[row, : len(ids)] = tokens
        targets[row, prompt_length - 1 : len(ids) - 1] = tokens[prompt_length:]
    return inputs, targets
