"""How often a model is right on drawn tasks, by family. 1,000 tasks take about five seconds on one core."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from demo.generation import Row, Sampling, generate_all
from demo.tasks import Task, is_correct
from demo.tokenizer import render_chat

ANSWER_TOKENS = 40  # the longest right answer has 28


def answer_tasks(
    model: Any, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[Task]
) -> list[tuple[Row, str]]:
    """Greedy answers as (row, text), in the order of `tasks`."""
    texts = [render_chat([{"role": "user", "content": task.prompt}]) for task in tasks]
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = generate_all(model, tokenizer.eos_token_id, prompts, Sampling(max_tokens=ANSWER_TOKENS))
    ids = [[token.id for token in row.tokens] for row in rows]
    return list(zip(rows, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True))


def measure_accuracy(
    model: Any, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[Task]
) -> dict[str, float]:
    """Share of right answers in each family, and over all tasks under the key `all`."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for task, (_, text) in zip(tasks, answer_tasks(model, tokenizer, tasks), strict=True):
        verdict = is_correct(task.group, task.reference, text)
        right[task.group].append(verdict)
        right["all"].append(verdict)
    return {group: sum(verdicts) / len(verdicts) for group, verdicts in sorted(right.items())}
